"""Two models on the same items: the exact test, and how often the interval of a difference covers it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.evaluation.statistics.estimates import Estimate
from cai.evaluation.statistics.paired import Changes, difference, mcnemar, sign_test

RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


def columns(rows: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [value for value, _ in rows], [base for _, base in rows]


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1), (1, 0, 1), (5, 0, 1 / 16), (0, 6, 1 / 32), (9, 1, 22 / 1024), (4, 4, 1)]
)
def test_the_sign_test_is_that_of_coins(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p)


def test_the_sign_test_of_a_million_is_finite_and_agrees_with_the_normal_one() -> None:
    assert sign_test(501_000, 499_000) == pytest.approx(math.erfc(1.999 / math.sqrt(2)), rel=1e-3)
    assert 0 <= sign_test(1_000_000, 0) < 1e-300


def test_items_right_at_both_or_at_neither_say_nothing() -> None:
    values = [1, 1, 0, 0, 0, 0, 1, 1, 0, 1]
    base = [1, 1, 0, 0, 1, 1, 0, 1, 1, 1]
    assert mcnemar(values, base) == Changes(gained=1, lost=3, p=pytest.approx(10 / 16))


def test_a_false_alarm_of_the_exact_test_is_as_rare_as_promised() -> None:
    chance = random.Random(4)
    alarms = 0
    for _ in range(1000):
        rows = [(chance.random() < 0.7, chance.random() < 0.7) for _ in range(60)]
        alarms += mcnemar(*columns(rows)).p <= 0.05
    assert 0.015 <= alarms / 1000 <= 0.05


@given(RIGHT)
def test_a_difference_is_that_of_the_changes_and_its_interval_is_never_of_no_width(
    rows: list[tuple[bool, bool]],
) -> None:
    values, base = columns([(float(value), float(before)) for value, before in rows])
    changes, both = mcnemar(values, base), difference(values, base, 1)
    assert both.value == pytest.approx((changes.gained - changes.lost) / len(rows))
    assert both.low is not None and both.high is not None and both.value is not None
    assert -1 <= both.low <= both.value <= both.high <= 1
    assert both.high - both.low > 0.05
    turned = difference(base, values, 1)
    assert (turned.low, turned.high) == pytest.approx((-both.high, -both.low))


def test_the_interval_is_that_of_bonett_and_price_by_hand() -> None:
    rows = [(1.0, 0.0)] * 8 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 40
    both = difference(*columns(rows), 1)
    gained, lost = (8 + 1) / 52, (2 + 1) / 52
    half = 1.959964 * math.sqrt((gained + lost - (gained - lost) ** 2) / 52)
    assert both[:3] == pytest.approx((0.12, gained - lost - half, gained - lost + half), abs=1e-6)


@pytest.mark.parametrize(
    ("n", "gained", "lost"),
    [(20, 0.4, 0.1), (50, 0.1, 0), (50, 0.2, 0.1), (100, 0.05, 0.02), (300, 0.02, 0), (300, 0.05, 0.05)],
)
def test_the_interval_of_a_difference_covers_it_with_few_changes_too(n: int, gained: float, lost: float) -> None:
    chance = random.Random(6)
    held = 0
    for _ in range(300):
        draws = [chance.random() for _ in range(n)]
        rows = [(float(u > lost), float(not lost < u <= lost + gained)) for u in draws]
        held += holds(difference(*columns(rows), 1), gained - lost)
    assert held / 300 >= 0.93


def test_the_interval_of_a_difference_of_numbers_is_that_of_t_and_covers_it() -> None:
    chance = random.Random(7)
    held = 0
    for _ in range(400):
        base = [chance.gauss(3, 2) for _ in range(12)]
        values = [value + chance.gauss(0.5, 1) for value in base]
        held += holds(difference(values, base), 0.5)
    assert 0.93 <= held / 400 <= 0.98


def test_equal_differences_of_numbers_have_no_interval_those_of_shares_have() -> None:
    assert difference([2.0, 3.0, 9.5], [1.0, 2.0, 8.5])[:4] == (1, None, None, 3)
    levels = difference([1.0] * 100, [1.0] * 100, 4)  # of 1 to 5, which could have been far apart
    assert levels.high == pytest.approx(4 * (1 - 0.025 ** (1 / 100))) and levels.low == -levels.high
    shares = difference([0.25] * 100, [0.25] * 100, 1)
    assert shares.high == pytest.approx(1 - 0.025 ** (1 / 100)) and shares.low == -shares.high


def test_values_that_are_none_stop_it() -> None:
    with pytest.raises(UsageError, match="nan"):
        difference([1.0, math.nan], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        difference([1.0], [0.0, 1.0])
