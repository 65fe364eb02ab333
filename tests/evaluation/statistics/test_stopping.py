"""Stopping early is rarely wrong, whatever is looked at and however often."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluation.statistics.stopping import always_valid, log_evidence, stops_after

COUNT = st.integers(0, 400)


def wins_until_decided(chance: random.Random, rate: float, most: int) -> tuple[bool, int, int]:
    """Whether it was decided within `most` prompts, and the wins and losses at which the evaluation ended."""
    means = [float(chance.random() < rate) for _ in range(most)]
    end = stops_after(means)
    wins = round(sum(means[:end]))
    return end is not None, wins, (end or most) - wins


def test_the_evidence_is_that_of_the_formula_by_hand() -> None:
    # B(11, 10) / B(10, 10) = 10/20, B(12, 10) / B(10, 10) = 10/20 * 11/21, B(11, 11) / B(10, 10) = 10/20 * 10/21
    assert math.exp(log_evidence(0, 0)) == pytest.approx(1)
    assert math.exp(log_evidence(1, 0)) == pytest.approx(1)
    assert math.exp(log_evidence(2, 0)) == pytest.approx(4 * 10 / 20 * 11 / 21)
    assert math.exp(log_evidence(1, 1)) == pytest.approx(4 * 10 / 20 * 10 / 21)


@given(COUNT, COUNT)
def test_under_even_chances_the_next_prompt_changes_no_evidence_on_average(wins: int, losses: int) -> None:
    now, won, lost = (log_evidence(wins + w, losses + f) for w, f in ((0, 0), (1, 0), (0, 1)))
    assert (math.exp(won - now) + math.exp(lost - now)) / 2 == pytest.approx(1)


def test_equal_models_are_told_apart_in_at_most_5_of_100_evaluations() -> None:
    chance = random.Random(1)
    false = sum(wins_until_decided(chance, 0.5, 400)[0] for _ in range(600))
    assert 6 <= false <= 30  # of 600; hardly any would mean that more prompts are asked than need be


def test_unlike_models_are_told_apart_soon() -> None:
    chance = random.Random(2)
    needed = sorted(sum(wins_until_decided(chance, 0.65, 500)[1:]) for _ in range(200))
    assert 60 <= needed[100] <= 110


@pytest.mark.parametrize("rate", [0.5, 0.6, 0.8])
def test_the_interval_at_the_stop_covers_the_rate(rate: float) -> None:
    chance = random.Random(3)
    held = 0
    for _ in range(200):
        low, high = always_valid(*wins_until_decided(chance, rate, 300)[1:])
        held += low <= rate <= high
    assert held / 200 >= 0.95


@given(COUNT, COUNT)
def test_it_stops_when_the_interval_leaves_a_half_out(wins: int, losses: int) -> None:
    low, high = always_valid(wins, losses)
    assert (log_evidence(wins, losses) >= math.log(20)) == (not low <= 0.5 <= high)
    assert 0 <= low < high <= 1
    turned = always_valid(losses, wins)
    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-8)


def test_it_stops_at_the_first_prompt_that_decides_and_ties_decide_nothing() -> None:
    assert stops_after([1.0] * 100) == stops_after([0.75] * 100) == stops_after([0.25] * 100) == 15
    assert math.exp(log_evidence(15, 0)) >= 20 > math.exp(log_evidence(14, 0))
    assert stops_after([0.5, 1.0] * 100) == 30
    for means in ([1.0] * 14, [0.5] * 500, [1.0, 0.0] * 250, []):
        assert stops_after(means) is None


def test_a_stricter_bound_stops_later() -> None:
    assert (stops_after([1.0] * 100, alpha=0.01) or 0) > (stops_after([1.0] * 100, alpha=0.05) or 0) > 0


def test_a_million_prompts_overflow_nothing() -> None:
    assert log_evidence(1_000_000, 0) == pytest.approx(1e6 * math.log(2), rel=1e-3)
    assert log_evidence(500_000, 500_000) < 0
    low, high = always_valid(500_000, 500_000)
    assert 0.495 < low < 0.5 < high < 0.505
    assert always_valid(0, 1_000_000)[0] == 0 and always_valid(1_000_000, 0)[1] == 1
    assert always_valid(0, 0) == (0, 1)
