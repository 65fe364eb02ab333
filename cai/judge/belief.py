"""From votes to log odds z, and to the probability that reply a is the better one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cai.constitution.principles import Principle
from cai.records import Protocol, Reading, Vote

CLAMP = 0.6  # uncalibrated beliefs after reasoning lie in [0.4, 0.6] (Bai et al. 2022, section 4.1)
FURTHEST = 53 * math.log(2)  # log odds of 1 - 2**-53, about 36.7: the float next to 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge believes of one pair: log odds `z` that a is better; None if no vote is valid."""

    votes: tuple[Vote, ...]
    z: float | None
    rewards: tuple[float, float] | None = None


def votes_of(principles: Sequence[Principle], readings: Sequence[Reading], wave: int = 0) -> tuple[Vote, ...]:
    """Votes from the readings of one wave: first all with a in front, then all with b."""
    votes = []
    for principle, ab, ba in zip(principles, readings, readings[len(principles) :], strict=False):
        d = bias = None
        a_first = log_ratio(ab)
        b_first = log_ratio(ba)
        if a_first is not None and b_first is not None:
            d = (a_first - b_first) / 2
            bias = (a_first + b_first) / 2
        votes.append(Vote(principle=principle.id, weight=principle.weight, wave=wave, ab=ab, ba=ba, d=d, b=bias))
    return tuple(votes)


def log_ratio(reading: Reading) -> float | None:
    """How much likelier the first letter is than the second, in nats; None if the reading does not count."""
    if reading.problem is not None or reading.first is None or reading.second is None:
        return None
    return reading.first - reading.second


def mean_preference(votes: Iterable[Vote], *, weighted: bool) -> float | None:
    """The mean of d over valid votes; None without any.

    weighted: count each vote by its principle's weight. False for principles drawn by weight, which has counted it.
    """
    valid = [(vote.weight, vote.d) for vote in votes if vote.d is not None]
    if not valid:
        return None
    if not weighted:
        return math.fsum(d for _, d in valid) / len(valid)
    heaviest = max(weight for weight, _ in valid)  # the sum of the largest floats is infinite
    total = math.fsum(weight / heaviest for weight, _ in valid)
    return math.fsum(weight / heaviest * d for weight, d in valid) / total


def odds_of_votes(votes: Iterable[Vote]) -> float | None:
    """Log odds that a is better from votes in words; None if none is valid.

    With x of n valid votes for a, `p = (x + 1/2)/(n + 1)`: the mean under Jeffreys' prior.
    """
    for_a, count = count_votes(votes)
    if not count:
        return None
    return math.log(for_a + 0.5) - math.log(count - for_a + 0.5)


def count_votes(votes: Iterable[Vote]) -> tuple[int, int]:
    """Votes for a, and all votes, among the principles that were answered in both orders."""
    valid = [vote for vote in votes if vote.valid]
    for_a = sum((vote.ab.choice == "first") + (vote.ba.choice == "second") for vote in valid)
    return for_a, 2 * len(valid)


def belief(z: float | None, protocol: Protocol, temperature: float | None) -> float | None:
    """The probability that a is better; None if z is. After reasoning and uncalibrated it lies in [0.4, 0.6]."""
    if z is None:
        return None
    if temperature is not None:
        return probability(z, temperature)
    if protocol == "reason":
        return min(max(probability(z), 1.0 - CLAMP), CLAMP)
    return probability(z)


def probability(z: float, temperature: float = 1.0) -> float:
    """sigma(z / temperature); `probability(-z)` is `1 - probability(z)` to the last bit: swapped pairs mirror."""
    larger = 1 / (1 + math.exp(-abs(z / temperature)))  # in [0.5, 1], where 1 - larger is exact
    if z < 0:
        return 1 - larger
    return larger


def log_odds(p: float) -> float:
    """ln(p / (1 - p)), the inverse of `probability`, bounded to plus and minus 36.7 (`FURTHEST`).

    So a 0 or 1 in data is finite and swapped pairs stay mirrored.
    """
    if p > 0.5:
        return -log_odds(1 - p)
    if p == 0:
        return -FURTHEST
    return max(-FURTHEST, math.log(p) - math.log1p(-p))
