"""Rewards by a trained reward model."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

from cai.calls.model import spec_of
from cai.calls.seats import Flow
from cai.engine.ask_judge import AskJudge
from cai.errors import RowDropped, UsageError
from cai.models.specs import without_address
from cai.records import Completion, Message, Request, Turns, Values
from cai.rewards.calls import AskedReward, RewardCalls, settled
from cai.rewards.completions import Completions
from cai.rewards.reward import Rated, groups_of, reply_id


class ModelReward(AskedReward):
    """A reward model, which gives a conversation that ends with a reply a number on a scale of its own.

    Texts that look like control tokens are texts to it. A reply that exceeds its context is unknown, never cut.
    """

    max_tokens = 1  # of an answer: it writes nothing

    def __init__(self, name: str, calls: RewardCalls, completions: Completions, spec: str) -> None:
        self.name = name
        self._calls, self._completions, self._spec = calls, completions, spec
        self.model = calls.add(spec, self._prepare)
        if not self.model.can.reward:
            raise UsageError(f"{without_address(spec)} is not a reward model: use reward:PATH, or a judge")
        if self.model.can.condition is not None:
            name = without_address(spec)
            raise UsageError(f"{name} judges by principles that it is told: use it as --reward judge --judge {name}")

    @property
    def title(self) -> str:
        """Who rates, for people to read."""
        return spec_of(self.model)

    @property
    def identity(self) -> Values:
        """What decides its numbers."""
        return {"model": spec_of(self.model)}

    def rehearsed(self, prompt: Turns, reply: str, replies: int) -> tuple[Flow[Any], int]:
        """What is asked about so many replies to a prompt that are as long as this one: a flow, and how often."""
        return _score(prompt, reply), replies

    async def _prepare(self) -> None:
        """Nothing is left to do once it is loaded."""

    async def rate(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[Rated]:
        """The rewards, with the keys of their calls."""
        rated = await settled(
            self._rated(id, prompts[place.start], reply)
            for id, place in groups_of(prompts, replies)
            for reply in replies[place]
        )
        return rated

    async def _rated(self, prompt_id: str, prompt: Sequence[Message], reply: str) -> Rated:
        row = reply_id(prompt_id, reply)
        try:
            played = await self._calls.play(self._spec, row, _score(prompt, reply))
            rated = Rated(played.result, calls=played.calls)
        except RowDropped as dropped:
            rated = Rated(None, calls=dropped.calls, problem=str(dropped))
        name = reply_id(prompt_id, self.name, self.title, reply)
        self._completions.add(name, self.name, self.title, prompt, reply, rated)
        return rated


def _score(prompt: Sequence[Message], reply: str) -> Generator[list[Request], list[Completion], float]:
    """The number of one reply; RowDropped if it is not finite."""
    [answer] = yield [AskJudge.reward(prompt, reply)]
    [score] = answer.scores or (math.nan,)
    if not math.isfinite(score):
        raise RowDropped("model_error", "judge", "the reward model gave no finite number")
    return score
