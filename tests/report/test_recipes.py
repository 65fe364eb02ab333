"""What a page says of a recipe: its stages, and the figures of its evaluations over several seeds."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
from evaluation_records import figure, make_evaluation
from page_records import page_of, text_of

from cai.evaluation.arena.figures import Line, Result
from cai.recipes.state import Entry, State
from cai.report.recipes import repeated_figures

T_2 = 4.302652729911275  # Student's t with 2 degrees of freedom, 97.5 %
GAINS = {"harmless": (0.10, 0.14, 0.03), "hhh": (0.01, 0.01, 0.04)}


def make_recipe(folder: Path, seeds: int) -> Path:
    """The folder of a recipe that has evaluated a model for two constitutions and some seeds."""
    folder.mkdir()
    state = State(folder)
    for law, gains in GAINS.items():
        for seed, gain in enumerate(gains[:seeds]):
            job = f"eval.seed={seed}.law={law}"
            model = f"dpo.seed={seed}.law={law}"
            line = Line(
                model=model, measure="win rate", unit="share", figure=figure(0.5 + gain), difference=figure(gain)
            )
            result = Result(suite="preference", title="Preference", lines=(line,))
            make_evaluation(folder / job, results=(result,), bounds=(), contestants=())
            entry = Entry(
                stage="eval", command="evaluate", point={"seed": seed, "law": law}, status="finished", folder=job,
                words=("evaluate",), seconds=60.0, cost_usd=0.5,
            )  # fmt: skip
            state.note(job, entry)
    return folder


def test_figures_of_several_seeds_have_the_interval_of_students_t(tmp_path: Path) -> None:
    folder = make_recipe(tmp_path / "recipe", seeds=3)
    repeated = {each.point: each for each in repeated_figures(folder, State(folder).entries)}
    assert repeated.keys() == {"law harmless", "law hhh"}
    for law, gains in GAINS.items():
        found = repeated[f"law {law}"]
        half = T_2 * stdev(gains) / math.sqrt(3)
        assert found.model == f"dpo.seed=*.law={law}" and found.mean == pytest.approx(fmean(gains))
        assert found.interval == pytest.approx((fmean(gains) - half, fmean(gains) + half))


def test_a_page_begins_with_the_recipe_and_its_stages(tmp_path: Path) -> None:
    html = text_of(page_of(tmp_path, make_recipe(tmp_path / "recipe", seeds=3)))
    assert "6 of 6" in html and "$3.00" in html and "eval.seed=2.law=hhh" in html
    assert "+9.0" in html and "Over seeds" in html


def test_one_seed_gives_no_interval_and_says_so(tmp_path: Path) -> None:
    folder = make_recipe(tmp_path / "recipe", seeds=1)
    assert {each.interval for each in repeated_figures(folder, State(folder).entries)} == {None}
    html = text_of(page_of(tmp_path, folder))
    assert "1 seeds" not in html and "an interval over fewer than 3 seeds says next to nothing" in html


def test_what_is_not_finished_is_left_out(tmp_path: Path) -> None:
    folder = make_recipe(tmp_path / "recipe", seeds=3)
    state = State(folder)
    job = "eval.seed=0.law=hhh"
    state.note(job, state.entries[job].model_copy(update={"status": "running"}))
    counts = {each.point: len(each.values) for each in repeated_figures(folder, State(folder).entries)}
    assert counts == {"law harmless": 3, "law hhh": 2}


def test_seeds_that_are_no_longer_in_the_recipe_are_in_no_interval(tmp_path: Path) -> None:
    folder = make_recipe(tmp_path / "recipe", seeds=3)
    state = State(folder)
    state.order = tuple(job for job in state.entries if "seed=0" not in job)
    state.save()
    html = text_of(page_of(tmp_path, folder))
    assert "4 of 4" in html and "$3.00" in html and html.count("no longer in the recipe") == 2
    assert f"{100 * fmean(GAINS['harmless'][1:]):+.1f}" in html
