"""Whether a reward still means what it did: held-out replies as it rates them, and as a judge does that took no part.

A model that learns from a reward finds what the reward likes and nobody else does (Gao et al. 2023, arXiv 2210.10760).
Held-out prompts are the same at every evaluation, so both numbers of a prompt are compared with those of the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import orjson

from cai.disk.reading import read_object
from cai.disk.writing import write_atomically

FILE = "watch.json"  # the numbers of the first evaluation, in the training's folder
Numbers = Sequence[float | None]


def change(before: Numbers, now: Numbers) -> tuple[float, float] | None:
    """The mean difference of the prompts that both have a number for, and its standard error; None: fewer than two."""
    pairs = zip(before, now, strict=True)
    differences = [later - first for first, later in pairs if first is not None and later is not None]
    if len(differences) < 2:
        return None
    return fmean(differences), stdev(differences) / math.sqrt(len(differences))


class HeldOut:
    """The numbers of one evaluation after the other, by the prompts' order.

    folder: of the training, where the first ones are kept for sessions that resume; writes: whether this process does.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._path, self._writes = folder / FILE, writes
        self._rewards: list[float | None] = []
        self._ratings: list[float | None] = []
        self._first: dict[str, list[float | None]] | None = None

    def add(self, rewards: Numbers, ratings: Numbers) -> None:
        """Take what the rewards give to replies of this evaluation, and what the judge does."""
        self._rewards += rewards
        self._ratings += ratings

    def measures(self, *, first: bool) -> dict[str, float]:
        """What this evaluation, which ends with it, says, by the names that metrics.jsonl has after `eval_`."""
        if not self._ratings:
            return {}
        now = {"reward": self._rewards, "watch": self._ratings}
        self._rewards, self._ratings = [], []
        before = None if first else self._before()
        if before is None:
            before = self._first = now
            self._keep(now)
        known = [number for number in now["watch"] if number is not None]
        measures = {"watch": fmean(known)} if known else {}
        for name, numbers in now.items():
            found = change(before[name], numbers)
            if found is not None:
                measures[f"{name}_change"], measures[f"{name}_error"] = found
        return measures

    def _before(self) -> dict[str, list[float | None]] | None:
        if self._first is None and self._path.exists():
            self._first = read_object(self._path, "delete it: later evaluations are then compared with the next one")
        return self._first

    def _keep(self, now: dict[str, list[float | None]]) -> None:
        if self._writes:
            write_atomically(self._path, orjson.dumps(now))
