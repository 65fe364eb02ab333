"""What becomes of several rewards for the same replies."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import Judge, likes_a

from cai.errors import ServerDown, UsageError
from cai.rewards.reward import Weighted
from cai.training.trainers.online.rating import Rater, weighted
from cai.training.trainers.online.rollouts import alike, numbers_of

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


def test_ctrl_c_while_a_reward_is_asked_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    class Endless(Judge):
        ended = False

        async def __call__(self, prompts: Sequence[Any], replies: Sequence[str]) -> list[float]:
            began.set()
            try:
                await asyncio.sleep(3600)
            finally:
                self.ended = True
            return []

    judge = Endless()
    rater = Rater([Weighted(1.0, judge)])

    def interrupted(asking: Future[Any], timeout: float | None = None) -> None:
        began.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Future, "result", interrupted)
        rater.rate([()], ["a"])
    rater.close()
    assert judge.ended


@given(st.lists(st.lists(st.none() | st.sampled_from([0.0, 1.0]), min_size=2, max_size=2), min_size=1))
def test_groups_without_two_rewards_that_differ_are_alike(groups: list[list[float | None]]) -> None:
    torch = pytest.importorskip("torch")
    rewards = [math.nan if reward is None else reward for group in groups for reward in group]
    expected = [None in group or group[0] == group[1] for group in groups]
    assert alike(torch.tensor(rewards), 2) == pytest.approx(sum(expected) / len(expected))


UNFIT = {
    "a weight that is not a number": ((float("nan"), likes_a), "has the weight nan"),
    "no weight": ((0, likes_a), "has the weight 0"),
    "a weight below 0": ((-1.0, likes_a), "has the weight -1.0"),
    "an infinite weight": ((math.inf, likes_a), "has the weight inf"),
    "a weight in words": (("x", likes_a), "has the weight 'x'"),
    "three parts": ((1.0, likes_a, 2), "is neither a reward nor a function"),
    "twice the same name": ([(1.0, likes_a), (2.0, likes_a)], "two rewards are called likes_a"),
}


@pytest.mark.parametrize(("rewards", "message"), UNFIT.values(), ids=UNFIT)
def test_rewards_from_python_are_checked_like_others(rewards: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        weighted(rewards)


class Stuck(Judge):
    """A reward that cannot be closed."""

    async def close(self) -> None:
        raise ServerDown("the judge does not answer")


def test_a_reward_that_cannot_be_closed_leaves_no_thread() -> None:
    rater = Rater([Weighted(1.0, Stuck()), Weighted(1.0, Judge())])
    with pytest.raises(ServerDown):
        rater.close()
    assert "cai rewards" not in {thread.name for thread in threading.enumerate()}
