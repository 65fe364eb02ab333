"""The jackknife over groups: by hand, and how often it covers the truth."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluation.statistics.jackknife import jackknife, leave_out
from cai.texts.repetition import distinct

VALUES = [1.0, 4.0, 2.0, 8.0, 5.0]


def test_of_a_mean_it_is_the_interval_of_t() -> None:
    found = jackknife(leave_out(5, lambda kept: fmean(VALUES[unit] for unit in kept)), 5)
    half = 2.776445 * math.sqrt(7.5 / 5)  # the variance is 7.5, t of 4 degrees of freedom 2.7764
    assert found.value == 4
    assert (found.low, found.high) == (pytest.approx(4 - half), pytest.approx(4 + half))


@pytest.mark.parametrize("units", [0, 1])
def test_without_two_units_there_is_no_interval_but_a_reason(units: int) -> None:
    found = jackknife(leave_out(units, lambda kept: float(len(kept)) if kept else None), units)
    assert found.low is None and found.reason


@given(st.integers(2, 70))
def test_each_unit_is_left_out_once(units: int) -> None:
    kept: list[Sequence[int]] = []

    def seen(chosen: Sequence[int]) -> float:
        kept.append(chosen)
        return 1.0

    assert jackknife(leave_out(units, seen), units).value == 1
    whole, *rests = kept
    assert list(whole) == list(range(units))
    left_out = [unit for rest in rests for unit in set(whole) - set(rest)]
    assert sorted(left_out) == list(whole)


def test_the_interval_of_distinct_2_covers_its_expectation() -> None:
    draw = random.Random(3)
    weights = [1 / (rank + 5) for rank in range(400)]  # words come as Zipf says

    def texts(count: int = 40) -> list[list[str]]:
        return [[str(word) for word in draw.choices(range(400), weights, k=20)] for _ in range(count)]

    truth = fmean(distinct(texts(), 2) or 0.0 for _ in range(200))
    covered = 0
    for _ in range(200):
        own = texts()
        found = jackknife(leave_out(40, lambda kept, own=own: distinct([own[unit] for unit in kept], 2)), 40)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 180
