"""The rewards of a training: which they are, and how a trainer, which waits, asks several of them at once."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cai.errors import RunError, UsageError
from cai.records import Message, Values
from cai.rewards.calls import RewardCalls, settled
from cai.rewards.completions import Completions
from cai.rewards.functions import FunctionReward
from cai.rewards.judge import JudgeReward
from cai.rewards.model import ModelReward
from cai.rewards.named import read_rewards, read_watch
from cai.rewards.reward import Reward, Weighted
from cai.rewards.settings import RewardSettings
from cai.texts.wording import counted
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS

Conversations = Sequence[Sequence[Message]]
Numbers = list[float | None]


class Rewards(NamedTuple):
    """What rates the replies of a training."""

    weighted: tuple[Weighted, ...] = ()  # of which the sum is learnt; none: the method takes none
    watch: Reward | None = None  # takes no part, and rates held-out replies


def weighted(rewards: Any) -> list[Weighted]:
    """Rewards as they are passed from Python: one or a list, each a reward, a function, or (weight, one of these)."""
    entries = rewards if isinstance(rewards, list) else [rewards]
    found = list[Weighted]()
    for entry in entries:
        weight, reward = entry if isinstance(entry, tuple) and len(entry) == 2 else (1.0, entry)
        if not callable(reward):
            raise UsageError(f"the reward {reward!r} is neither a reward nor a function f(prompts, replies)")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UsageError(f"the reward {_name_of(reward)} has the weight {weight!r}: it must be a number above 0")
        if not hasattr(reward, "close"):
            reward = FunctionReward(_name_of(reward), reward)
        if any(reward.name == each.name for _, each in found):
            raise UsageError(f"two rewards are called {reward.name}: give one another name, or add up their weights")
        found.append(Weighted(float(weight), reward))
    return found


def _name_of(reward: Any) -> str:
    names = (getattr(reward, "name", None), getattr(reward, "__name__", None), type(reward).__name__)
    return str(next(name for name in names if name))


def key_of(rewards: Any, key: str = "reward") -> Values:
    """The key of the config for rewards from Python, their weights and names; {} for none."""
    if rewards is None:
        return {}
    if isinstance(rewards, str):
        return {key: rewards}
    return {key: ",".join(f"{weight:g}:{reward.name}" for weight, reward in weighted(rewards))}


def open_rewards(
    method: str, config: TrainConfig, rewards: Any, watch: Any, judging: RewardSettings, folder: Path
) -> Rewards:
    """The rewards of a training, from Python or as its config names them; none if its method takes none.

    What their models answer is kept in `folder`. Raises UsageError if none is named, or one cannot be.
    """
    if not METHODS[method].online:
        return Rewards()
    text = config.reward
    if text is None:
        raise UsageError(f"{method} needs a reward: --reward reward:FOLDER, judge, length, format or MODULE:FUNCTION")
    calls, completions = RewardCalls(folder, judging), Completions(folder)
    is_named = rewards is None or isinstance(rewards, str)
    given = read_rewards(text, calls, completions) if is_named else weighted(rewards)
    if watch is None or isinstance(watch, str):
        watching = config.watch and read_watch(config.watch, given, calls, completions)
        return Rewards(tuple(given), watching or None)
    watches = weighted(watch)
    if len(watches) != 1:
        raise UsageError(f"watch is one reward that takes no part, not {len(watches)}")
    return Rewards(tuple(given), watches[0].reward)


def identity_of(rewards: Sequence[Weighted]) -> list[Values]:
    """What decides the numbers that models give, besides names and weights of the rewards."""
    asking = [reward for _, reward in rewards if isinstance(reward, JudgeReward | ModelReward)]
    return [{"name": reward.name, **reward.identity} for reward in asking]


@contextmanager
def rating(rewards: Rewards) -> Iterator[Rater | None]:
    """Who rates replies, if there are rewards; closed at the end."""
    if not rewards.weighted:
        yield None
        return
    rater = Rater(*rewards)
    try:
        yield rater
    finally:
        rater.close()


class Rater:
    """Asks rewards in a loop of their own, in one thread for the whole session."""

    def __init__(self, rewards: Sequence[Weighted], watch: Reward | None = None) -> None:
        self.rewards = tuple(rewards)
        self.watch = watch
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cai rewards", daemon=True)
        self._thread.start()

    @property
    def names(self) -> str:
        """The rewards in a sentence."""
        return ", ".join(reward.name for _, reward in self.rewards)

    def rate(self, prompts: Conversations, replies: Sequence[str], *, held_out: bool = False) -> list[Numbers]:
        """Of each reward, a number for each reply or None; raises CaiErrors, for numbers too that cannot be.

        held_out: whether `watch`, if there is one, rates them, too; its numbers come last.
        """
        asked = [reward for _, reward in self.rewards]
        if held_out and self.watch is not None:
            asked.append(self.watch)
        asking = asyncio.run_coroutine_threadsafe(self._all(asked, prompts, replies), self._loop)
        try:
            return asking.result()
        except BaseException:
            asking.cancel()  # Ctrl-C again stops at once; it has ended already after an error
            raise

    async def _all(self, asked: list[Reward], prompts: Conversations, replies: Sequence[str]) -> list[Numbers]:
        return await settled(_asked(reward, prompts, replies) for reward in asked)

    def close(self) -> None:
        """Release what the rewards hold, and end the thread."""
        every = [reward for _, reward in self.rewards]
        closing = settled(reward.close() for reward in (*every, *filter(None, [self.watch])))
        try:
            asyncio.run_coroutine_threadsafe(closing, self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _asked(reward: Reward, prompts: Conversations, replies: Sequence[str]) -> Numbers:
    """What one reward gives, checked: NaN would spread to every weight."""
    numbers = list(await reward(prompts, replies))
    if len(numbers) != len(replies):
        raise RunError(f"the reward {reward.name} gave {counted(len(numbers), 'number')} for {len(replies):,} replies")
    for number, reply in zip(numbers, replies, strict=True):
        if number is not None and not math.isfinite(number):
            raise RunError(
                f"the reward {reward.name} gave {number} for the reply {reply[:60]!r}; an unknown one is None"
            )
    return numbers
