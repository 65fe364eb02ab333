"""An interval of a measure that only a whole set of texts has, such as the share of different words in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from cai.evaluation.statistics.estimates import NOTHING, Estimate
from cai.evaluation.statistics.quantiles import t_quantile

GROUPS = 10  # as many measurements: with 9 degrees of freedom t is 2.26, with thousands 1.96
Measure = Callable[[Sequence[int]], float | None]  # of the units with these numbers


def leave_out(units: int, measure: Measure) -> list[float | None]:
    """The measure of all units, then without each of 10 groups of them; a group is every 10th unit."""
    groups = min(GROUPS, units)
    rests = [[unit for unit in range(units) if unit % groups != group] for group in range(groups)]
    return [measure(chosen) for chosen in (range(units), *rests)]


def jackknife(parts: Sequence[float | None], units: int, low: float = -math.inf, high: float = math.inf) -> Estimate:
    """A measure with an interval, from what `leave_out` returns, or from the differences of two such lists.

    The standard error is sqrt((g - 1)/g Σ(θ_i - mean)²) of the measures θ_i without group i (Tukey 1958; Miller 1974).
    A bootstrap would draw units twice, which is itself a repetition. low, high: the ends of what the measure can be.
    """
    value, *rests = parts
    without = [part for part in rests if part is not None]
    groups = len(rests)
    if value is None:
        return Estimate(None, n=units, reason=NOTHING)
    if groups < 2 or len(without) < groups:
        return Estimate(value, n=units, reason="too few texts for an interval")
    mean = fmean(without)
    spread = math.sqrt((groups - 1) / groups * math.fsum((part - mean) ** 2 for part in without))
    if not spread:
        return Estimate(value, n=units, reason="no spread between the groups, so there is no interval")
    half = t_quantile(groups - 1) * spread
    return Estimate(value, max(low, value - half), min(high, value + half), units, "jackknife")
