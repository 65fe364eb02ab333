"""Bits per byte with their interval, and the estimators of the KL divergence."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.evaluation.statistics.likelihood import bits, k1, k3, ratio

sizes = st.lists(st.integers(1, 900), min_size=2, max_size=30)


def test_a_probability_of_an_eighth_takes_three_bits() -> None:
    assert bits(math.log(1 / 8)) == pytest.approx(3)


def test_the_ratio_and_its_interval_by_hand() -> None:
    # r = 60/30 = 2; rests 2, -2, 0; sum of squares 8; sqrt(3/2 · 8)/30 = 0.11547; t of 2 degrees of freedom 4.3027
    found = ratio([12.0, 18.0, 30.0], [5, 10, 15])
    assert found.value == 2
    assert found.high == pytest.approx(2 + 4.302653 * math.sqrt(12) / 30)
    assert found.low == pytest.approx(2 - 4.302653 * math.sqrt(12) / 30)
    assert found.n == 3


@pytest.mark.parametrize(("values", "own"), [([], []), ([3.0], [2]), ([2.0, 4.0], [1, 2]), ([0.0, 0.0], [3, 4])])
def test_without_a_spread_there_is_no_interval_but_a_reason(values: list[float], own: list[float]) -> None:
    found = ratio(values, own)
    assert found.low is None and found.high is None and found.reason


@given(sizes, st.integers(0, 99))
def test_differences_of_a_model_to_itself_are_exactly_zero(own: list[int], seed: int) -> None:
    draw = random.Random(seed)
    values = [draw.expovariate(1) * size for size in own]
    assert ratio([value - value for value in values], own).value == 0


def test_no_figure_is_made_from_what_is_no_number() -> None:
    with pytest.raises(UsageError, match="not a finite number"):
        ratio([1.0, math.nan], [2, 3])


def test_the_interval_covers_the_true_ratio() -> None:
    draw = random.Random(1)
    covered = 0
    for _ in range(1000):
        own = [draw.randint(250, 800) for _ in range(55)]
        found = ratio([size * draw.gammavariate(9, 0.1) for size in own], own)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.9 <= found.high
    assert covered >= 930


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=6))
def test_both_estimators_have_the_divergence_as_their_mean(weights: list[tuple[float, float]]) -> None:
    model, base = ([weight / sum(column) for weight in column] for column in zip(*weights, strict=True))
    divergence = sum(p * math.log(p / q) for p, q in zip(model, base, strict=True))
    for estimator in (k1, k3):
        mean = sum(p * estimator(math.log(p), math.log(q)) for p, q in zip(model, base, strict=True))
        assert mean == pytest.approx(divergence, abs=1e-9)


@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k3_is_never_below_zero_and_k1_has_a_sign(one: float, other: float) -> None:
    assert k3(one, other) >= 0
    assert k1(one, other) == -k1(other, one)
    assert k3(one, one) == k1(one, one) == 0
