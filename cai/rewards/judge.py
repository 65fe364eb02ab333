"""Rewards by a judge under the principles of a constitution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from cai.calls.model import ListsTokens, check_ability, spec_of
from cai.calls.protocols import choose_protocol
from cai.calls.seats import Flow, Played
from cai.constitution.condition import warn_of_unseen
from cai.constitution.draw import draw
from cai.constitution.files import load_constitution
from cai.constitution.principles import Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.ask_keeps import AskKeeps
from cai.engine.readability import JudgeCheck, advice
from cai.engine.templates.sets import load_templates
from cai.errors import UsageError
from cai.records import Message, Protocol, Reading, Turns, Values
from cai.rewards.calls import AskedReward, RewardCalls, settled
from cai.rewards.completions import Completions
from cai.rewards.conditioned import AskConditioned
from cai.rewards.reward import Rated, groups_of, reply_id
from cai.rewards.scoring import ByGroup, ByPoint, Group, Scoring
from cai.rewards.settings import Law, RewardSettings
from cai.sources.conversations import prompt_hash


class JudgeReward(AskedReward):
    """A judge that rates replies under principles, drawn for each prompt by weight and the same for all replies to it.

    calls: asks the judge. settings: None: those of the calls. law: None: that of the settings. Raises UsageError if the
    judge cannot be asked so, TemplateError if a question cannot be worded. A call raises Unreadable if the first
    answers cannot be read.
    """

    def __init__(
        self,
        name: str,
        calls: RewardCalls,
        completions: Completions,
        law: Law | None = None,
        settings: RewardSettings | None = None,
    ) -> None:
        self.name = name
        settings = settings or calls.settings
        self.law = load_constitution(settings.constitution if law is None else law)
        self._calls, self._completions, self._settings, self._spec = calls, completions, settings, settings.judge
        self._templates = load_templates(settings.templates)
        self.model = calls.add(self._spec, self._prepare)
        self.protocol = self._chosen()
        self.principles = self.law.principles_for("judge")
        self.scoring = self._scoring()
        self.scoring.check(self.principles)
        each = self.scoring.readings * self._drawn
        what_to_do = advice(self.protocol, self.scoring.words)
        self._readable = JudgeCheck(
            what_to_do, wanted=self.scoring.wanted, unit="answers", each=each, needed=not self.model.can.reward
        )
        self._asked = itertools.count()
        self._fingerprint = orjson.dumps(self.identity, option=orjson.OPT_SORT_KEYS).decode()

    def _chosen(self) -> Protocol:
        name, scoring = spec_of(self.model), self._settings.scoring
        protocol = choose_protocol(self._settings.protocol, self.model.can, name, completes=self._templates.completes)
        if protocol == "reward":
            raise UsageError(f"{name} is a reward model and reads no principles: use it as --reward {self._spec}")
        if protocol == "conditioned":
            if scoring == "group":
                raise UsageError(f"--scoring group: {name} reads each reply by itself; use --scoring point")
            return protocol
        if protocol == "reason" and scoring == "point":
            raise UsageError("--protocol reason is for --scoring group: name logprob, score, vote or decide")
        check_ability(self.model, completes=self._templates.completes)
        return protocol

    def _scoring(self) -> Scoring:
        settings, can = self._settings, self.model.can
        weighted = settings.principles >= len(self.principles)  # else the draw has counted the weights
        at_once = can.decisions if self.protocol == "decide" else 1
        more: Values = {"prefill": can.prefill, "decisions": can.decisions}
        if can.condition is not None:
            ask = AskJudge(self._templates, self.law, prefill=False, condition=can.condition)
            return ByPoint(AskConditioned(ask), weighted, at_once, clip=math.inf)
        if settings.scoring == "point":
            return ByPoint(AskKeeps(self._templates, self.law, self.protocol, **more), weighted, at_once)
        score = self.protocol == "score" or (self.protocol == "reason" and not can.logprobs)
        return ByGroup(AskJudge(self._templates, self.law, **more), self.protocol, score, weighted, at_once)

    @property
    def title(self) -> str:
        """Who rates, how and under what, for people to read."""
        return f"{spec_of(self.model)} ({self.protocol}, by {self._settings.scoring}) under {self.law.title}"

    @property
    def identity(self) -> Values:
        """What decides its numbers."""
        templates, settings = self._templates, self._settings
        asked = settings.model_dump(include={"scoring", "extra_body", "seed"}, mode="json")
        of_words = settings.max_tokens if self.protocol in ("vote", "reason") else None
        return {
            "judge": spec_of(self.model),
            "protocol": self.protocol,
            "constitution": self.law.ref.model_dump(),
            "principles": self._drawn,
            "templates": templates.screen_hash if settings.scoring == "point" else templates.judge_hash,
            "max_tokens": of_words,
            **asked,
        }

    @property
    def _drawn(self) -> int:
        """How many principles are drawn for a prompt."""
        return min(self._settings.principles, len(self.principles))

    async def _prepare(self) -> None:
        """See whether the judge, now that it is loaded, can be asked so, and have its words listed by a server."""
        if self._chosen() != self.protocol:
            raise UsageError(f"{spec_of(self.model)} cannot be asked by --protocol {self.protocol} once loaded")
        warn_of_unseen(spec_of(self.model), self.model.can.condition, self.principles)
        if self.protocol in ("logprob", "reason") and isinstance(self.model, ListsTokens):
            await self.model.list_tokens(self.scoring.letters)

    async def rate(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[Rated]:
        """The rewards with the votes that they follow from."""
        rated = await settled(
            self._of_group(Group(id, tuple(prompts[place.start]), replies[place], self._principles(id)))
            for id, place in groups_of(prompts, replies)
        )
        return list(itertools.chain.from_iterable(rated))

    def rehearsed(self, prompt: Turns, reply: str, replies: int) -> tuple[Flow[Any], int]:
        """What is asked about so many replies to a prompt that are as long as this one: a flow, and how often."""
        id = prompt_hash(prompt)
        return self.scoring.rehearsed(Group(id, prompt, [reply], self._principles(id)), replies)

    @property
    def max_tokens(self) -> int:
        """The longest answer in words."""
        return self._settings.max_tokens

    def most_calls(self, replies: int) -> int:
        """How many calls so many replies to one prompt take at most."""
        return self.scoring.most_calls(replies, self._drawn)

    def _principles(self, prompt: str) -> Sequence[Principle]:
        count = self._settings.principles
        if count >= len(self.principles):
            return self.principles
        return draw(self.principles, count, self._settings.seed, prompt, stream="reward")

    async def _of_group(self, group: Group) -> list[Rated]:
        rated = await self.scoring.rate(self._play, group)
        others = sorted(group.replies) if self._settings.scoring == "group" else []
        for reply, each in zip(group.replies, rated, strict=True):
            name = reply_id(group.id, self.name, self._fingerprint, reply, *others)
            self._completions.add(name, self.name, self.title, group.prompt, reply, each)
        return rated

    async def _play(self, row: str, flow: Flow[Any], readings: Callable[[Any], Iterable[Reading]]) -> Played[Any]:
        """Play a flow once the judge is known to be readable, or if it is among the first."""
        position = next(self._asked)
        await self._readable.admitted(position)
        try:
            played = await self._calls.play(self._spec, row, flow)
        except BaseException:  # whoever waits to be admitted must not wait for ever
            self._readable.leave(position)
            raise
        for reading in readings(played.result):
            mass = float(reading.problem is None) if reading.mass is None else reading.mass
            self._readable.see([mass], reading.problem)
        return played
