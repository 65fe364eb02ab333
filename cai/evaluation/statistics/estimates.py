"""A number with its 95 % interval, and the mean of independent values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from cai.errors import UsageError
from cai.evaluation.statistics.quantiles import t_quantile
from cai.judge.metrics import wilson

NOTHING = "nothing was measured"


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float | None  # None: it cannot be known
    low: float | None = None  # None, as `high`: no interval can be given
    high: float | None = None
    n: int = 0  # independent units that it rests on: prompts, or items of a probe
    method: str = ""  # of the interval
    reason: str = ""  # why there is no value, or no interval


def mean_of(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The mean of independent values, one a prompt or item: mean ± t sd/sqrt(n), t of n - 1 degrees of freedom.

    low, high: the ends of what a value can be; the interval is clamped to them. Two cases in which that interval would
    be too short need them. All values equal: one that differs has a chance of at most u = 1 - 0.025^(1/n) (Clopper and
    Pearson 1934), so the mean is at most u of the way to either end. The interval reaches an end: it is widened by the
    Wilson interval, in which the variance is the largest that such a mean allows. For 50 prompts and a rate
    of 0.9, t alone covers 88 %, both together 98 %.
    Raises UsageError for a value that is not a number between them.
    """
    n = len(values)
    check(values, low, high)
    if n == 0:
        return Estimate(None, reason=NOTHING)
    mean = fmean(values)
    if n == 1:
        return Estimate(mean, n=1, reason="one prompt or item shows no spread, so there is no interval")
    bounded = math.isfinite(low) and math.isfinite(high)
    if max(values) - min(values) < 1e-12:  # differences of equal means may differ in their last digits
        if not bounded:
            return Estimate(mean, n=n, reason="all values are equal, so there is no interval")
        unlike = 1 - 0.025 ** (1 / n)
        return Estimate(mean, mean - unlike * (mean - low), mean + unlike * (high - mean), n, "exact, all equal")
    half = t_quantile(n - 1) * deviation(values) / math.sqrt(n)
    ends = (mean - half, mean + half)
    if not bounded or (low < ends[0] and ends[1] < high):
        return Estimate(mean, *ends, n, "t")
    width = high - low
    wide = [low + width * end for end in wilson((mean - low) / width * n, n)]
    return Estimate(mean, max(low, min(ends[0], wide[0])), min(high, max(ends[1], wide[1])), n, "t and Wilson")


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample of two or more; `statistics.stdev` is exact, and 50 times slower."""
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def check(values: Sequence[float], low: float, high: float) -> None:
    """Raise UsageError for a value that is not a finite number in [low, high]."""
    for value in values:
        if not (low <= value <= high and math.isfinite(value)):
            raise UsageError(f"{value} is not a finite number from {low:g} to {high:g}: no figure can be made from it")


def units_to_exclude(estimate: Estimate, bound: float) -> int | None:
    """How many units in all would keep `bound` out of the interval if value and spread stayed as they are.

    The half width shrinks with the square root of n. None: there is no interval, or the value is the bound itself.
    """
    value, low, high = estimate[:3]
    if value is None or low is None or high is None or value == bound:
        return None
    half = high - value if bound > value else value - low
    return max(2, math.floor(estimate.n * (half / (bound - value)) ** 2) + 1)
