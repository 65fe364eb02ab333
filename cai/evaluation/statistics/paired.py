"""Two models on the same prompts or items: their difference, and the exact test of who won more often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cai.evaluation.statistics.estimates import Estimate, check, mean_of
from cai.judge.metrics import Z95, binomial_cdf


class Changes(NamedTuple):
    """Items that one model has right and the other has not."""

    gained: int  # wrong at BASE, right now
    lost: int  # right at BASE, wrong now
    p: float  # of the exact McNemar test: how likely as uneven a split is if neither is better


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact p of the sign test: of wins and losses, without ties, under even chances.

    2 P(Bin(wins + losses, 1/2) <= the rarer), at most 1; without any, 1.
    """
    return min(1.0, 2 * binomial_cdf(min(wins, losses), wins + losses, 0.5))


def mcnemar(values: Sequence[bool | float], base: Sequence[bool | float]) -> Changes:
    """The exact test of McNemar (1947) on items that are right (1) or wrong (0), of a model and of BASE."""
    pairs = list(zip(values, base, strict=True))
    gained = sum(value > before for value, before in pairs)
    lost = sum(value < before for value, before in pairs)
    return Changes(gained, lost, sign_test(gained, lost))


def difference(values: Sequence[float], base: Sequence[float], reach: float = math.inf) -> Estimate:
    """The mean of values less those of BASE at the same places.

    reach: the largest difference that one place can show; 1 for shares. Shares of 0, 1/2 and 1 alone get the interval
    of Bonett and Price (2012), which is that of one difference of +1 and one of -1 more: it holds with few changes, and
    with none. All others that of `mean_of`.
    """
    check([*values, *base], -math.inf, math.inf)
    differences = [value - before for value, before in zip(values, base, strict=True)]
    n = len(differences)
    if n < 2 or reach != 1 or not {*values, *base} <= {0, 0.5, 1}:
        return mean_of(differences, -reach, reach)
    total = math.fsum(differences)
    centre = total / (n + 2)
    variance = (math.fsum(value**2 for value in differences) + 2) / (n + 2) - centre**2
    half = Z95 * math.sqrt(variance / (n + 2))
    return Estimate(total / n, max(-1.0, centre - half), min(1.0, centre + half), n, "Bonett and Price")
