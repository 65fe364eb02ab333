"""The judge's bias taken out of a win rate by human verdicts on a random part of its pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from cai.engine.letters import probability
from cai.evaluation.statistics.estimates import Estimate, check, deviation, mean_of
from cai.evaluation.statistics.quantiles import t_quantile
from cai.judge.metrics import log_odds

HALF_EACH_WAY = 0.5  # prompts that the judge sees otherwise than people: one who is right on few prompts can err


class Debiased(NamedTuple):
    """A win rate by the judge, and the same without its bias."""

    corrected: Estimate
    judge: Estimate  # by the judge alone, on all prompts
    bias: float | None  # of the judge: its rate less the corrected one; None if that is not known
    weight: float  # lambda: how far the judge's verdicts are used, from 0 (human ones alone) to 1


def debiased(gold: Sequence[tuple[float, float]], rest: Sequence[float]) -> Debiased:
    """The win rate that people would give, from their verdicts on few prompts and the judge's on all (PPI++).

    gold: of prompts drawn at random, the mean outcome by people and by the judge. rest: of the others, by the judge.
    With human y and judge's f on m gold prompts (L) and f on n others (U), Angelopoulos et al. 2023 (arXiv 2311.01453,
    sections 2 and 6):

        theta  = mean(y) + lambda (mean(f_U) - mean(f_L))
        lambda = cov(y, f_L) / (var(f_L) + (m/n) var(f_U)), clipped to [0, 1]
        var    = (var(y - lambda f_L) + (1 + lambda^2) / 2m) / m + lambda^2 var(f_U) / n

    Theirs but for the term of 1/2m, which is half a disagreement each way: without it, 20 gold prompts and a judge that
    errs on one loss in ten, and never on a win, cover 86 %.

    The interval is laid on the logit scale, with t of m - 1 degrees of freedom, so it stays inside 0 and 1. A judge
    that says nothing about people's verdicts gets lambda 0: then, and if there are no others, the figure is that of the
    gold prompts alone (`mean_of`). Gold picked by how hard or how disputed a pair is voids all of it.
    """
    people, judged = [y for y, _ in gold], [f for _, f in gold]
    check([*judged, *rest], 0, 1)
    alone = mean_of(people, 0, 1)
    judge = mean_of([*judged, *rest], 0, 1)
    if alone.low is None:
        few = "fewer than two prompts have human verdicts: nothing can be said about the judge's bias"
        return Debiased(Estimate(None, n=len(gold), reason=few), judge, None, 0.0)
    corrected, weight = _combined(people, judged, rest) or (alone, 0.0)
    bias = None if corrected.value is None or judge.value is None else judge.value - corrected.value
    return Debiased(corrected, judge, bias, weight)


def with_ties(estimate: Estimate, others: int, ties: int) -> Estimate:
    """The mean over all prompts if on `ties` of them nothing differs, so that people and judge say ½.

    estimate: of the `others`. Which prompts are ties is a draw, too: with w the share of the others, the variance of
    w·theta + (1 - w)/2 is w²·var(theta) + (theta - ½)²·w·(1 - w)/n (the delta method).
    """
    if not ties or estimate.value is None:
        return estimate
    n = others + ties
    share = others / n
    value = share * estimate.value + (1 - share) / 2
    ends: list[float | None] = [None, None]
    for place, end in enumerate((estimate.low, estimate.high)):
        if end is not None:
            drawn = t_quantile(max(1, n - 1)) ** 2 * (estimate.value - 0.5) ** 2 * share * (1 - share) / n
            half = math.sqrt((share * (end - estimate.value)) ** 2 + drawn)
            ends[place] = max(0.0, value - half) if place == 0 else min(1.0, value + half)
    return estimate._replace(value=value, low=ends[0], high=ends[1], n=estimate.n + ties)


def _combined(people: Sequence[float], judged: Sequence[float], rest: Sequence[float]) -> tuple[Estimate, float] | None:
    """The estimate and its lambda; None if the judge has nothing to add to the gold prompts."""
    m, n = len(people), len(rest)
    if n < 2:
        return None
    y = fmean(people)
    f = fmean(judged)
    spread = deviation(rest) ** 2
    pairs = list(zip(people, judged, strict=True))
    products = [(a - y) * (b - f) for a, b in pairs]
    covariance = math.fsum(products) / (m - 1)
    if covariance <= 0:  # so is lambda; it is also 0 if either never changes
        return None
    weight = min(1.0, covariance / (deviation(judged) ** 2 + m / n * spread))
    theta = y + weight * (fmean(rest) - f)
    if not 0 < theta < 1:
        return None
    rests = [a - weight * b for a, b in pairs]
    left = deviation(rests) ** 2
    left += HALF_EACH_WAY * (1 + weight**2) / m
    error = math.sqrt(left / m + weight**2 * spread / n)
    half = t_quantile(m - 1) * error / (theta * (1 - theta))
    centre = log_odds(theta)
    estimate = Estimate(theta, probability(centre - half), probability(centre + half), m + n, "PPI++, logit")
    return estimate, weight
