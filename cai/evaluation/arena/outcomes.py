"""The pairs of an evaluation, in which two contestants answer one prompt, and which reply the judge found better."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cai.folder.lines import PAIR_BITS, read_rows
from cai.judge.flows import count_flips, winner
from cai.records import Candidate, Candidates, Contest, Label, Place
from cai.runs.kinds.pairs_of_row import UNPAIRED, later_reply, pair_of_replies, placed
from cai.texts.likeness import identical

Sides = Sequence[Sequence[Candidate]]  # the replies to one prompt by contestant, BASE first


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reply of each of two contestants to a prompt, and which is better.

    won: whether that of `first` is: 1, 0, or 0.5 if the texts are the same or the judge finds neither better; None: its
    votes are invalid, or the pair is not judged. longer: characters by which the reply of `first` is longer.
    """

    prompt: int  # position
    first: int  # number of a contestant, less than `second`
    second: int
    key: str  # of the pair
    a: str  # the reply of `first`
    longer: int
    won: float | None = None
    judged: bool = False  # or the texts are the same
    same: bool = False
    flips: bool = False  # most of its votes prefer the same place in both orders


def contests_of(rows: Iterable[tuple[Candidates, Sides]], each: int) -> Iterator[Place]:
    """The pairs to judge: every two contestants' replies of the same number; each: the most that one has to a prompt.

    The place of a pair is that of its replies, as in a run of `cai label`.
    """
    for row, sides in rows:
        yield from placed(_contests(row, sides, each), row.position)


def _contests(row: Candidates, sides: Sides, each: int) -> Iterator[Contest]:
    for (first, mine), (second, others) in itertools.combinations(enumerate(sides), 2):
        for number, (a, b) in enumerate(zip(mine, others, strict=False)):
            if a.problem is None and b.problem is None:
                numbered = (first * each + number, a.text), (second * each + number, b.text)
                yield pair_of_replies(row.id, row.prompt, *numbered, (a.model, b.model))


def owners_of(position: int, each: int) -> tuple[int, int]:
    """The contestants of the pair at a position."""
    later = later_reply(position)
    earlier = (position & UNPAIRED) - later * (later - 1) // 2
    return earlier // each, later // each


def outcomes_of(contests: Iterable[Place], labels: Mapping[int, Label], each: int) -> list[Outcome]:
    """What became of every pair; labels: by position.

    Two models that say the same to a prompt have one pair with a third, which is judged once and counts for both.
    """
    outcomes = []
    by_key = {label.key: label for label in labels.values()}
    for position, contest in contests:
        assert isinstance(contest, Contest) and contest.a is not None and contest.b is not None
        first, second = owners_of(position, each)
        longer = len(contest.a) - len(contest.b)
        outcome = Outcome(position >> PAIR_BITS, first, second, contest.key, contest.a, longer)
        label = labels.get(position) or by_key.get(contest.key)
        if identical(contest.a, contest.b):
            outcome = replace(outcome, won=0.5, judged=True, same=True)
        elif label is not None:
            flips, count = count_flips(label.votes)
            won = None
            if label.z is not None:
                z = label.z if label.a == contest.a else -label.z
                won = winner(z)
            outcome = replace(outcome, won=won, judged=True, flips=2 * flips > count)
        outcomes.append(outcome)
    return outcomes


def read_labels(path: Path) -> dict[int, Label]:
    """The labels of a run by their position; none if it has not begun."""
    return {label.position: label for label in read_rows(path, Label)}


def by_prompt(outcomes: Iterable[Outcome], contestant: int, other: int) -> dict[int, list[float]]:
    """By prompt, how each reply of a contestant did against that of another; without pairs that have no valid vote."""
    won: dict[int, list[float]] = {}
    for outcome in outcomes:
        if outcome.won is None or {outcome.first, outcome.second} != {contestant, other}:
            continue
        credit = outcome.won if outcome.first == contestant else 1 - outcome.won
        won.setdefault(outcome.prompt, []).append(credit)
    return won
