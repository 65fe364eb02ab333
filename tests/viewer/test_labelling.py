"""Votes of people on the pairs of a run: what is asked, what is written, and how far it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import label_runs
import pytest

from cai.judge.gold import random_order
from cai.viewer.labelling import Labelling

PAIRS = [{"id": f"p{n}", "prompt": f"Question {n}?", "a": f"reply {n} one", "b": f"reply {n} two"} for n in range(40)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run of 40 pairs without human labels; no test writes to it."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    label_runs.run(PAIRS, folder, label_runs.scorer())
    return folder


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return tmp_path / "gold.jsonl"


def asked(labelling: Labelling, queue: str = "random") -> Iterator[dict[str, Any]]:
    while (pair := labelling.ask(queue)) is not None:
        yield pair


def lines_of(gold: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gold.read_text().splitlines()]


def test_every_pair_is_asked_about_once_in_the_random_order(labelled: Path, gold: Path) -> None:
    labelling = Labelling(labelled, gold, "ann", seed=3)
    keys = []
    for pair in asked(labelling):
        keys.append(pair["key"])
        labelling.vote(pair["key"], "random", "first", seconds=1.5)
    assert keys == random_order((row["key"] for row in label_runs.rows_of(labelled)), 3)
    assert [line["key"] for line in lines_of(gold)] == keys


@pytest.mark.parametrize("who", ["ann", "bob", "cem"])
def test_a_vote_means_the_same_whatever_side_was_shown_first(labelled: Path, gold: Path, who: str) -> None:
    labelling = Labelling(labelled, gold, who)
    for pair in asked(labelling):
        longest = "first" if pair["first"].endswith("one") else "second"
        labelling.vote(pair["key"], "random", longest)
    lines = lines_of(gold)
    assert {line[line["human"]].endswith("one") for line in lines} == {True}
    assert {line["shown_first"] for line in lines} == {"a", "b"}
