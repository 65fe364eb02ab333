"""Quantiles of numbers, of the normal distribution and of Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from cai.judge.certify import bisect

LARGE = 100  # degrees of freedom from which the expansion is exact to 1e-8


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies, interpolated (Hyndman and Fan 1996, type 7)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def normal_quantile(level: float = 0.95) -> float:
    """The bound that a standard normal value stays within, on both sides, with the probability `level`."""
    return NormalDist().inv_cdf((1 + level) / 2)


@lru_cache(maxsize=4096)
def t_quantile(df: int, level: float = 0.95) -> float:
    """The bound that Student's t stays within, on both sides, with the probability `level`.

    `t_within` is bisected over the angle arctan(t/sqrt(df)). From 100 degrees of freedom on, the expansion in 1/df
    around the normal quantile (Abramowitz and Stegun 1964, 26.7.5). Both agree with tables to 1e-6.
    """
    if df < LARGE:
        low, high = bisect(0.0, math.pi / 2, 1e-15, lambda angle: t_within(angle, df) >= level)
        return math.sqrt(df) * math.tan((low + high) / 2)
    z = normal_quantile(level)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


def t_within(angle: float, df: int) -> float:
    """P(|t| <= sqrt(df) tan(angle)) for Student's t (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    cosine = math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = 0.0
    for i in range(df // 2):
        total += term
        term *= cosine**2 * (2 * i + 1 + odd) / (2 * i + 2 + odd)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
