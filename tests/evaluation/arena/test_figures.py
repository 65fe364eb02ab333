"""Lines of an evaluation: a figure has an interval, or the note says why it has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_records import evaluation
from evaluations import asking
from steady import Steady

from cai.evaluation.arena.figures import Line, Result, line_of
from cai.evaluation.statistics.estimates import NOTHING, Estimate

KNOWN = Estimate(0.5, 0.4, 0.6, 10, "t")
EQUAL = Estimate(0.5, n=10, reason="all values are equal, so there is no interval")
UNKNOWN = Estimate(None, reason=NOTHING)


def explained(line: Line) -> bool:
    """Whether every number of a line has an interval, or its note says why something is missing."""
    figures = [line.figure, *([] if line.difference is None else [line.difference])]
    return all(figure.low is not None for figure in figures) or bool(line.note)


@pytest.mark.parametrize(
    ("value", "change", "notes", "note"),
    [
        (KNOWN, None, (), ""),
        (KNOWN, KNOWN, ("10 pairs", ""), "10 pairs"),
        (EQUAL, None, (), EQUAL.reason),
        (EQUAL, EQUAL, ("zlib",), f"zlib; {EQUAL.reason}"),
        (KNOWN, EQUAL, (), f"against BASE: {EQUAL.reason}"),
        (KNOWN, EQUAL, ("zlib",), f"zlib; against BASE: {EQUAL.reason}"),
        (KNOWN, UNKNOWN, (), "against BASE: no prompt or item is shared with it"),
        (UNKNOWN, UNKNOWN, (), NOTHING),
        (UNKNOWN, None, ("0 pairs",), "0 pairs"),
        (Estimate(None, reason="no overlap"), None, ("longer",), "longer; no overlap"),
    ],
)
def test_the_note_of_a_line_says_why_something_is_not_known(
    value: Estimate, change: Estimate | None, notes: tuple[str, ...], note: str
) -> None:
    assert line_of("m", "measure", "share", value, change, *notes).note == note


@pytest.mark.parametrize(
    "texts",
    [
        ["One, then?"],
        ["One, then?", "Two, then?"],
        [f"Question {number} [same]" for number in range(4)],
        [f"Question {number} [declines]" for number in range(4)],
        [f"Question {number} [empty]" for number in range(2)],
        [f"Question {number} [truncated]" for number in range(4)],
        [f"Question {number} [sometimes empty]" for number in range(4)],
        [f"Question {number} [unreadable judge]" for number in range(4)],
    ],
    ids=lambda texts: f"{len(texts)} of {texts[0]}",
)
def test_every_figure_has_an_interval_or_a_reason(
    server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, texts: list[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    suites = "preference,scale,refusals,harm,degeneration"
    if len(texts) == 1:
        suites = "preference,scale,tax,degeneration"  # a contrast set needs prompts of both sides
    settings = {"suite": suites, "scale": "hhh", "length_control": True, "limit": len(texts)}
    made = asking(server, tmp_path, texts)("openai:one", "openai:two", **settings)
    lines = [line for result in made.results for line in result.lines]
    assert lines and [line for line in lines if not explained(line)] == []
    assert not any(line.note.count(NOTHING) > 1 for line in lines)
    text = "\n".join(made.lines())
    assert f"{NOTHING}: {NOTHING}" not in text and "1 prompts" not in text


def test_a_difference_between_two_models_is_printed_in_points_with_its_sign() -> None:
    less = line_of("two", "win rate less that of one", "share", Estimate(0.133, -0.116, 0.366, 30))
    plain = line_of("two", "win rate", "share", KNOWN)
    text = "\n".join(evaluation(results=(Result(suite="preference", title="t", lines=(plain, less)),)).lines())
    assert "+13.3 (-11.6 to +36.6) pp" in text and "50.0% (40.0% to 60.0%)" in text
