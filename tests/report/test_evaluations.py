"""What a page says of an evaluation: every figure with its interval and n, BASE first, and what was not measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import label_cuts
import pytest
from evaluation_records import evaluation, figure, make_evaluation
from page_records import page_of, text_of
from stored_runs import make_run, revision

import cai
from cai.errors import RunError
from cai.evaluation.arena.figures import Line, Result
from cai.report.measures import amount, change_scale


def line_of(html: str, title: str, model: str) -> list[str]:
    """The cells of the line of a model, in the table under a title."""
    table = html[html.index(f">{title}</h4>") :]
    line = re.search(rf'<tr><th scope="row" class="name">{re.escape(model)}</th>(.*?)</tr>', table, re.DOTALL)
    assert line is not None
    return [text_of(cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", line[1], re.DOTALL)]


def test_every_figure_is_shown_with_its_interval_and_its_difference_to_base(tmp_path: Path) -> None:
    html = page_of(tmp_path, make_evaluation(tmp_path / "evaluation"))
    win = line_of(html, "Win rate", "dpo-harmless")
    assert win == ["", "62.0%", "57.0 to 67.0%", "300", "", "+12.0", "+7.0 to +17.0"]
    tax = line_of(html, "Held-out text, bits", "dpo-harmless")
    assert tax == ["", "0.931", "0.911 to 0.951", "300", "", "+0.018", "+0.014 to +0.022"]
    elo = line_of(html, "Rating, Elo", "dpo-harmless")
    assert elo[1:4] == ["85", "49 to 121", "300"]


def test_base_is_the_first_line(tmp_path: Path) -> None:
    html = page_of(tmp_path, make_evaluation(tmp_path / "evaluation"))
    table = html[html.index(">Over-refusal</h4>") :]
    models = re.findall(r'<th scope="row" class="name">(.*?)</th>', table)[:3]
    assert models == ["base-135m (BASE)", "dpo-harmless", "sft"]


def test_what_is_not_known_is_a_dash_with_a_reason(tmp_path: Path) -> None:
    html = page_of(tmp_path, make_evaluation(tmp_path / "evaluation"))
    assert line_of(html, "Over-refusal", "sft") == ["", "–", "–", "300", "", "–", "–"]
    words = text_of(html)
    assert "sft: no reply can be read" in words
    assert "harm no evaluator of harm was named" in words


def test_what_a_model_cannot_be_measured_in_is_said_once_and_has_no_line(tmp_path: Path) -> None:
    why = "api gives no probabilities of texts"
    unknown = [
        Line(model="api", measure=name, unit="share", figure=figure(None, n=0), note=why) for name in ("sums", "facts")
    ]
    known = Line(model="api", measure="instructions", unit="share", figure=figure(0.5))
    other = Line(model="api", measure="style", unit="share", figure=figure(None, n=0), note="no reply")
    tax = Result(suite="tax", title="Tax", facts=(why,), lines=(*unknown, known, other))
    html = page_of(tmp_path, make_evaluation(tmp_path / "evaluation", results=(tax,)))
    assert html.count(why) == 1 and "Sums" not in html and "Facts" not in html
    assert "Instructions" in html and "Style" in html


def test_the_evaluator_and_the_bounds_are_named(tmp_path: Path) -> None:
    words = text_of(page_of(tmp_path, make_evaluation(tmp_path / "evaluation")))
    assert "it agrees with people in 67.0% (61.0 to 73.0%, n = 256)" in words
    assert "is independent of the labels that the models learnt from: rm was trained on other prompts" in words
    assert "overrefusal of dpo-harmless +3.0" in words and "broken" in words
    assert "about 420 more prompts would decide" in words


def test_an_evaluation_without_figures_or_evaluator_is_a_page(tmp_path: Path) -> None:
    folder = make_evaluation(
        tmp_path / "evaluation", results=(), bounds=(), evaluator=None, stopped="the judge is gone", warnings=()
    )
    assert "this evaluation is not finished: the judge is gone" in text_of(page_of(tmp_path, folder))


def test_the_runs_of_an_evaluation_are_in_its_page(tmp_path: Path) -> None:
    folder = make_evaluation(tmp_path / "evaluation")
    label_cuts.make_run(folder / "labels", [label_cuts.pair(at, z=1.0) for at in range(3)])
    make_run(folder / "best-of/labels/deep", [revision(0)])
    summary = cai.make_report(folder, tmp_path / "report.html")
    assert [section.kind for section in summary.sections] == ["evaluation", "generate run", "label run"]


@pytest.mark.parametrize("name", ["</script><b>", "a|b", "\u202eesab", "long" * 100, "", "{{ 7 * 7 }}"])
def test_names_of_models_may_be_anything(tmp_path: Path, name: str) -> None:
    line = Line(model=name, measure=name or "m", unit="share", figure=figure(0.5), difference=figure(0.0), note=name)
    folder = make_evaluation(tmp_path / "evaluation", results=(Result(suite="s", title=name, lines=(line,)),))
    html = page_of(tmp_path, folder)
    assert html.count("<script") == html.count("</script>") == 2
    assert "\u202e" not in html and "<b>" not in html and ">49<" not in html


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ("{}", "damaged"),
        ('{"schema": 2}', "newer cai"),
        (evaluation().model_dump_json().replace('"n":300', '"n":"many"'), "damaged"),
    ],
)
def test_a_damaged_evaluation_is_one_plain_line(tmp_path: Path, content: str, problem: str) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "evaluation.json").write_text(content)
    with pytest.raises(RunError, match=problem) as error:
        cai.make_report(folder, tmp_path / "report.html")
    assert "\n" not in str(error.value)


def test_the_file_of_an_evaluation_means_its_folder(tmp_path: Path) -> None:
    folder = make_evaluation(tmp_path / "evaluation")
    (section,) = cai.make_report(folder / "evaluation.json", tmp_path / "report.html").sections
    assert section.kind == "evaluation"
    assert json.loads((folder / "evaluation.json").read_text())["seed"] == 0


def test_differences_of_shares_are_in_points_and_others_in_their_unit() -> None:
    assert amount(-0.0312, "share", signed=True) == "−3.1"
    assert amount(-0.0312, "bits", signed=True) == "−0.031"
    assert amount(12.4, "elo", signed=True) == "+12"
    assert amount(0.0312, "share") == "3.1%"
    assert amount(None, "share") == "–"


@pytest.mark.parametrize("values", [[0.0], [0.02, 0.03], [-0.4, 0.1], [1e-9], [-1.0, 1.0], []])
def test_a_scale_of_differences_holds_no_difference(values: list[float]) -> None:
    scale = change_scale(values, "share")
    assert scale.low <= min([0.0, *values]) and max([0.0, *values]) <= scale.high
    assert 0.0 in scale.ticks
