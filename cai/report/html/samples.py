"""Which rows a page shows: some of every group, the same ones each time, and no more than fit in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, zip_longest
from typing import NamedTuple

from cai.records import Values
from cai.report.html.sections import Group, Sample, name

MOST_ROWS = 2_000
MOST_GROUPS = 40  # a page of more is of faults that someone made up


class Strata:
    """Draws rows of each group with equal chances, or those of the greatest weight, while they pass by once.

    most: rows of a group. Holds the places of that many rows for each group, and no row.
    """

    def __init__(self, most: int, seed: int, source: str) -> None:
        self._most = most
        self._key = blake2b(f"{seed}\n{source}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._heaps: dict[str, list[tuple[float, bytes, int]]] = {}
        self._totals: dict[str, int] = {}

    def offer(self, group: str, place: int, weight: float = 0.0) -> None:
        """A row at some place is of a group; weight: rows of the greatest are drawn first, others by chance."""
        group = name(group)
        if group not in self._heaps and len(self._heaps) >= MOST_GROUPS:
            group = "others"
        heap = self._heaps.setdefault(group, [])
        self._totals[group] = self._totals.get(group, 0) + 1
        digest = blake2b(place.to_bytes(8, "big"), digest_size=6, key=self._key).digest()
        entry = weight, digest, place
        if len(heap) < self._most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def sample(self, load: Callable[[frozenset[int]], Iterator[tuple[int, Values]]]) -> Sample | None:
        """The rows drawn, the groups taking turns; None if there was none."""
        if not self._heaps:
            return None
        drawn = [
            [(number, place) for _, _, place in sorted(heap, reverse=True)]
            for number, heap in enumerate(self._heaps.values())
        ]
        turns = [entry for turn in zip_longest(*drawn) for entry in turn if entry is not None]
        return Sample([Group(*total) for total in self._totals.items()], turns[: self._most], load)


class Shown(NamedTuple):
    """The rows of one section that are in the page; counts: of each of its groups."""

    rows: list[bytes]
    counts: list[int]


def fitting(samples: Sequence[Sample], most: int, room: int, encode: Callable[[Values], bytes]) -> list[Shown]:
    """The rows of every sample that fit, as `encode` writes them.

    The samples share `most` rows and `room` bytes: they take turns, so that a small one is whole if a big one is not.
    """
    shares = _shares([len(sample.order) for sample in samples], most)
    turns: list[list[tuple[int, int, int, bytes]]] = []
    for number, (sample, share) in enumerate(zip(samples, shares, strict=True)):
        order = sample.order[:share]
        groups = {place: group for group, place in order}
        lines = {place: encode({**row, "group": groups[place]}) for place, row in sample.load(frozenset(groups))}
        turns.append([(number, group, place, lines[place]) for group, place in order if place in lines])
    taken: list[list[tuple[int, int, bytes]]] = [[] for _ in samples]
    for entry in chain.from_iterable(zip_longest(*turns)):
        if entry is None:
            continue
        number, group, place, line = entry
        if len(line) + 1 <= room:
            room -= len(line) + 1
            taken[number].append((place, group, line))
    return [_shown(sample, rows) for sample, rows in zip(samples, taken, strict=True)]


def _shown(sample: Sample, rows: list[tuple[int, int, bytes]]) -> Shown:
    counts = [0] * len(sample.groups)
    for _, group, _ in rows:
        counts[group] += 1
    return Shown([line for _, _, line in sorted(rows, key=lambda row: row[0])], counts)


def _shares(wanted: Sequence[int], most: int) -> list[int]:
    """How much each gets of `most`: all alike, and what one does not want goes to the others."""
    shares = [0] * len(wanted)
    left = most
    waiting = sorted(range(len(wanted)), key=lambda number: wanted[number])
    for turn, number in enumerate(waiting):
        shares[number] = min(wanted[number], left // (len(waiting) - turn))
        left -= shares[number]
    return shares
