"""How far a judge's probabilities can be trusted: calibration error, likelihood, ranking, agreement.

Arithmetic on two columns: `ps`, the probability that reply a is better, and `truths`, whether people say that it is: 1,
0, or 0.5 for a tie. A tie counts as half a pair of which people prefer a, and half a pair of which they prefer b, in
every metric: whatever the judge says of it is half right, and the likeliest probability is 0.5. A probability of
exactly 0.5 names neither reply: it counts as half right and half wrong. `certify`, which bounds errors, counts both as
an error, so that its promise holds however ties are counted.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from cai.errors import UsageError
from cai.records import Record

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
BINS = 10  # of equal width, from confidence 0.5 to 1
FURTHEST = 53 * math.log(2)  # log odds of 1 - 2**-53, about 36.7: the float next to 1


class Metrics(Record):
    """What a judge's probabilities are worth on pairs with human labels."""

    n: int
    accuracy: float
    interval: tuple[float, float]  # of the accuracy: Wilson, 95 %
    kappa: float | None
    ece: float
    brier: float
    nll: float
    auroc: float | None


def average(values: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.fmean) -> float | None:
    """The mean of some values, or another average of them; None if there are none."""
    return None if not values else of(values)


def share(part: float | None, whole: float) -> float | None:
    """A part divided by the whole; None if there is no whole, or the part is not known."""
    if part is None or not whole:
        return None
    return part / whole


def confidence(p: float) -> float:
    """How sure a probability is of its label: the larger of p and 1 - p, from 0.5 to 1."""
    return max(p, 1 - p)


def log_odds(p: float) -> float:
    """ln(p / (1 - p)), the inverse of `probability`, bounded to plus and minus 36.7 (`FURTHEST`).

    So a 0 or 1 in data is finite and swapped pairs stay mirrored.
    """
    if p > 0.5:
        return -log_odds(1 - p)
    if p == 0:
        return -FURTHEST
    return max(-FURTHEST, math.log(p) - math.log1p(-p))


def credit(p: float, truth: float) -> float:
    """1 if the label is right, 0 if it is wrong, a half if p names neither reply or people call them a tie."""
    if p == 0.5:
        return 0.5
    return float(truth) if p > 0.5 else 1.0 - truth


def measure(ps: Sequence[float], truths: Sequence[float]) -> Metrics:
    """All metrics at once; raises UsageError without rows."""
    if not ps:
        raise UsageError("nothing can be measured without a pair that has a human label")
    right = accuracy(ps, truths)
    return Metrics(
        n=len(ps),
        accuracy=right,
        interval=wilson(right * len(ps), len(ps)),
        kappa=kappa(ps, truths),
        ece=ece(ps, truths),
        brier=brier(ps, truths),
        nll=nll(ps, truths),
        auroc=auroc(ps, truths),
    )


def accuracy(ps: Sequence[float], truths: Sequence[float]) -> float:
    """Share of right labels."""
    return statistics.fmean(map(credit, ps, truths))


def reliability(ps: Sequence[float], truths: Sequence[float]) -> list[tuple[int, int, float, float]]:
    """Per stretch of confidence, ten equal ones from 0.5 to 1: (its place from 0, pairs, confidence, accuracy).

    The means are over its pairs; a stretch without any is left out.
    """

    def place_of(pair: tuple[float, float]) -> int:
        return min(BINS - 1, int((pair[0] - 0.5) * 2 * BINS))

    filled = []
    for place, group in groupby(_by_confidence(ps, truths), key=place_of):
        confidences, credits = zip(*group, strict=True)
        filled.append((place, len(credits), statistics.fmean(confidences), statistics.fmean(credits)))
    return filled


def _by_confidence(ps: Sequence[float], truths: Sequence[float]) -> list[tuple[float, float]]:
    """The confidence and credit of every pair, the least sure first."""
    return sorted((confidence(p), credit(p, truth)) for p, truth in zip(ps, truths, strict=True))


def _levels(ps: Sequence[float], truths: Sequence[float]) -> list[tuple[float, list[float]]]:
    """Every confidence that occurs, the lowest first, with the credits of its pairs."""
    groups = groupby(_by_confidence(ps, truths), key=itemgetter(0))
    return [(sure, [right for _, right in group]) for sure, group in groups]


def ece(ps: Sequence[float], truths: Sequence[float]) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over `reliability` (Guo et al. 2017, eq. 3).

    Biased upwards by about 0.05 at 300 pairs: compare calibrators by NLL or Brier.
    """
    gaps = (n * abs(sure - right) for _, n, sure, right in reliability(ps, truths))
    return math.fsum(gaps) / len(ps)


def brier(ps: Sequence[float], truths: Sequence[float]) -> float:
    """Mean squared distance of the chosen label's probability from 1 if it is right, from 0 if it is wrong."""
    return statistics.fmean(truth * (1 - p) ** 2 + (1 - truth) * p**2 for p, truth in zip(ps, truths, strict=True))


def nll(ps: Sequence[float], truths: Sequence[float]) -> float:
    """Mean negative log likelihood of the human labels, in nats; no pair counts for more than 36.7 (`FURTHEST`)."""

    def surprise(q: float) -> float:
        return -math.log(max(q, 2.0**-53))

    pairs = zip(ps, truths, strict=True)
    return statistics.fmean(truth * surprise(p) + (1 - truth) * surprise(1 - p) for p, truth in pairs)


def auroc(ps: Sequence[float], truths: Sequence[float]) -> float | None:
    """How often a right label is surer than a wrong one, ties counting half; None if all are right, or all wrong."""
    area = rights = wrongs = 0.0
    for _, credits in _levels(ps, truths):
        right = math.fsum(credits)
        wrong = len(credits) - right
        area += right * (wrongs + wrong / 2)
        rights += right
        wrongs += wrong
    return share(area, rights * wrongs)


def kappa(ps: Sequence[float], truths: Sequence[float]) -> float | None:
    """Cohen's kappa of the labels with the human ones (Cohen 1960); None if chance alone would always agree."""
    judge = statistics.fmean(credit(p, True) for p in ps)
    people = sum(truths) / len(ps)
    chance = judge * people + (1 - judge) * (1 - people)
    return None if chance >= 1 else (accuracy(ps, truths) - chance) / (1 - chance)


def cohen(first: Sequence[str], second: Sequence[str]) -> tuple[float, float, float] | None:
    """Cohen's kappa of two people who labelled the same pairs, and its 95 % interval; None if chance alone would agree.

    kappa = (p_o - p_e) / (1 - p_e) (Cohen 1960, eq. 1). Its interval is that of p_o with p_e taken as known, as in
    eq. 7, but by Wilson: eq. 7 has no width where all labels agree, however few they are.
    """
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[label] * theirs[label] for label in ours) / n**2
    if chance >= 1:
        return None
    value = (agreed - chance) / (1 - chance)
    low, high = ((end - chance) / (1 - chance) for end in wilson(agreed * n, n))
    return value, max(-1.0, low), high


def risk_coverage(ps: Sequence[float], truths: Sequence[float]) -> list[tuple[float, float, float]]:
    """Per confidence that occurs, surest first: (confidence, share of pairs at or above it, their accuracy)."""
    curve = []
    kept = 0
    right = 0.0
    for sure, credits in reversed(_levels(ps, truths)):
        kept += len(credits)
        right += math.fsum(credits)
        curve.append((sure, kept / len(ps), right / kept))
    return curve


def at_least(ps: Sequence[float], truths: Sequence[float], sure: float) -> tuple[float, float | None]:
    """Share of pairs of at least this confidence, and their accuracy; None if there are none."""
    credits = [right for confidence, right in _by_confidence(ps, truths) if confidence >= sure]
    return len(credits) / len(ps), average(credits)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, room = successes / n, Z95**2 / n
    half = Z95 * math.sqrt(share * (1 - share) / n + room / (4 * n))
    centre = share + room / 2
    return max(0.0, (centre - half) / (1 + room)), min(1.0, (centre + half) / (1 + room))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Bin(n, p) <= k) for 0 < p < 1, by adding the terms of the shorter tail from its largest outwards."""
    if k >= n:
        return 1.0
    if k > n * p:
        return 1 - math.fsum(_terms(n - k - 1, n, 1 - p))
    return math.fsum(_terms(k, n, p))


def _terms(k: int, n: int, p: float) -> Iterable[float]:
    """P(Bin(n, p) = i) for i from k down, until they no longer count."""
    odds = (1 - p) / p
    term = first = math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    )
    while term > first * 1e-17 and k >= 0:
        yield term
        term *= odds * k / (n - k + 1)
        k -= 1
