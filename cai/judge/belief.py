"""From votes to log odds z, and to the probability that reply a is the better one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cai.constitution.principles import Principle
from cai.judge.letters import log_ratio
from cai.judge.metrics import probability
from cai.records import Protocol, Reading, Vote

CLAMP = 0.6  # uncalibrated beliefs after reasoning lie in [0.4, 0.6] (Bai et al. 2022, section 4.1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge believes of one pair: log odds `z` that a is better; None where no vote is valid."""

    votes: tuple[Vote, ...]
    z: float | None
    rewards: tuple[float, float] | None = None


def _votes(principles: Sequence[Principle], readings: Sequence[Reading], wave: int = 0) -> list[Vote]:
    """Votes from the readings of one wave: first all with a in front, then all with b."""
    votes = []
    for principle, ab, ba in zip(principles, readings, readings[len(principles) :], strict=False):
        d = bias = None
        a_first, b_first = log_ratio(ab), log_ratio(ba)
        if a_first is not None and b_first is not None:
            d, bias = (a_first - b_first) / 2, (a_first + b_first) / 2
        votes.append(Vote(principle=principle.id, weight=principle.weight, wave=wave, ab=ab, ba=ba, d=d, b=bias))
    return votes


def weigh(votes: Iterable[Vote], *, weighted: bool) -> Verdict:
    """The mean preference of the valid votes; weighted by principle where all were asked, else drawing did that."""
    votes = tuple(votes)
    return Verdict(votes, mean_preference(votes, weighted=weighted))


def mean_preference(votes: Iterable[Vote], *, weighted: bool) -> float | None:
    """The mean of d over valid votes; None without any."""
    valid = [(vote.weight if weighted else 1.0, vote.d) for vote in votes if vote.d is not None]
    if not valid:
        return None
    heaviest = max(weight for weight, _ in valid)  # the sum of the largest floats is no number
    total = math.fsum(weight / heaviest for weight, _ in valid)
    return math.fsum(weight / heaviest * d for weight, d in valid) / total


def count_votes(votes: Iterable[Vote]) -> tuple[int, int]:
    """Votes for a, and all, among the principles that were answered in both orders."""
    choices = [
        choice for vote in votes if vote.valid for choice in (vote.ab.choice == "first", vote.ba.choice == "second")
    ]
    return sum(choices), len(choices)


def belief(z: float | None, protocol: Protocol, temperature: float | None) -> float | None:
    """The probability that a is better; None where z is. After reasoning and uncalibrated it lies in [0.4, 0.6]."""
    if z is None:
        return None
    p = probability(z, 1.0 if temperature is None else temperature)
    if protocol == "reason" and temperature is None:
        return CLAMP if p > CLAMP else 1.0 - CLAMP if p < 1.0 - CLAMP else p
    return p


def readability(votes: Iterable[Vote]) -> list[float]:
    """Of every reading its letter mass; of votes in words 1 where a letter was named; 0 where nothing could be read."""
    readings = [reading for vote in votes for reading in (vote.ab, vote.ba)]
    return [float(reading.choice is not None) if reading.mass is None else reading.mass for reading in readings]
