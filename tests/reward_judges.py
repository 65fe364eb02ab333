"""Judges for tests of rewards, which like replies as a function says, and what they are asked with."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from players import Player

import cai.models
from cai.calls.model import Call
from cai.constitution.principles import Constitution, Principle
from cai.models import Provider
from cai.records import Completion, Message
from cai.rewards.calls import RewardCalls
from cai.rewards.completions import Completions
from cai.rewards.judge import JudgeReward
from cai.rewards.settings import RewardSettings

Mind = Callable[[str, str], float]  # how well a reply keeps to a rule, in nats
ONE = re.compile(r"<reply>\n(.*?)\n</reply>", re.S)
TWO = re.compile(r"<reply_a>\n(.*?)\n</reply_a>\n\n<reply_b>\n(.*?)\n</reply_b>", re.S)
RULE = re.compile(r"Rule \d+")


def law(*weights: float) -> Constitution:
    """A constitution of so many rules."""
    principles = [
        Principle.model_validate({"id": f"p{number}", "text": f"Rule {number}.", "weight": weight})
        for number, weight in enumerate(weights)
    ]
    return Constitution(name="law", version="1.0.0", principles=tuple(principles))


def user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def value(reply: str, rule: str = "") -> float:
    """What a reply says it is worth, as in "+2 …"."""
    return float(reply.split()[0])


def listed(first: str, second: str, odds: float, mass: float = 1.0) -> Completion:
    """Both words with these log odds of the first, and the rest of the probability with another word."""
    tokens = {
        first: math.log(mass) - math.log1p(math.exp(-odds)),
        second: math.log(mass) - math.log1p(math.exp(odds)),
    }
    if mass < 1:
        tokens["Well"] = math.log(1 - mass)
    return Completion(first if odds > 0 else second, "length", "rater-1", 100, 1, logprobs=(tokens,))


class Rater(Player):
    """A judge with a mind of its own and a bias: towards Yes, or towards the reply that is shown first."""

    def __init__(self, mind: Mind = value, bias: float = 0.0, mass: float = 1.0, **can: Any) -> None:
        super().__init__(self._answer, "rater", **({"logprobs": 20, "prefill": True} | can))
        self.mind, self.bias, self.mass = mind, bias, mass

    @property
    def calls(self) -> int:
        return self.asked.total()

    def payload(self, call: Call) -> dict[str, Any]:
        decisions = [(each.name, each.instructions, each.choices) for each in call.request.decisions]
        return super().payload(call) | {"decisions": decisions}

    def _answer(self, payload: dict[str, Any]) -> Completion:
        text = payload["messages"][0]["content"]  # after reasons the question is not in the last
        if payload["decisions"]:
            answers = [self._decided(text, *decision) for decision in payload["decisions"]]
            return Completion(json.dumps(answers), "stop", "rater-1", 100, 1)
        pair = TWO.search(text)
        words = ("A", "B") if pair else ("Yes", "No")
        odds = self._odds(text, text[pair.end() :] if pair else text)
        if payload["score"]:
            return Completion(
                "", "stop", "rater-1", 100, 1, scores=tuple((listed(*words, odds).logprobs or ())[0].values())
            )
        if payload["top_logprobs"]:
            return listed(*words, odds, self.mass)
        return Completion(words[odds <= 0], "stop", "rater-1", 100, 1)

    def _odds(self, shown: str, asked: str) -> float:
        found = RULE.search(asked)
        rule = found[0] if found else ""
        if (pair := TWO.search(shown)) is not None:
            return self.mind(pair[1], rule) - self.mind(pair[2], rule) + self.bias
        one = ONE.search(shown)
        assert one is not None, shown
        return self.mind(one[1], rule) + self.bias

    def _decided(self, text: str, name: str, asked: str, choices: Sequence[str]) -> dict[str, Any]:
        p = 1 / (1 + math.exp(-self._odds(text, asked)))
        if not choices:
            return {"type": "predicate", "name": name, "probability": p}
        listed = [{"value": choice, "probability": each} for choice, each in zip(choices, (p, 1 - p), strict=True)]
        return {"type": "choice", "name": name, "probabilities": listed}


def judge(folder: Path, rater: Any, under: Constitution | None = None, **settings: Any) -> JudgeReward:
    """The reward of a judge, whose answers are kept in a folder."""
    named = {"judge": "rater:one", "constitution": under or law(1.0), "price": "1,1"} | settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cai.models.PROVIDERS, "rater", Provider(lambda name, connection: rater, "rater:"))
        calls = RewardCalls(folder, RewardSettings.model_validate(named))
        return JudgeReward("judge", calls, Completions(folder))


def rewards(reward: Any, replies: Sequence[str], prompt: str = "How?") -> Any:
    """The rewards of a group of replies."""

    async def play() -> Any:
        try:
            return await reward([user(prompt)] * len(replies), replies)
        finally:
            await reward.close()

    return asyncio.run(play())
