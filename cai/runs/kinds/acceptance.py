"""The judge who must prefer a revision to the reply that it would replace: what is asked of it in a generate run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Literal

from cai.calls.flow import Driver
from cai.calls.model import Model
from cai.calls.seats import Flow, Played
from cai.constitution.principles import Constitution, Principle
from cai.engine.asked import ngrams_asked, unshipped_words
from cai.engine.readability import JudgeCheck
from cai.engine.revise import Chain
from cai.engine.templates.sets import Templates
from cai.errors import CaiError, UsageError
from cai.judge.accept import ACCEPT, HELPFULNESS, accept, helpfulness_of
from cai.judge.flows import Pair
from cai.records import Acceptance, Completion, Prompt, Request, Revision, Round, Turns, Values, Vote
from cai.runs.kinds.judging import Judging
from cai.runs.kinds.settings import GenerateSettings, LabelSettings
from cai.texts.hygiene import faults_of, said_in

MOST_BY_VOTES = (2 + 1 / 2) / (2 + 1)  # of two votes that agree, after which no more are asked for


class Accepting:
    """The judge who must prefer a revision to the reply that it would replace.

    Raises UsageError if a principle that is drawn for revisions does not say how a judge chooses.
    """

    def __init__(self, model: Model, settings: GenerateSettings, templates: Templates, law: Constitution) -> None:
        spec = str(settings.accept)
        mute = [principle.id for principle in law.principles_for("revise") if not principle.can("judge")]
        if mute:
            raise UsageError(f"--accept: principle {mute[0]!r} has no question for a judge: give it 'choose' or 'text'")
        self.judging = Judging(model, LabelSettings.model_validate({"judge": spec}), templates, law, None)
        advice = "name another --accept, switch its thinking off, or word judge.jinja and verdict.jinja for it"
        self.judging.readable = JudgeCheck(advice, needed=not model.can.reward)
        self.least = settings.accept_at or ACCEPT
        self._asked = ngrams_asked(unshipped_words(law, templates))
        self._helpfulness = helpfulness_of(law)
        self._whose: Literal["constitution", "built-in"] = "constitution"
        if self._helpfulness is HELPFULNESS:
            self._whose = "built-in"
        self.judging.check_words([self._helpfulness])

    def check(self) -> None:
        """Raise UsageError if the judge cannot be asked, or no vote in words could accept a revision."""
        self.judging.check()
        if self.judging.protocol == "vote" and self.least > MOST_BY_VOTES:
            raise UsageError(
                f"--accept-at {self.least:g}: the judge gives no probabilities, and its votes count as "
                f"{MOST_BY_VOTES:.2f} at most, so that no revision would be accepted: name 0.8 or less"
            )

    @property
    def identity(self) -> Values:
        """What decides which revisions are accepted."""
        binding = {name: self.judging.binding[name] for name in ("protocol", "templates")}
        return {**binding, "helpfulness": self._helpfulness.wordings, "at": self.least}

    def ask(
        self, prompt: Turns, reply: str, revision: str, principle: Principle
    ) -> Generator[list[Request], list[Completion], Acceptance]:
        """The questions about a revision, and whether it is accepted; none about one that no training could use."""
        for fault in faults_of(revision, said_in(prompt), self._asked):
            return Acceptance(
                accepted=False,
                fault=fault,
                protocol=self.judging.protocol,
                votes=(),
                helpfulness=self._whose,
                z=None,
                p=None,
                rejected=revision,
            )
        principles = tuple({each.id: each for each in (principle, self._helpfulness)}.values())
        flow = self.judging.flow(Pair(prompt, revision, reply), principles, weighted=False)
        return (yield from accept(flow, revision, self._whose, self.judging.protocol, self.least))

    async def play(self, driver: Driver, item: Prompt, position: int, flow: Flow[Chain]) -> Played[Chain]:
        """Play a chain; raises Unreadable if the judge's answers about the first ones cannot be read."""
        readable = self.judging.readable
        with driver.live.waiting():
            await readable.admitted(position)
        try:
            played = await driver.play(item.id, position, flow)
        except CaiError:
            readable.leave(position)
            raise
        if not any(_votes_in(played.result.rounds)):
            readable.leave(position)
        return played

    def watch(self, row: Revision) -> None:
        """Look at the votes in a row; raises Unreadable if those of the first ones cannot be read."""
        for votes in filter(None, _votes_in(row.rounds)):
            self.judging.readable.watch(votes)


def _votes_in(rounds: Iterable[Round]) -> Iterator[tuple[Vote, ...]]:
    """The votes about each revision that was looked at; none if no judge was asked."""
    for turn in rounds:
        if turn.acceptance is not None:
            yield turn.acceptance.votes
