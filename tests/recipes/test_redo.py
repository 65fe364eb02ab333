"""--redo makes a stage and what follows from it anew, in new folders, and pays once for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from recipe_runs import PROMPTS, RECIPE, Bench
from recipes.conftest import known

from cai.errors import CaiError
from cai.recipes.play import CommandFailed, Playing, Wishes
from cai.recipes.reading import read_recipe
from cai.records import Values

PRICED = RECIPE.replace("concurrency: 4", "concurrency: 4, price: '1000,1000'").replace(
    "principles: 1", "principles: 1, price: '1000,1000'"
)


def playing(bench: Bench, **wishes: object) -> Playing:
    return Playing(read_recipe(bench.path, known()), bench.folder / "out", Wishes(**wishes))  # type: ignore[arg-type]


def interrupt(bench: Bench, stage: str, **wishes: object) -> None:
    """Play until a command of that name has ended, and be interrupted then."""

    def run(words: Sequence[str]) -> Values:
        values = bench.run(words)
        if words[0] == stage:
            raise KeyboardInterrupt
        return values

    with pytest.raises(KeyboardInterrupt):
        playing(bench, **wishes).play(run, lambda line: None)


def test_the_same_redo_goes_on_after_ctrl_c(bench: Bench) -> None:
    bench.play()
    bench.calls()
    interrupt(bench, "sample", redo=("draws",))
    assert bench.calls() == 2 * len(PROMPTS)
    interrupt(bench, "label", redo=("draws",))
    assert bench.calls() == 2 * len(PROMPTS)
    assert bench.play(redo=("draws",)).ran == ["labels"] and bench.calls() == 0
    assert sorted(path.name for path in (bench.folder / "out").glob("draws*")) == ["draws", "draws-2"]
    assert bench.play(redo=("draws",)).ran == ["draws", "labels"], "it had come to its end"


@pytest.mark.slow
def test_a_redo_that_has_begun_is_begun_again_if_the_recipe_says_something_else(bench: Bench) -> None:
    bench.play()
    interrupt(bench, "sample", redo=("draws",))
    bench.write(RECIPE.replace("n: 2", "n: 3"))
    assert bench.play(redo=("draws",)).ran == ["draws", "labels"]
    assert (bench.folder / "out" / "draws-3").is_dir()


@pytest.mark.slow
def test_a_redo_of_what_was_edited_meanwhile_is_begun_again(bench: Bench) -> None:
    bench.play()
    interrupt(bench, "label", redo=("draws",))
    (bench.folder / "out" / "draws-2" / "candidates.jsonl").write_bytes(b"")
    assert bench.play(redo=("draws",)).ran == ["draws", "labels"]


def test_after_a_gate_that_does_not_hold_a_stage_can_be_made_anew_again(bench: Bench) -> None:
    bench.write(RECIPE.replace(">=6", ">=7"))
    for number in (2, 3):
        with pytest.raises(CaiError, match="rows is 6"):
            bench.play(redo=("draft",))
        assert (bench.folder / "out" / "draft-2").exists() == (number == 3)


@pytest.mark.slow
def test_the_cap_counts_what_the_folders_before_a_redo_have_cost(bench: Bench) -> None:
    bench.write(PRICED)
    first = bench.play(until="draws").summary()["cost_usd"]
    assert first > 0
    again = bench.play(until="draws", redo=("draws",)).summary()["cost_usd"]
    assert again == pytest.approx(2 * first)
    with pytest.raises(CommandFailed, match="max-cost"):
        bench.play(until="draws", redo=("draws",), max_cost=again + 0.001)
    words = next(words for words in bench.words if words[0] == "sample")
    assert float(words[words.index("--max-cost") + 1]) == pytest.approx(0.001)


def test_the_folder_of_a_redo_is_that_of_no_other_stage(bench: Bench) -> None:
    stages = """
  draws-2: {sample: {prompts: prompts.jsonl, model: $model, n: 2, limit: 2, concurrency: 4}}
  draws-3: {sample: {prompts: prompts.jsonl, model: $model, n: 2, limit: 1, concurrency: 4}}
"""
    bench.write(RECIPE.rstrip() + stages)
    bench.play(only=("draws",))
    bench.play(only=("draws",), redo=("draws",))
    bench.play(only=("draws-2", "draws-3"))
    rows = {
        path.parent.name: path.read_bytes().count(b"\n")
        for path in (bench.folder / "out").glob("draws*/candidates.jsonl")
    }
    assert rows == {"draws": 6, "draws-4": 6, "draws-2": 2, "draws-3": 1}


def test_a_stage_with_the_name_of_such_a_folder_gets_another_one(bench: Bench) -> None:
    bench.play(until="draws")
    bench.play(until="draws", redo=("draws",))
    bench.write(
        RECIPE + "  draws-2: {sample: {prompts: prompts.jsonl, model: $model, n: 2, limit: 1, concurrency: 4}}\n"
    )
    played = bench.play(only=("draws-2",))
    assert played.ran == ["draws-2"] and played.folder("draws-2").name == "draws-2-2"


def test_a_plan_and_the_commands_show_the_new_folders(bench: Bench) -> None:
    bench.play(until="draws")
    shown = playing(bench, redo=("draws",))
    [words] = shown.commands(next(job for job in shown.jobs if job.name == "draws"))
    assert words[-1].endswith("draws-2") and not (bench.folder / "out" / "draws-2").exists()
    assert bench.play(until="draws").ran == []
