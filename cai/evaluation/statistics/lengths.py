"""The win rate that replies of equal length would have."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from cai.engine.letters import probability
from cai.evaluation.statistics.estimates import Estimate, check, deviation, mean_of
from cai.evaluation.statistics.quantiles import t_quantile

RIDGE = 1e-2  # keeps the fit finite; the weight of a fiftieth of a prompt
LEAST = 30  # prompts: with fewer, the interval is wider than 0.4
OVERLAP = 0.1  # of pairs on either side of equal length; a shift of one standard deviation leaves 16 %
Pair = tuple[float, float]  # outcome; characters of the model's reply less those of BASE


class LengthControl(NamedTuple):
    """A win rate at equal length."""

    rate: Estimate
    slope: float | None  # phi: the log odds that a reply gains if it is much longer; None if it was not fitted


def length_controlled(pairs: Mapping[Hashable, Sequence[Pair]]) -> LengthControl:
    """sigma(theta) of the fit logit P(win) = theta + phi tanh(d / sd(d)), d the difference of lengths.

    After Dubois et al. 2024 (arXiv 2404.04475, section 3), without the terms for each prompt and model. Every prompt
    has the same weight. Newton's method with a ridge of 0.01 on both; the interval is theta ± t SE, SE from the
    sandwich of scores summed by prompt (Liang and Zeger 1986), carried through sigma. The sandwich is far too small if
    length explains nearly every outcome, so SE is at least that of as many independent pairs of equal length.
    No figure, but a reason, if there are fewer than 30 prompts, if fewer than a tenth of the pairs lie on one side of
    equal length (an equal pair counts half on both), if all outcomes are equal, or if length alone explains them all.
    Replies of all the same length need no control: their win rate is the figure.
    """
    prompts = [list(values) for values in pairs.values() if values]
    outcomes = [outcome for values in prompts for outcome, _ in values]
    lengths = [length for values in prompts for _, length in values]
    check(outcomes, 0, 1)
    check(lengths, -math.inf, math.inf)
    reason = _reason(len(prompts), outcomes, lengths)
    if reason:
        return LengthControl(Estimate(None, n=len(prompts), reason=reason), None)
    if not any(lengths):
        means = [math.fsum(outcome for outcome, _ in values) / len(values) for values in prompts]
        return LengthControl(mean_of(means, 0, 1), None)
    spread = deviation(lengths)
    rows = [[(outcome, math.tanh(length / spread)) for outcome, length in values] for values in prompts]
    return _fit(rows)


def _reason(prompts: int, outcomes: Sequence[float], lengths: Sequence[float]) -> str:
    """Why there is no figure; empty if there is one."""
    if prompts < LEAST:
        return f"length control needs {LEAST} prompts or more, and has {prompts}"
    if min(outcomes) == max(outcomes):
        return "all outcomes are equal: length control has nothing to explain"
    equal = lengths.count(0) / 2
    longer = (sum(length > 0 for length in lengths) + equal) / len(lengths)
    if min(longer, 1 - longer) < OVERLAP:
        return (
            f"lengths do not overlap: the model's reply is the longer one in {longer:.0%} of pairs, "
            f"and length control needs {OVERLAP:.0%} on either side"
        )
    won = [length for outcome, length in zip(outcomes, lengths, strict=True) if outcome > 0]
    lost = [length for outcome, length in zip(outcomes, lengths, strict=True) if outcome < 1]
    if max(lost) < min(won) or max(won) < min(lost):
        return "length alone explains every outcome: what is left at equal length cannot be told"
    return ""


def _fit(prompts: Sequence[Sequence[Pair]]) -> LengthControl:
    theta = phi = 0.0
    for _ in range(100):
        scores, (a, b, c) = _scores(prompts, theta, phi)
        steep = math.fsum(first for first, _ in scores) - RIDGE * theta
        tilt = math.fsum(second for _, second in scores) - RIDGE * phi
        room = a * c - b * b
        step = (c * steep - b * tilt) / room
        turn = (a * tilt - b * steep) / room
        longest = max(abs(step), abs(turn))
        short = min(1.0, 1 / max(longest, 1e-300))  # no step is longer than 1: none overshoots
        theta += short * step
        phi += short * turn
        if longest < 1e-10:
            break
    n = len(prompts)
    scores, (a, b, c) = _scores(prompts, theta, phi)
    room = a * c - b * b
    left = [(c * first - b * second) / room for first, second in scores]
    squares = math.fsum(value**2 for value in left)
    error = math.sqrt(squares * n / (n - 1))
    value = probability(theta)
    outcomes = [outcome for pairs in prompts for outcome, _ in pairs]
    decided = len(outcomes) - outcomes.count(0.5)
    least = math.sqrt(decided / (value * (1 - value))) / len(outcomes)
    half = t_quantile(n - 1) * max(error, least)
    estimate = Estimate(value, probability(theta - half), probability(theta + half), n, "sandwich")
    return LengthControl(estimate, phi)


def _scores(prompts: Sequence[Sequence[Pair]], theta: float, phi: float) -> tuple[list[Pair], tuple[float, ...]]:
    """The gradient of each prompt's mean log likelihood, and minus the Hessian of their sum less the ridge."""
    scores = []
    a = c = RIDGE
    b = 0.0
    for pairs in prompts:
        first = second = 0.0
        for outcome, x in pairs:
            p = probability(theta + phi * x)
            weight = p * (1 - p) / len(pairs)
            first += (outcome - p) / len(pairs)
            second += (outcome - p) * x / len(pairs)
            a += weight
            b += weight * x
            c += weight * x * x
        scores.append((first, second))
    return scores, (a, b, c)
