"""A judge bound to a constitution: what it is asked about two replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cai.calls.flow import Driver
from cai.calls.model import Call, ListsTokens, Model, call_seed, check_ability, spec_of
from cai.calls.protocols import choose_protocol
from cai.calls.seats import Played
from cai.constitution.condition import warn_of_unseen
from cai.constitution.draw import draw
from cai.constitution.principles import Constitution, Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.readability import JudgeCheck, advice
from cai.engine.templates.sets import Templates
from cai.errors import CaiError, UsageError
from cai.judge.flows import Flow, Pair, Verdict, is_valid, judge
from cai.records import Contest, Label, Values
from cai.runs.kinds.settings import LabelSettings

WORDS = "judge.jinja and verdict.jinja"
LOOK = "look at an answer with cai show RUN ID --calls, or "
Choose = Callable[[Contest], Sequence[Principle]]


class Judging:
    """How one judge is asked in one session.

    choose: the principles that a pair is judged under; None: drawn by weight. Raises UsageError if the judge cannot be
    asked by the protocol of `settings`, TemplateError if a question cannot be worded.
    """

    def __init__(
        self, model: Model, settings: LabelSettings, templates: Templates, law: Constitution, choose: Choose | None
    ) -> None:
        self.model, self.law, self._settings, self._templates = model, law, settings, templates
        self.protocol = choose_protocol(settings.protocol, model.can, spec_of(model), completes=templates.completes)
        self.principles = law.principles_for("judge")
        self.all = settings.principles >= len(self.principles)  # then each pair is judged under all principles
        self._choose = choose or self._draw
        self.drawn_as: Callable[[str], str] = str  # the name, by the id of a pair, from which all chance follows
        can = model.can
        self._ask = AskJudge(templates, law, prefill=can.prefill, decisions=can.decisions, condition=can.condition)
        if not can.reward:
            check_ability(model, completes=templates.completes)
        self.check_words(self.principles)
        self.readable = JudgeCheck(advice(self.protocol, WORDS, LOOK), needed=not can.reward)

    @property
    def binding(self) -> Values:
        """What a calibration of this judge is bound to."""
        return {
            "judge": spec_of(self.model),
            "protocol": self.protocol,
            "templates": self._templates.judge_hash,
            "constitution": self.law.ref.model_dump(),
            "principles": min(self._settings.principles, len(self.principles)),
        }

    def check(self) -> None:
        """Raise UsageError if the judge, now that it is loaded, cannot be asked after all."""
        name = spec_of(self.model)
        completes = self._templates.completes
        if choose_protocol(self._settings.protocol, self.model.can, name, completes=completes) != self.protocol:
            raise UsageError(f"{name} cannot be asked by --protocol {self.protocol} once loaded")
        if not self.model.can.reward:
            check_ability(self.model, completes=completes)
        warn_of_unseen(name, self.model.can.condition, self.principles)

    async def prepare(self) -> None:
        """Have both letters listed, however unlikely, by a server that can be named tokens."""
        if self.protocol in ("logprob", "reason") and isinstance(self.model, ListsTokens):
            await self.model.list_tokens(tuple(map(str.strip, self._ask.letters)))

    def _draw(self, item: Contest) -> Sequence[Principle]:
        return self._drawn(item.id, self._settings.principles)

    def _drawn(self, pair: str, count: int) -> Sequence[Principle]:
        """So many principles for the pair of an id."""
        if count >= len(self.principles):
            return self.principles
        return draw(self.principles, count, self._settings.seed, self.drawn_as(pair), stream="judge")

    def asked_before(self, call: Call, counts: Sequence[int]) -> Iterator[Call]:
        """A question as it was when fewer principles were drawn: it had another number then, and so another seed.

        A greedy answer follows from no seed, and a drawn one is as good a draw. counts: how many were drawn in earlier
        sessions.
        """
        if not counts:
            return
        now = self._drawn(call.row, self._settings.principles)
        wave, place = divmod(call.index, 2 * len(now))
        order, number = divmod(place, len(now))
        for count in counts:
            ids = [principle.id for principle in self._drawn(call.row, count)]
            if now[number].id in ids:
                index = (2 * wave + order) * count + ids.index(now[number].id)
                seed = call_seed(self._settings.seed, self.drawn_as(call.row), "judge", index)
                yield replace(call, index=index, seed=seed)

    def check_words(self, principles: Sequence[Principle]) -> None:
        """Raise TemplateError if a question under one of these principles cannot be worded."""
        if not self.model.can.reward:
            self._ask.check(principles)
        if self.protocol == "decide":
            self._ask.check_decisions(principles)

    def flow(self, pair: Pair, principles: Sequence[Principle], *, weighted: bool) -> Flow:
        """The questions about a pair under these principles; weighted: they count by weight, not alike."""
        score = self.protocol == "score" or (self.protocol == "reason" and not self.model.can.logprobs)
        return judge(pair, principles, self._ask, self.protocol, score=score, weighted=weighted)

    async def ask(self, driver: Driver, item: Contest, position: int) -> Played[Verdict]:
        """The verdict on a pair; raises Unreadable if the answers to the first pairs cannot be read."""
        with driver.live.waiting():
            await self.readable.admitted(position)
        assert item.a is not None and item.b is not None
        flow = self.flow(Pair(item.messages, item.a, item.b), self._choose(item), weighted=self.all)
        try:
            return await driver.play(item.id, position, flow)
        except CaiError:  # this pair shows nothing of the judge
            self.readable.leave(position)
            raise


def verdict_in_words(row: Label) -> str:
    """What the judge believes of a pair, for people to read."""
    if row.p_a is None:
        return "no valid vote"
    better = "a" if row.p_a > 0.5 else "b"
    if row.p_a == 0.5:
        better = "neither"
    verdict = f"{better}, confidence {row.confidence:.2f}"
    votes = []
    for vote in filter(is_valid, row.votes):
        votes.append(vote.principle if vote.d is None else f"{vote.principle} {vote.d:+.2f}")
    return verdict if not votes else f"{verdict} ({'; '.join(votes)})"
