"""Picks the best of several replies in a sample run: who judges, under what, and what is asked about each prompt.

Binds the judge's flows to replies, principles and a model. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cai.calls.flow import Driver, Played
from cai.calls.model import Model
from cai.constitution.principles import Constitution, draw, load_constitution
from cai.engine.ask_judge import AskJudge
from cai.engine.templates import Templates
from cai.errors import CaiError, RowDropped, UsageError
from cai.judge.belief import Verdict
from cai.judge.best_of import competitors, mean_wins, pairs_of, pick, rewards, unread
from cai.judge.flows import Flow, JudgeCheck, Pair, choose_protocol, judge
from cai.models import spec_of
from cai.records import Best, Candidate, Comparison, Contest, Prompt, Protocol, Request
from cai.runs.pairs import pair_of_replies
from cai.runs.players import check_ability
from cai.texts.wording import counted

MOST = 16  # replies whose every two are compared: 120 pairs, at three principles 720 questions a prompt
PRINCIPLES = 3  # of `cai label`, too
CONSTITUTION = "harmless"
T = TypeVar("T")


@dataclass(frozen=True)
class Picking:
    """How the best reply is picked, resolved and checked.

    law: None with a reward model, which is asked under no principle. principles: how many a pair is judged under.
    """

    protocol: Protocol
    templates: Templates
    law: Constitution | None
    principles: int

    def identity(self, model: Model) -> dict[str, Any]:
        """What decides which reply wins."""
        return {
            "judge": spec_of(model),
            "protocol": self.protocol,
            "templates": None if self.law is None else self.templates.judge_hash,
            "constitution": None if self.law is None else self.law.ref.model_dump(),
            "principles": self.principles,
        }

    def check(self, model: Model) -> None:
        """Raises UsageError where a judge cannot do what it is for, which some know only once they are loaded."""
        if self.law is None:
            choose_protocol("reward", model.can, spec_of(model))
        else:
            choose_protocol(self.protocol, model.can, spec_of(model))
            check_ability(model, self.templates)

    def describe(self) -> str:
        """What is asked, for people to read."""
        if self.law is None:
            return "one number a reply"
        count = len(self.law.principles_for("judge"))
        under = f"all {count}" if self.principles >= count else f"{self.principles} of {count}"
        where = f"{self.law.name} {self.law.version} ({self.law.source or 'made in Python'})"
        return f"every two replies in both orders, protocol {self.protocol}, {under} principles of {where}"

    def note(self, replies: int) -> str:
        """What a reader of a plan should know of the judge's calls."""
        fewer = "replies that cannot be used or say the same are not judged: there may be fewer calls"
        if self.law is None:
            return fewer
        pairs = math.comb(replies, 2)
        questions = counted(pairs * self.principles * 2, "question")
        asked = f"every two of {replies} replies are compared: {counted(pairs, 'pair')}, {questions}"
        again = "; votes that are split are asked again, up to three times in all" if self.protocol == "vote" else ""
        return f"{asked} a prompt{again}; {fewer}"


def resolve_picking(
    model: Model,
    templates: Templates,
    replies: int,
    *,
    protocol: str | None,
    constitution: str | Path | Constitution | None,
    principles: int | None,
) -> Picking:
    """Check what can be checked before the first call; raises UsageError. replies: drawn for each prompt."""
    asked = choose_protocol(protocol, model.can, spec_of(model))
    if asked == "reward":
        for flag, value in (("--constitution", constitution), ("--principles", principles)):
            if value is not None:
                raise UsageError(f"{flag}: {spec_of(model)} is a reward model, which reads no principles: leave it out")
        return Picking(asked, templates, None, 0)
    if asked == "reason":
        raise UsageError(
            "--protocol reason: beliefs after reasoning are cut to 0.4 … 0.6, so that replies would tie; use logprob, "
            "score or vote"
        )
    if replies > MOST:
        raise UsageError(
            f"--best-of: every two of {replies} replies are {math.comb(replies, 2):,} pairs a prompt; name at most "
            f"{MOST} replies in all, or a judge that gives each reply a number: --judge reward:PATH"
        )
    law = constitution if isinstance(constitution, Constitution) else load_constitution(constitution or CONSTITUTION)
    possible = law.principles_for("judge")
    check_ability(model, templates)
    AskJudge(templates, law, prefill=model.can.prefill).check(possible)
    return Picking(asked, templates, law, min(principles or PRINCIPLES, len(possible)))


class Picker:
    """Picks the best replies of one session."""

    def __init__(self, picking: Picking, model: Model, seed: int) -> None:
        self._how, self._seed, self._check = picking, seed, JudgeCheck(_advice(picking.protocol))
        self._principles = () if picking.law is None else picking.law.principles_for("judge")
        self._ask = (
            None
            if picking.law is None
            else AskJudge(picking.templates, picking.law, prefill=model.can.prefill)
        )  # fmt: skip

    def imagined(self, prompt: Prompt, answer: str, replies: int) -> Iterator[Request]:
        """What would be asked about a prompt if every reply were `answer`; of votes the first wave."""
        if self._ask is None:
            yield from next(rewards(prompt.messages, [answer] * replies))
            return
        for a, b in pairs_of(range(replies)):
            flow = self._flow(pair_of_replies(prompt.id, prompt.messages, (a, answer), (b, answer)))
            yield from next(flow)
            flow.close()

    def _flow(self, contest: Contest) -> Flow:
        """What is asked about two replies: the same that a label run asks about them."""
        assert self._ask is not None and contest.a is not None and contest.b is not None
        how = self._how
        drawn = self._principles
        weighted = how.principles >= len(drawn)
        if not weighted:
            drawn = draw(drawn, how.principles, self._seed, contest.id, stream="judge")
        pair = Pair(contest.messages, contest.a, contest.b)
        return judge(pair, drawn, self._ask, how.protocol, score=how.protocol == "score", weighted=weighted)

    async def pick(
        self, driver: Driver, item: Prompt, position: int, replies: Sequence[Candidate]
    ) -> tuple[Best, list[Played[Any]]]:
        """Which reply is the best, and the calls it took; raises RowDropped where the judge cannot tell."""
        same = competitors(replies)
        texts = {number: replies[number].text for number in same.values()}
        if len(texts) == 1:
            return self._best(next(iter(texts)), dict.fromkeys(same), (), replies, None), []
        if self._ask is None:
            played = await driver.play(item.id, position, rewards(item.messages, list(texts.values())))
            scores = dict(zip(texts, played.result, strict=True))
            comparisons: tuple[Comparison, ...] = ()
            all_played: list[Played[Any]] = [played]
        else:
            pairs = list(pairs_of(texts))
            judged = await all_of(self._compare(driver, item, position, (a, texts[a]), (b, texts[b])) for a, b in pairs)
            comparisons = tuple(
                Comparison(a=a, b=b, votes=done.result.votes, z=done.result.z)
                for (a, b), done in zip(pairs, judged, strict=True)
            )
            scores, all_played = mean_wins(comparisons, self._how.protocol), [*judged]
            if not scores:
                raise RowDropped("invalid_vote", "judge", unread(comparisons))
        known = {number: scores.get(first) for number, first in same.items()}
        return self._best(pick(scores), known, comparisons, replies, all_played[0].models["judge"]), all_played

    def _best(
        self,
        winner: int,
        scores: Mapping[int, float | None],
        comparisons: tuple[Comparison, ...],
        replies: Sequence[Candidate],
        named: str | None,
    ) -> Best:
        law = self._how.law
        return Best(
            winner=winner,
            judged=named is not None,
            scores=tuple(scores.get(number) for number in range(len(replies))),
            comparisons=comparisons,
            protocol=self._how.protocol,
            judge=named,
            constitution=None if law is None else law.ref,
            templates=None if law is None else self._how.templates.judge_hash,
        )

    async def _compare(
        self, driver: Driver, item: Prompt, position: int, first: tuple[int, str], second: tuple[int, str]
    ) -> Played[Verdict]:
        contest = pair_of_replies(item.id, item.messages, first, second)
        await self._check.admitted()
        try:
            played = await driver.play(contest.id, position, self._flow(contest))
        except CaiError:  # tells nothing of whether the judge can be read
            self._check.leave()
            raise
        self._check.watch(played.result.votes)
        return played


def _advice(protocol: Protocol) -> str:
    """What to do where a judge that is asked so does not answer with a letter."""
    if protocol == "vote":
        return "give it more --max-tokens where it thinks first, or another --judge"
    return "switch its thinking off (--extra-body), use --protocol vote, or name another --judge"


async def all_of(playing: Iterable[Awaitable[Played[T]]]) -> list[Played[T]]:
    """What several flows come to; after an error the others are heard out, since what is on its way is paid for."""
    found = await asyncio.gather(*playing, return_exceptions=True)
    errors = [each for each in found if isinstance(each, BaseException)]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, RowDropped))  # first what ends the run
    return [each for each in found if isinstance(each, Played)]
