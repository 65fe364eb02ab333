"""Whether a judge can be read: a run asks about few pairs until that is known, and ends if it cannot."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence

from cai.errors import Unreadable
from cai.judge.belief import readability
from cai.judge.flows import CHECKED, LEAST_MASS
from cai.records import Vote


class JudgeCheck:
    """The check of one session. advice: what to do if the judge fails. needed: False lets everyone through."""

    def __init__(self, advice: str, *, needed: bool = True) -> None:
        self._advice = advice
        self._passed = not needed
        self._masses: list[float] = []  # of the letters, for the first pairs
        self._read = 0
        self._permits = asyncio.Semaphore(CHECKED)  # pairs that may be asked about before the check
        self._unreadable: Unreadable | None = None

    async def admitted(self) -> None:
        """Returns when the judge is known to be readable, or this pair is among the first; else raises Unreadable."""
        if self._passed:
            return
        await self._permits.acquire()
        if self._passed or self._unreadable is not None:
            self._permits.release()  # lets the next one know, too
        if self._unreadable is not None:
            raise self._unreadable

    def leave(self) -> None:
        """A pair that was admitted got no verdict: another may, or must see that the run is over."""
        if not self._passed:
            self._permits.release()

    def watch(self, votes: Sequence[Vote]) -> None:
        """Look at the votes of a pair; raises Unreadable if those of the first pairs cannot be read."""
        if self._passed or self._unreadable is not None:
            return
        self._read += 1
        self._masses += readability(votes)
        if self._read < CHECKED:
            return
        median = statistics.median(self._masses)
        self._passed = median >= LEAST_MASS
        self._permits.release()
        if not self._passed:
            self._unreadable = Unreadable(self._problem(votes, median))
            raise self._unreadable

    def _problem(self, votes: Sequence[Vote], median: float) -> str:
        problems = (reading.problem for vote in votes for reading in (vote.ab, vote.ba))
        example = next((f", such as: {problem}" for problem in problems if problem is not None), "")
        evidence = f"median letter mass {median:.2f} of the first {CHECKED} pairs"
        return f"the judge does not answer A or B: {evidence}{example}; {self._advice}"
