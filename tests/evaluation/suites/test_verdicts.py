"""What follows from the outcomes of pairs, with human verdicts beside the judge's."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluation.arena.outcomes import Outcome
from cai.evaluation.statistics.debias import with_ties
from cai.evaluation.statistics.estimates import Estimate
from cai.evaluation.suites.verdicts import accuracy_on, both_ways, corrected_line


def outcome(prompt: int, won: float, same: bool = False, key: str = "") -> Outcome:
    """BASE's reply against that of contestant 1; won: whether BASE's is better."""
    return Outcome(prompt, 0, 1, key or f"pair {prompt}", f"base {prompt}", 0, won, judged=True, same=same)


def test_ties_are_half_to_people_and_judge_whoever_labelled_the_others() -> None:
    """People prefer the model in four of five differing pairs, and half of the prompts have none."""
    outcomes, gold = [], {}
    for prompt in range(400):
        if prompt % 2:
            outcomes.append(outcome(prompt, 0.5, same=True))
            continue
        truth = float(prompt % 10 == 0)  # BASE is better
        outcomes.append(outcome(prompt, truth if prompt % 8 else 1 - truth))
        if prompt < 200:
            gold[f"pair {prompt}", f"base {prompt}"] = truth
    line, _ = corrected_line("m", outcomes, 1, gold)
    assert line.figure.value == pytest.approx(0.5 * 0.8 + 0.5 * 0.5, abs=0.02)
    assert line.figure.low is not None and line.figure.high is not None
    assert line.figure.low < 0.65 < line.figure.high and line.figure.n == 400


def test_a_pair_that_is_there_both_ways_round_is_read_by_its_reply() -> None:
    """Contestant 2 says what BASE does, so its pair with contestant 1 is that of BASE with contestant 1."""
    outcomes = []
    for prompt in range(40):
        key, base, other = f"pair {prompt}", f"base {prompt}", f"other {prompt}"
        outcomes.append(Outcome(prompt, 0, 1, key, base, 0, 0.0, judged=True))
        outcomes.append(Outcome(prompt, 1, 2, key, other, 0, 1.0, judged=True))
    replies = {each.key: each.a for each in outcomes}  # the last of each: those of contestant 1
    gold = both_ways(outcomes, replies, dict.fromkeys(replies, 1.0))
    line, bias = corrected_line("one", outcomes, 1, gold)
    accuracy = accuracy_on(outcomes, gold)
    assert line.figure.value == 1.0 and bias == 0.0 and accuracy is not None and accuracy.value == 1.0


@given(st.floats(0.01, 0.99), st.integers(2, 50), st.integers(0, 50))
def test_ties_draw_a_rate_towards_one_half(value: float, others: int, ties: int) -> None:
    found = with_ties(Estimate(value, value / 2, (1 + value) / 2, others), others, ties)
    assert found.value == pytest.approx((value * others + ties / 2) / (others + ties))
    assert found.low is not None and found.high is not None and found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.n == others + ties


def test_the_interval_of_an_accuracy_is_over_prompts() -> None:
    """Eight pairs of each prompt, whose verdicts are all right or all wrong, are eight times one verdict."""
    draws = random.Random(0)
    rights = [draws.random() < 0.5 for _ in range(40)]
    outcomes, gold = [], {}
    for prompt, right in enumerate(rights):
        for number in range(8):
            key = f"{prompt}:{number}"
            outcomes.append(outcome(prompt, float(right), key=key))
            gold[key, f"base {prompt}"] = 1.0
    figure = accuracy_on(outcomes, gold)
    alone = accuracy_on([each for each in outcomes if each.key.endswith(":0")], gold)
    assert figure is not None and alone is not None
    assert figure.value == alone.value == fmean(rights)
    assert figure.high is not None and figure.low is not None and alone.high is not None and alone.low is not None
    assert figure.high - figure.low == pytest.approx(alone.high - alone.low, rel=0.1)
