"""How a judge is asked about one reply: does it keep to a principle, Yes or No?

The question is that of screen.jinja. It is asked one way only: what a judge says to every reply under a principle is
the same for all replies that are compared, and cancels there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from cai.calls.decisions import Decided, read_decisions
from cai.constitution.principles import Constitution, Principle
from cai.engine.ask_judge import MARK, OTHER, shared_lines
from cai.engine.gate import NO, YES, YesNo, read_word
from cai.engine.letters import log_ratio, read_decided, read_letters
from cai.engine.quoting import Quoting
from cai.engine.templates.sets import Templates
from cai.errors import TemplateError
from cai.records import Completion, Decision, Message, Protocol, Reading, Request

STATEMENT = "The reply keeps to this principle: "  # before the principle in a typed question


@dataclass(frozen=True, slots=True)
class Kept:
    """What a judge said of a reply under one principle.

    reading: of Yes, the first, and No. odds: log odds that the reply keeps to the principle; None: invalid.
    """

    principle: str  # id
    weight: float
    reading: Reading
    odds: float | None


Keeps = Generator[list[Request], list[Completion], tuple[Kept, ...]]


class AskKeeps:
    """The questions about one reply; texts are quoted as in questions about two.

    protocol: logprob, score, vote or decide. prefill: whether the model continues a started reply. decisions: how many
    typed questions it takes in one request.
    """

    def __init__(
        self, templates: Templates, law: Constitution, protocol: Protocol, *, prefill: bool, decisions: int = 1
    ) -> None:
        templates.need("screen")
        can_begin = prefill or templates.completes
        self._how = YesNo(protocol, templates.prefix["screen"] if can_begin else "")
        self._templates, self._most = templates, decisions
        self._examples = law.examples or templates.examples
        self._quoting = Quoting(templates, templates.frame["screen"])

    def check(self, principles: Sequence[Principle]) -> None:
        """Word every question once; raises TemplateError for one that cannot be worded, or that lacks the reply."""
        turn = Message(role="user", content="Trial.")
        texts = self._texts((turn,), f"{MARK} 1", [*principles, OTHER])
        if self._how.protocol == "decide" and f"{MARK} 1" not in shared_lines(texts):
            raise TemplateError(
                "screen.jinja asks its principle before or beside the reply: put it on a line of its own behind that, "
                "so that --protocol decide can ask about it under several"
            )

    def flow(self, prompt: Sequence[Message], reply: str, principles: Sequence[Principle]) -> Keeps:
        """Ask about a reply under every principle, side by side."""
        if self._how.protocol == "decide":
            readings = yield from self._decided(prompt, reply, principles)
        else:
            readings = yield from self._worded(prompt, reply, principles)
        return tuple(
            Kept(principle.id, principle.weight, reading, log_ratio(reading))
            for principle, reading in zip(principles, readings, strict=True)
        )

    def _worded(
        self, prompt: Sequence[Message], reply: str, principles: Sequence[Principle]
    ) -> Generator[list[Request], list[Completion], list[Reading]]:
        """The answers in letters or in a word."""
        questions = list(map(self._request, self._texts(prompt, reply, principles)))
        if self._how.protocol == "vote":
            answers = yield list(map(self._how.word, questions))
            return list(map(_of_word, answers))
        answers = yield list(map(self._how.letters, questions))
        return [read_letters(answer, (YES, NO)) for answer in answers]

    def _decided(
        self, prompt: Sequence[Message], reply: str, principles: Sequence[Principle]
    ) -> Generator[list[Request], list[Completion], list[Reading]]:
        """The answers to typed questions: whether the reply keeps to each principle, in as few requests as can be."""
        shared = shared_lines(self._texts(prompt, reply, [*principles, OTHER]))
        turn = Message(role="user", content=shared.rstrip())
        decisions = [
            Decision(f"q{number}", STATEMENT + (principle.text or principle.choose or principle.revise or ""))
            for number, principle in enumerate(principles, start=1)
        ]
        requests = [
            Request("judge", (turn,), max_tokens=1, temperature=0.0, decisions=tuple(decisions[start:][: self._most]))
            for start in range(0, len(decisions), self._most)
        ]
        answers = yield requests
        readings: list[Reading] = []
        for request, answer in zip(requests, answers, strict=True):
            readings += map(_of_predicate, read_decisions(answer.text, request.decisions))
        return readings

    def _request(self, text: str) -> Request:
        if self._templates.completes:
            return Request("judge", text=text)
        return Request("judge", (Message(role="user", content=text),))

    def _texts(self, prompt: Sequence[Message], reply: str, principles: Iterable[Principle]) -> list[str]:
        """The question under each principle; what they share comes first, so that it is computed once."""
        turns, quoted = self._quoting.turns(prompt), self._quoting.quoted(reply.strip())
        shown = {"prompt": turns, "reply": quoted, "against": False, "examples": self._examples}
        return [self._templates.render("screen", principle=each, **shown).strip() for each in principles]


def _of_word(answer: Completion) -> Reading:
    """A word counts as a probability of 3/4 that it is right."""
    p = read_word(answer)
    if p is None:
        return Reading(problem=f"names neither Yes nor No: {answer.text.strip()[:60]!r}")
    return Reading(first=math.log(p), second=math.log(1 - p))


def _of_predicate(decided: Decided) -> Reading:
    if decided.problem is not None:
        return Reading(problem=decided.problem)
    [p] = decided.p
    return read_decided(Decided((p, 1 - p)))
