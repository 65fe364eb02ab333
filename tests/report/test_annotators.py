"""Agreement of people among each other, beside that of a judge with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from terminal import failed

import cai
from cai.report.annotators import read_verdicts


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def facts_of(tmp_path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    (section,) = cai.make_report(write(tmp_path / "gold.jsonl", rows), tmp_path / "report.html").sections
    return section.facts


def rows_of_people(people: dict[str, str], **more: Any) -> list[dict[str, Any]]:
    """A line for each label of each of some people, who label pairs in order."""
    return [
        {"id": f"q{at}", "annotator": person, "human": {"a": "a", "b": "b", "t": "tie"}[label], **more}
        for person, labels in people.items()
        for at, label in enumerate(labels)
    ]


def test_annotators_of_the_same_pairs_are_compared(tmp_path: Path) -> None:
    rows = rows_of_people({"ann": "aabbt", "bob": "aabba", "cem": "aaaat"})
    facts = facts_of(tmp_path, rows)
    assert facts["annotators agree"].startswith("60.0% ") and facts["annotators agree"].endswith("3 people, 5 pairs")
    assert "ann · bob" in (tmp_path / "report.html").read_text()


def test_words_for_a_label_are_one_label() -> None:
    verdicts = read_verdicts(
        enumerate([{"id": 1, "annotator": "x", "human": "A>B"}, {"id": 1, "annotator": "y", "human": "First"}])
    )
    assert list(verdicts.values()) == [{"x": "a", "y": "a"}]


def test_pairs_without_a_name_are_known_by_their_columns() -> None:
    pair = {"prompt": "Q?", "a": "1", "b": "2"}
    rows = [pair | {"annotator": who, "human": "a"} for who in "xy"] + [
        pair | {"prompt": "R?", "annotator": "x", "human": "b"}
    ]
    assert sorted(map(len, read_verdicts(enumerate(rows)).values())) == [1, 2]


def test_a_judge_and_people_are_in_one_page(tmp_path: Path) -> None:
    rows = [row | {"p_a": 0.9} for row in rows_of_people({"ann": "ab" * 30, "bob": "aa" * 30})]
    facts = facts_of(tmp_path, rows)
    assert facts["agreement with people"].startswith("75.0%")
    assert facts["annotators agree"].startswith("50.0%")


def test_one_annotator_agrees_with_nobody(tmp_path: Path) -> None:
    path = write(tmp_path / "gold.jsonl", rows_of_people({"ann": "abab"}))
    assert "gold.jsonl" in failed("report", str(path), "--out", str(tmp_path / "a.html"))


@pytest.mark.parametrize("content", ["", "not json\n", "[1]\n", '{"human": "a"}\n', "\x00\x01"])
def test_a_file_of_something_else_is_one_plain_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(content)
    assert "gold.jsonl" in failed("report", str(path), "--out", str(tmp_path / "a.html"))
