"""A win rate by prompts: by hand, at the ends, and how often its interval covers the truth."""

from __future__ import annotations

import math
import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.evaluation.statistics.estimates import Estimate, mean_of, units_to_exclude
from cai.evaluation.statistics.winrate import (
    detectable,
    prompts_needed,
    shrunk,
    sign_p,
    true_difference,
    win_difference,
    win_rate,
)

OUTCOME = st.sampled_from([0, 0.5, 1])
PROMPTS = st.lists(st.lists(OUTCOME, min_size=1, max_size=4), min_size=2, max_size=30)


def by_prompt(values: list[list[float]]) -> dict[int, list[float]]:
    return dict(enumerate(values))


def covered(truth: float, estimates: list[Estimate]) -> float:
    """The share of intervals that hold the truth."""
    return sum(e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates) / len(
        estimates
    )


def clustered(chance: random.Random, prompts: int, replies: int, rate: float, alike: float) -> dict[int, list[float]]:
    """Wins of replies whose chances differ by prompt, so that two of one prompt correlate by `alike`."""
    size = (1 - alike) / alike
    rates = [chance.betavariate(rate * size, (1 - rate) * size) for _ in range(prompts)]
    return by_prompt([[float(chance.random() < p) for _ in range(replies)] for p in rates])


def test_a_win_rate_is_the_mean_over_prompts_of_their_means() -> None:
    rate = win_rate({"a": [1, 1, 1, 1], "b": [0], "c": [0.5], "d": [1, 0], "e": []})
    assert rate.value == (1 + 0 + 0.5 + 0.5) / 4
    assert rate.n == 4


def test_its_interval_is_that_of_t_over_the_means_of_prompts() -> None:
    rate = win_rate(by_prompt([[1, 0], [1, 1], [0, 0], [1, 0.5]] * 5))
    mean = (0.5 + 1 + 0 + 0.75) / 4
    spread = math.sqrt(5 * sum((value - mean) ** 2 for value in (0.5, 1, 0, 0.75)) / 19)
    half = 2.0930241 * spread / math.sqrt(20)  # t of 19 degrees of freedom
    assert (rate.value, rate.n, rate.method) == (mean, 20, "t")
    assert (rate.low, rate.high) == pytest.approx((mean - half, mean + half), abs=1e-7)


def test_one_prompt_has_no_interval_and_none_has_no_rate() -> None:
    assert win_rate({"a": [1, 0, 1]})[:4] == (2 / 3, None, None, 1)
    assert win_rate({"a": []})[:4] == win_rate({})[:4] == (None, None, None, 0)
    assert win_rate({"a": [1]}).reason and win_rate({}).reason


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.6915, 1), (0.0, 0, 0.3085), (0.5, 0.3458, 0.6542)])
def test_ten_equal_prompts_are_not_certain(value: float, low: float, high: float) -> None:
    rate = win_rate(by_prompt([[value]] * 10))
    assert rate.method == "exact, all equal"
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-4)  # 0.025^(1/10) = 0.6915


def test_one_win_and_one_loss_at_every_prompt_are_not_certain_either() -> None:
    rate = win_rate(by_prompt([[0, 1]] * 20))
    assert rate.low is not None and rate.low < 0.5


@given(PROMPTS)
def test_an_interval_holds_the_rate_lies_in_the_unit_and_is_never_of_no_width(values: list[list[float]]) -> None:
    rate = win_rate(by_prompt(values))
    assert rate.value is not None and rate.low is not None and rate.high is not None
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.high - rate.low > 1e-3


@given(PROMPTS)
def test_with_the_models_swapped_everything_is_mirrored(values: list[list[float]]) -> None:
    here = win_rate(by_prompt(values))
    there = win_rate(by_prompt([[1 - value for value in prompt] for prompt in values]))
    ends = [1 - end for end in (there.value, there.high, there.low) if end is not None]
    assert list(here[:3]) == pytest.approx(ends)
    assert sign_p(by_prompt(values)) == sign_p(by_prompt([[1 - value for value in prompt] for prompt in values]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_an_outcome_that_is_none_stops_it(value: float) -> None:
    with pytest.raises(UsageError, match="not a finite number from 0 to 1"):
        win_rate({"a": [1], "b": [value]})


@pytest.mark.parametrize(
    ("prompts", "replies", "rate", "alike"),
    [(100, 4, 0.6, 0.3), (50, 8, 0.6, 0.5), (30, 8, 0.9, 0.5), (10, 8, 0.5, 0.5)],
)
def test_the_interval_covers_whether_or_not_replies_to_one_prompt_are_alike(
    prompts: int, replies: int, rate: float, alike: float
) -> None:
    chance = random.Random(5)
    rates = [win_rate(clustered(chance, prompts, replies, rate, alike)) for _ in range(400)]
    assert 0.93 <= covered(rate, rates) <= 0.99


@pytest.mark.parametrize(("n", "rate"), [(20, 0.9), (50, 0.9), (50, 0.96), (100, 0.95), (100, 0.5)])
def test_the_interval_of_one_reply_a_prompt_covers_close_to_the_ends_too(n: int, rate: float) -> None:
    held = 0.0
    for wins in range(n + 1):
        interval = mean_of([1.0] * wins + [0.0] * (n - wins), 0, 1)
        held += comb(n, wins) * rate**wins * (1 - rate) ** (n - wins) * covered(rate, [interval])
    assert held >= 0.94


def test_the_sign_test_counts_decided_prompts_only() -> None:
    eight_of_ten = by_prompt([[1]] * 8 + [[0]] * 2 + [[0.5]] * 5)
    assert sign_p(eight_of_ten) == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert sign_p(by_prompt([[1]] * 5 + [[0]] * 5)) == 1
    assert sign_p(by_prompt([[0.5]] * 9)) is None
    assert sign_p(by_prompt([[1, 1]] * 9)) is None


def test_two_models_are_compared_on_the_prompts_that_both_have() -> None:
    one = {"a": [1.0], "b": [1, 0.5], "c": [0.0], "mine": [1.0]}
    two = {"a": [0.0], "b": [0.5, 0.5], "c": [0.0], "theirs": [1.0], "none": []}
    both = win_difference(one, two)
    assert (both.value, both.n) == (pytest.approx((1 + 0.25 + 0) / 3), 3)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    chance = random.Random(2)
    base = clustered(chance, 100, 4, 0.5, 0.8)
    better = {prompt: [min(1.0, value + 0.5) for value in values] for prompt, values in base.items()}
    apart, one, two = win_difference(better, base), win_rate(better), win_rate(base)
    assert apart.low is not None and one.low is not None and two.high is not None
    assert apart.low > one.low - two.high
    assert apart.low > 0.15


# What so many prompts can show


@pytest.mark.parametrize(("difference", "prompts"), [(0.05, 784), (0.1, 196), (0.2, 49), (0.025, 3136)])
def test_the_prompts_that_a_difference_needs_are_those_that_can_show_it(difference: float, prompts: int) -> None:
    assert prompts_needed(difference) == prompts_needed(-difference) == prompts
    assert detectable(prompts) == pytest.approx(difference)


def test_few_prompts_can_show_nothing_and_no_difference_needs_no_number() -> None:
    assert detectable(0) is None and detectable(7) is None
    assert prompts_needed(0) is None


def test_so_many_prompts_show_it_in_four_of_five_evaluations() -> None:
    chance = random.Random(8)
    rates = [win_rate(by_prompt([[float(chance.random() < 0.6)] for _ in range(196)])) for _ in range(400)]
    assert sum(rate.low is not None and rate.low > 0.5 for rate in rates) / 400 == pytest.approx(0.8, abs=0.05)


@given(st.floats(-0.5, 0.5), st.floats(0.55, 1))
def test_a_true_difference_is_found_again_behind_the_shrunk_one(true: float, accuracy: float) -> None:
    seen = shrunk(true, accuracy)
    assert abs(seen) <= abs(true)
    again = true_difference(seen * (1 - 1e-9), accuracy, accuracy - 0.04)
    assert again == pytest.approx(true, abs=1e-6)


def test_an_evaluator_that_is_right_in_63_of_100_shrinks_a_difference_to_a_quarter() -> None:
    assert shrunk(0.1, 0.63) == pytest.approx(0.026)
    chance = random.Random(3)
    wins = [chance.random() < 0.7 for _ in range(20000)]
    seen = [win == (chance.random() < 0.63) for win in wins]
    assert sum(seen) / 20000 - 0.5 == pytest.approx(shrunk(0.2, 0.63), abs=0.01)


@pytest.mark.parametrize(("seen", "accuracy", "low"), [(0.05, 0.55, 0.5), (0.05, 0.6, 0.48), (0.2, 0.63, 0.58)])
def test_an_evaluator_that_may_guess_shows_no_true_difference(seen: float, accuracy: float, low: float) -> None:
    assert true_difference(seen, accuracy, low) is None


def test_so_many_prompts_would_keep_a_bound_out_of_the_interval() -> None:
    now = Estimate(0.04, -0.01, 0.09, 100)
    assert units_to_exclude(now, 0.02) == 626  # half a width of 0.05 must come down to less than 0.02: 100 * 2.5 ** 2
    assert units_to_exclude(now, 0.04) is None
    assert units_to_exclude(Estimate(None), 0.02) is None
    assert units_to_exclude(Estimate(0.5, n=1), 0.02) is None
    assert units_to_exclude(now, 0.2) == 10
