"""Whether a judge can be read at all: what the answers to the first pairs of a session show."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Iterable, Sequence

from cai.engine.letters import LEAST_MASS
from cai.errors import Unreadable
from cai.records import Protocol, Vote

CHECKED = 20  # pairs after which a run looks whether the judge can be read at all


class JudgeCheck:
    """Whether a judge can be read: a session asks about few pairs until that is known, and ends if it cannot.

    advice: what to do if the judge fails. needed: False lets every pair through. wanted: what it should answer. unit:
    what is counted; the checks are the same for ratings of one reply. each: how many units are seen at once.
    """

    def __init__(
        self, advice: str, *, needed: bool = True, wanted: str = "A or B", unit: str = "pairs", each: int = 1
    ) -> None:
        self._advice, self._wanted, self._unit = advice, wanted, unit
        self._passed = not needed
        self._masses: list[float] = []  # of the letters, for the first pairs
        self._read = 0
        self._permits = asyncio.Semaphore(math.ceil(CHECKED / each))  # pairs that may be asked about before the check
        self._admitted: set[int] = set()  # their positions
        self._unreadable: Unreadable | None = None

    @property
    def first(self) -> int:
        """How many pairs are asked about before the others; 0 if that does not matter."""
        return 0 if self._passed else CHECKED

    async def admitted(self, position: int) -> None:
        """Returns when the judge is known to be readable, or this pair is among the first; else raises Unreadable."""
        if self._passed or position in self._admitted:  # which may be played again after a wait
            return
        await self._permits.acquire()
        if self._passed or self._unreadable is not None:
            self._permits.release()  # lets the next one know, too
        if self._unreadable is not None:
            raise self._unreadable
        self._admitted.add(position)

    def leave(self, position: int) -> None:
        """A pair that was admitted got no verdict: another may, or must see that the run is over."""
        self._admitted.discard(position)
        if not self._passed:
            self._permits.release()

    def watch(self, votes: Sequence[Vote]) -> None:
        """Look at the votes of a pair; raises Unreadable if those of the first pairs cannot be read."""
        if self._passed:
            return
        problems = (reading.problem for vote in votes for reading in (vote.ab, vote.ba))
        self.see(readability(votes), next(filter(None, problems), None))

    def see(self, masses: Sequence[float], problem: str | None) -> None:
        """Look at the letter masses of one pair; problem: why one of its answers does not count."""
        if self._passed or self._unreadable is not None:
            return
        self._read += 1
        self._masses += masses
        if self._read < CHECKED:
            return
        median = statistics.median(self._masses)
        self._passed = median >= LEAST_MASS
        self._permits.release()
        if not self._passed:
            example = "" if problem is None else f", such as: {problem}"
            evidence = f"median letter mass {median:.2f} of the first {CHECKED} {self._unit}{example}"
            self._unreadable = Unreadable(f"the judge does not answer {self._wanted}: {evidence}; {self._advice}")
            raise self._unreadable


def readability(votes: Iterable[Vote]) -> list[float]:
    """The letter mass of every reading; 1 if it is not known and the reading counts, as of a vote; else 0."""
    masses = []
    for vote in votes:
        for reading in (vote.ab, vote.ba):
            masses.append(float(reading.problem is None) if reading.mass is None else reading.mass)
    return masses


def advice(protocol: Protocol, words: str, look: str = "") -> str:
    """What to do about a judge that cannot be read when it is asked so.

    words: the templates of its question. look: how its answers can be seen, as the start of a sentence.
    """
    if protocol == "decide":
        return f"{look}use --protocol logprob or vote"
    if protocol == "vote":
        return f"word {words} for it, or, if it thinks first, give it more --max-tokens"
    return f"switch its thinking off (--extra-body), use --protocol vote, or word {words} for it"
