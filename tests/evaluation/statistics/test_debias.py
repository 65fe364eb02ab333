"""The judge's bias goes, and what is left covers the rate that people would give."""

from __future__ import annotations

import math
import random
from statistics import mean, variance

import pytest

from cai.errors import UsageError
from cai.evaluation.statistics.debias import Debiased, debiased
from cai.evaluation.statistics.estimates import Estimate, mean_of


def evaluation(
    chance: random.Random, rate: float, sensitivity: float, specificity: float, gold: int, n: int = 1000
) -> Debiased:
    """People prefer the model at `rate`; the judge sees its wins and its losses with these chances."""
    people = [float(chance.random() < rate) for _ in range(n)]
    judge = [float(chance.random() < (sensitivity if y else 1 - specificity)) for y in people]
    return debiased(list(zip(people, judge, strict=True))[:gold], judge[gold:])


def covered(truth: float, estimates: list[Estimate]) -> float:
    return mean(e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates)


def test_the_figure_is_that_of_the_formula_by_hand() -> None:
    gold = [(1.0, 1.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
    rest = [1.0] * 9 + [0.0] * 3
    weight = 0.1 / (0.3 + 6 / 12 * variance(rest))  # cov(y, f) = 0.1, var(f_L) = 0.3
    theta = 0.5 + weight * (0.75 - 0.5)
    left = variance(y - weight * f for y, f in gold) + (1 + weight**2) / 12
    error = math.sqrt(left / 6 + weight**2 * variance(rest) / 12)
    result = debiased(gold, rest)
    assert result.weight == pytest.approx(weight)
    assert result.corrected.value == pytest.approx(theta)
    assert result.judge.value == pytest.approx(12 / 18)
    assert result.bias == pytest.approx(12 / 18 - theta)
    half = 2.5705818 * error / (theta * (1 - theta))  # t of 5 degrees of freedom
    odds = math.log(theta / (1 - theta))
    assert result.corrected.low == pytest.approx(1 / (1 + math.exp(half - odds)))
    assert result.corrected.high == pytest.approx(1 / (1 + math.exp(-half - odds)))


def test_it_covers_with_a_weak_judge_that_alone_hardly_ever_does() -> None:
    chance = random.Random(1)
    for rate in (0.6, 0.75):
        results = [evaluation(chance, rate, 0.65, 0.6, gold=100) for _ in range(200)]
        assert covered(rate, [result.corrected for result in results]) >= 0.93
        assert covered(rate, [result.judge for result in results]) < 0.3


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity", "gold"),
    [
        (0.6, 0.8, 0.7, 100),
        (0.75, 0.9, 0.6, 30),
        (0.9, 0.8, 0.7, 50),
        (0.8, 0.99, 0.99, 30),
        (0.5, 0.5, 0.5, 20),  # it guesses
        (0.5, 1, 0.9, 20),  # it errs in one direction, and may err on none of the gold prompts
        (0.5, 1, 0.97, 50),
        (0.9, 0.9, 0.9, 10),
        (0.97, 0.95, 0.95, 30),
    ],
)
def test_it_covers_with_any_judge(rate: float, sensitivity: float, specificity: float, gold: int) -> None:
    chance = random.Random(2)
    results = [evaluation(chance, rate, sensitivity, specificity, gold, n=400) for _ in range(200)]
    assert covered(rate, [result.corrected for result in results]) >= 0.93


def test_a_good_judge_makes_the_interval_narrower_than_gold_alone() -> None:
    chance = random.Random(3)
    for _ in range(20):
        people = [float(chance.random() < 0.6) for _ in range(1000)]
        judge = [y if chance.random() < 0.95 else 1 - y for y in people]
        both = debiased(list(zip(people, judge, strict=True))[:100], judge[100:])
        alone = mean_of(people[:100], 0, 1)
        assert both.weight > 0.6
        assert None not in (both.corrected.low, both.corrected.high, alone.low, alone.high)
        assert both.corrected.high - both.corrected.low < 0.75 * (alone.high - alone.low)  # type: ignore[operator]


MIXED = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("gold", "rest"),
    [
        ([(y, 1.0) for y in MIXED], [1.0] * 50),  # the judge always says the same
        ([(y, 1.0) for y in MIXED], [1.0, 0.0] * 25),  # of the gold prompts
        ([(y, 1 - y) for y in MIXED], [1.0, 0.0] * 25),  # the opposite of people
        ([(1.0, f) for f in MIXED], [1.0, 0.0] * 25),  # people always say the same
        ([(y, y) for y in MIXED], []),  # everything is gold
        ([(y, y) for y in MIXED], [1.0]),
    ],
)
def test_a_judge_that_adds_nothing_leaves_the_figure_of_the_gold_prompts(
    gold: list[tuple[float, float]], rest: list[float]
) -> None:
    result = debiased(gold, rest)
    assert result.weight == 0
    assert result.corrected == mean_of([y for y, _ in gold], 0, 1)
    assert result.corrected.low is not None


@pytest.mark.parametrize("gold", [[], [(1.0, 0.0)]])
def test_fewer_than_two_gold_prompts_give_no_figure_and_say_why(gold: list[tuple[float, float]]) -> None:
    result = debiased(gold, [1.0, 0.0, 1.0])
    assert (result.corrected.value, result.bias) == (None, None)
    assert "fewer than two" in result.corrected.reason
    assert result.judge.value is not None


def test_verdicts_that_are_none_stop_it() -> None:
    for gold, rest in (([(math.nan, 1.0)], [1.0]), ([(1.0, math.nan)], [1.0]), ([(1.0, 1.0)], [2.0])):
        with pytest.raises(UsageError, match="not a finite number"):
            debiased(gold, rest)
