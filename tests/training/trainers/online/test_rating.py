"""What becomes of several rewards for the same replies."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import Judge

from cai.errors import ServerDown
from cai.rewards.reward import Weighted
from cai.training.trainers.online.rating import Rater
from cai.training.trainers.online.rollouts import numbers_of

NUMBERS = st.floats(-9, 9)


@given(st.lists(st.tuples(st.none() | NUMBERS, NUMBERS), min_size=1))
def test_a_sum_of_rewards_is_unknown_if_one_that_counts_is(rewards: list[tuple[float | None, float]]) -> None:
    numbers = numbers_of([reward for reward, _ in rewards], [weight for _, weight in rewards])
    unknown = any(reward is None and weight for reward, weight in rewards)
    assert all(map(math.isnan, numbers)) == (unknown or all(reward is None for reward, _ in rewards))
    if not unknown:
        assert [None if math.isnan(number) else number for number in numbers] == [reward for reward, _ in rewards]


class Slow(Judge):
    """A reward that takes a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    async def __call__(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
        await asyncio.sleep(0.05)
        self.ended += 1
        return await super().__call__(prompts, replies)


def test_a_reward_that_fails_waits_for_those_that_are_paid_already() -> None:
    slow = Slow()
    rater = Rater([Weighted(1.0, Judge(stops=1)), Weighted(1.0, slow)])
    with pytest.raises(ServerDown):
        rater.rate([()], ["a"])
    assert slow.ended == 1
    rater.close()


class Stuck(Judge):
    """A reward that cannot be closed."""

    async def close(self) -> None:
        raise ServerDown("the judge does not answer")


def test_a_reward_that_cannot_be_closed_leaves_no_thread() -> None:
    rater = Rater([Weighted(1.0, Stuck()), Weighted(1.0, Judge())])
    with pytest.raises(ServerDown):
        rater.close()
    assert "cai rewards" not in {thread.name for thread in threading.enumerate()}
