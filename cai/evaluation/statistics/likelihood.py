"""What the log-probabilities of texts say: bits per byte, and how far a model has moved away from another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cai.evaluation.statistics.estimates import NOTHING, Estimate, check
from cai.evaluation.statistics.quantiles import t_quantile


def bits(logprob: float) -> float:
    """A natural log-probability as the bits that its text takes."""
    return -logprob / math.log(2)


def ratio(values: Sequence[float], sizes: Sequence[float], low: float = -math.inf) -> Estimate:
    """The sum of values by the sum of their sizes, such as bits per byte, with an interval over the units.

    r = Σv/Σs, and its standard error sqrt(n/(n - 1) Σ(v - r s)²)/Σs (Cochran 1977, section 2.11), with t of n - 1
    degrees of freedom. A long text counts for more than a short one, as it does in the sum. low: the least that it can
    be.
    """
    check([*values, *sizes], -math.inf, math.inf)
    n = len(values)
    size = math.fsum(sizes)
    if not size:
        return Estimate(None, reason=NOTHING)
    value = math.fsum(values) / size
    if n == 1:
        return Estimate(value, n=1, reason="one text shows no spread, so there is no interval")
    rests = [each - value * own for each, own in zip(values, sizes, strict=True)]
    spread = math.sqrt(n / (n - 1) * math.fsum(rest**2 for rest in rests)) / size
    if not spread:
        return Estimate(value, n=n, reason="all values are equal, so there is no interval")
    half = t_quantile(n - 1) * spread
    return Estimate(value, max(low, value - half), value + half, n, "t of a ratio")


def ratio_difference(
    values: Sequence[float], sizes: Sequence[float], base: Sequence[float], base_sizes: Sequence[float]
) -> Estimate:
    """The ratio of a model less that of BASE, with an interval over the units that both have.

    Each unit adds (v - r s)/Σs of the model less that of BASE to the spread, so that what both share cancels.
    """
    ours, theirs = ratio(values, sizes), ratio(base, base_sizes)
    if ours.value is None or theirs.value is None:
        return Estimate(None, reason=ours.reason or theirs.reason)
    total, base_total = math.fsum(sizes), math.fsum(base_sizes)
    parts = [
        (value - ours.value * size) / total - (before - theirs.value * before_size) / base_total
        for value, size, before, before_size in zip(values, sizes, base, base_sizes, strict=True)
    ]
    n = len(parts)
    gap = ours.value - theirs.value
    spread = math.sqrt(n / max(n - 1, 1) * math.fsum(part**2 for part in parts))
    if not spread or n == 1:
        return Estimate(gap, n=n, reason="no spread between the units, so there is no interval")
    half = t_quantile(n - 1) * spread
    return Estimate(gap, gap - half, gap + half, n, "t of a ratio")


def k1(logprob: float, base: float) -> float:
    """log π - log π_ref of a text or token that was drawn from π: its mean is the KL divergence (Schulman 2020)."""
    return logprob - base


def k3(logprob: float, base: float) -> float:
    """(r - 1) - log r with r = π_ref/π: the same mean, never below 0, and a smaller spread where r is near 1.

    It is for tokens: r of whole texts is nearly always 0, and its mean of 1 rests on texts that never come.
    """
    gap = base - logprob
    return math.expm1(gap) - gap
