"""Replies that a judge compares with each other, around a circle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reward_judges import Rater, judge, law, rewards

from cai.records import Completion
from cai.rewards.scoring import circle

ANYHOW = [{"logprobs": 20}, {"logprobs": 0, "scoring": True}, {"logprobs": 0, "decisions": 2, "decides": True}]
numbers = st.lists(st.integers(-3, 3), min_size=1, max_size=5)


def compared(replies: list[str], rater: Any, **options: Any) -> list[float | None]:
    with tempfile.TemporaryDirectory() as folder:
        found: list[float | None] = rewards(judge(Path(folder), rater, scoring="group", **options), replies)
        return found


@settings(max_examples=25)
@given(numbers, st.floats(-6, 6))
@example([1, 2, 2, -1], 3.0)
def test_a_bias_towards_either_place_changes_no_reward(worths: list[int], bias: float) -> None:
    replies = [f"{worth:+} reply {number}" for number, worth in enumerate(worths)]
    fair = compared(replies, Rater())
    assert compared(replies, Rater(bias=bias)) == [each if each is None else pytest.approx(each) for each in fair]


@pytest.mark.parametrize("can", ANYHOW)
def test_a_reward_is_the_mean_preference_over_both_neighbours(can: dict[str, int]) -> None:
    # In a circle of a, b, c every reply meets both others.
    assert compared(["+3 a", "+1 b", "-1 c"], Rater(**can)) == pytest.approx([3, 0, -3])


def test_the_rewards_of_a_group_add_up_to_nothing_and_rank_as_the_judge_does() -> None:
    replies = [f"{worth:+} {worth}" for worth in (4, 2, -2, -4)]
    found = [each or 0.0 for each in compared(replies, Rater())]
    assert sum(found) == pytest.approx(0)
    assert max(found) == found[0] and min(found) == found[3]


@pytest.mark.parametrize(("count", "pairs"), [(0, 0), (1, 0), (2, 1), (3, 3), (8, 8)])
def test_a_circle_has_as_many_pairs_as_replies(count: int, pairs: int) -> None:
    found = circle(count)
    assert len(found) == len({frozenset(pair) for pair in found}) == pairs
    assert {place for pair in found for place in pair} == (set(range(count)) if count > 1 else set())


def test_every_pair_is_asked_about_in_both_orders_under_every_principle(tmp_path: Path) -> None:
    rater = Rater()
    reward = judge(tmp_path, rater, law(1, 1, 1), scoring="group")
    rewards(reward, [f"+1 {name}" for name in "abcde"])
    assert rater.calls == 2 * 5 * 3 == reward.most_calls(5)


def test_ties_and_invalid_comparisons_count_for_nothing() -> None:
    assert compared(["+1 a", "+1 b", "+1 c"], Rater()) == [None] * 3  # and no reward of 0
    assert compared(["+1 a", "+1 b", "-1 c"], Rater()) == pytest.approx([2, 2, -2])

    class Vague(Rater):
        def _answer(self, payload: dict[str, Any]) -> Completion:
            self.mass = 0.4 if "+2 b" in repr(payload) else 1.0
            return super()._answer(payload)

    assert compared(["+1 a", "+2 b", "-1 c"], Vague()) == [pytest.approx(2), None, pytest.approx(-2)]


def test_equal_replies_are_asked_about_once_and_get_one_reward(tmp_path: Path) -> None:
    rater = Rater()
    found = rewards(judge(tmp_path, rater, scoring="group"), ["+1 a", "-1 b", "+1 a ", "+1 a"])
    assert found == pytest.approx([2, -2, 2, 2])
    assert rater.calls == 2


def test_a_group_of_one_or_of_equals_has_nothing_to_compare_and_costs_nothing(tmp_path: Path) -> None:
    rater = Rater()
    reward = judge(tmp_path, rater, scoring="group")
    assert rewards(reward, ["+1 a"]) == [None]
    assert rewards(reward, ["+1 a"] * 3) == [None] * 3
    assert rater.calls == 0


def test_a_pair_costs_nothing_more_in_another_order_of_the_group(tmp_path: Path) -> None:
    rater = Rater()
    rater.seeds = True  # it is sent one
    reward = judge(tmp_path, rater, scoring="group")
    found = rewards(reward, ["+1 a", "+2 b", "-1 c"])
    assert rewards(reward, ["-1 c", "+2 b", "+1 a"]) == found[::-1]
    assert rater.calls == 6


def test_words_rank_too(tmp_path: Path) -> None:
    best, worst = compared(["+1 a", "-1 b"], Rater(logprobs=0))
    assert best is not None and worst is not None and best == -worst > 0
