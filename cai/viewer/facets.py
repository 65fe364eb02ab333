"""By what entries are told apart in a list: which values each has, in groups, and how many have each."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from cai.judge.flows import count_flips, winner
from cai.judge.people import TRUTHS
from cai.records import Candidates, Drop, Label, Rating, Record, Revision
from cai.report.html.sections import name
from cai.report.labels import is_flipped
from cai.training.report.samples import Sample

GROUPS = ("status", "reason", "principle", "person", "flips", "length")
MOST_VALUES = 40  # of a group, as they come from data: each is a bit of an integer of SQLite
OTHERS = "others"
KEPT, LEFT_OUT, DROPPED, UNREADABLE = "kept", "left out of a file", "dropped", "not readable"
NO_PERSON = "none"
STEADY = "does not flip"
LENGTHS = (100, 300, 1_000, 3_000, 10_000)  # characters
LENGTH_NAMES = ("under 100", "100 to 299", "300 to 999", "1,000 to 2,999", "3,000 to 9,999", "10,000 and more")
SCALES = {"status": (KEPT, LEFT_OUT, DROPPED, UNREADABLE), "length": LENGTH_NAMES}

Facet = tuple[str, str]  # a group and a value


def facets_of(record: Record) -> Iterator[Facet]:
    """The values of a record in the groups that its kind has."""
    read = FACETS.get(type(record))
    if read is not None:
        yield from read(record)


def _of_revision(row: Revision) -> Iterator[Facet]:
    for each in row.rounds:
        yield "principle", each.principle
    yield _length(row.final)


def _of_candidates(row: Candidates) -> Iterator[Facet]:
    yield _length(*(reply.text for reply in row.replies))


def _of_label(row: Label) -> Iterator[Facet]:
    for vote in row.votes:
        yield "principle", vote.principle
    yield "person", person(row)
    if row.votes:
        yield "flips", flips(row)
    yield _length(row.a, row.b)


def _of_rating(row: Rating) -> Iterator[Facet]:
    yield "principle", row.asked
    yield _length(row.reply)


def _of_sample(row: Sample) -> Iterator[Facet]:
    yield _length(row.before if row.after is None else row.after)


def _of_drop(drop: Drop) -> Iterator[Facet]:
    yield "reason", f"dropped: {drop.reason}"


FACETS: dict[type[Record], Callable[[Any], Iterator[Facet]]] = {
    Revision: _of_revision,
    Candidates: _of_candidates,
    Label: _of_label,
    Rating: _of_rating,
    Sample: _of_sample,
    Drop: _of_drop,
}


def person(row: Label) -> str:
    """What a person's verdict makes of the judge's."""
    if row.human is None:
        return NO_PERSON
    if row.human == "tie":
        return "tie"
    choice = None if row.z is None else winner(row.z)
    if choice is None or choice == TRUTHS["tie"]:
        return "the judge does not choose"
    return "agrees" if choice == TRUTHS[row.human] else "disagrees"


def flips(row: Label) -> str:
    """Whether most valid votes choose the same place in both orders."""
    _, valid = count_flips(row.votes)
    if not valid:
        return "no valid vote"
    return "flips with the order" if is_flipped(row) else STEADY


def _length(*texts: str) -> Facet:
    """Of the longest text."""
    return "length", LENGTH_NAMES[bisect(LENGTHS, max(map(len, texts), default=0))]


class Facets:
    """The values that the entries of a source have; those of a group are an integer of bits, one a value.

    The first values of a group have names, as data may have any number; all further ones are `OTHERS`.
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {group: list(SCALES.get(group, ())) for group in GROUPS}
        self._counts: dict[str, Counter[int]] = {group: Counter() for group in GROUPS}  # by bit
        self._bit = lru_cache(maxsize=1_000)(self._make_bit)

    def bits(self, facets: Iterable[Facet]) -> list[int]:
        """The integer of each group."""
        every = dict.fromkeys(GROUPS, 0)
        for group, value in facets:
            every[group] |= self._bit(group, value)
        return list(every.values())

    def _make_bit(self, group: str, value: str) -> int:
        names = self._names[group]
        value = name(value)
        if value not in names and len(names) >= MOST_VALUES:
            value = OTHERS
        if value not in names:
            names.append(value)
        return 1 << names.index(value)

    def bit(self, group: str, value: str) -> int:
        """The bit of a value; 0 for one that no entry has had."""
        names = self._names.get(group, [])
        return 1 << names.index(value) if value in names else 0

    def values(self, bits: Iterable[int]) -> dict[str, list[str]]:
        """The values by group, without groups that have none."""
        every = {}
        for (group, names), integer in zip(self._names.items(), bits, strict=True):
            if integer:
                every[group] = sorted(value for place, value in enumerate(names) if integer >> place & 1)
        return every

    def count(self, bits: Iterable[int], step: int = 1) -> None:
        """An entry has come, or with step -1 gone."""
        for counts, integer in zip(self._counts.values(), bits, strict=True):
            while integer:
                lowest = integer & -integer
                counts[lowest] += step
                integer ^= lowest

    def counts(self) -> dict[str, dict[str, int]]:
        """How many entries have each value, without values that none has; the commonest first if there is no scale."""
        every = {}
        for group, names in self._names.items():
            counts = {value: self.total(group, value) for value in names}
            if group not in SCALES:
                counts = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            every[group] = {value: number for value, number in counts.items() if number}
        return {group: counts for group, counts in every.items() if counts}

    def total(self, group: str, value: str) -> int:
        """How many entries have a value."""
        bit = self.bit(group, value)
        return self._counts[group][bit] if bit else 0

    def keep_all(self) -> tuple[int, int]:
        """Count the rows that were left out as kept; the bits of both."""
        kept, left_out = (self.bit("status", status) for status in (KEPT, LEFT_OUT))
        statuses = self._counts["status"]
        statuses[kept] += statuses.pop(left_out, 0)
        self._counts["reason"].clear()
        return kept, left_out
