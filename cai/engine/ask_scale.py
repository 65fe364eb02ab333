"""How a judge is asked about one reply: which of five levels fits it best."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from cai.calls.decisions import read_decisions
from cai.constitution.levels import LEVELS
from cai.constitution.scale import Scale
from cai.engine.letters import LETTER_TOKENS, LISTED
from cai.engine.levels import Grade, read_levels, read_predicates, read_word
from cai.engine.quoting import Quoting
from cai.engine.templates.sets import Templates
from cai.records import Completion, Decision, Message, Protocol, Request

VALUES = {str(level): float(level) for level in range(1, LEVELS + 1)}


class AskScale:
    """The questions of a judge about one reply, in the words of scale.jinja.

    Texts are quoted as in questions about two replies. prefill: whether the model continues a started reply; then the
    digit comes next to the template's prefix.
    """

    def __init__(self, templates: Templates, *, prefill: bool) -> None:
        templates.need("rate")
        self._templates = templates
        self.prefix, self.digits = "", tuple(VALUES)  # the form in which the answer's digit comes
        if templates.prefix["scale"] and (prefill or templates.completes):
            self.prefix, self.digits = templates.prefix["scale"], tuple(f" {digit}" for digit in VALUES)
        self._quoting = Quoting(templates, templates.frame["scale"])

    def check(self, scales: Iterable[Scale]) -> None:
        """Word every question once; raises TemplateError for one that cannot be worded."""
        for scale in scales:
            self.question([Message(role="user", content="Trial.")], "Trial.", scale)

    def rate(
        self, prompt: Sequence[Message], reply: str, scale: Scale, protocol: Protocol
    ) -> Generator[list[Request], list[Completion], Grade]:
        """Ask for the probability of every digit: of only these (score), or among the likeliest tokens (logprob).

        With the protocol vote the digit is named in words: a value without probabilities. With decide the question is
        what a statement for each level is about, all in one request.
        """
        if protocol == "decide":
            statement = self._templates.prefix["scale"] or "The level that fits the reply best is"
            levels = tuple(Decision(f"level{digit}", f"{statement} {digit}.") for digit in VALUES)
            [answer] = yield [replace(self.question(prompt, reply, scale, max_tokens=1, decisions=levels), prefill="")]
            return read_predicates(read_decisions(answer.text, levels), VALUES)
        if protocol == "vote":
            room = {"max_tokens": LETTER_TOKENS} if self.prefix else {}  # without one, thoughts need room
            [answer] = yield [self.question(prompt, reply, scale, **room)]
            return read_word(answer, VALUES, named=not self.prefix)
        reading: dict[str, Any] = {"score": self.digits} if protocol == "score" else {"top_logprobs": LISTED}
        [answer] = yield [self.question(prompt, reply, scale, max_tokens=1, **reading)]
        return read_levels(answer, VALUES)

    def question(self, prompt: Sequence[Message], reply: str, scale: Scale, **settings: Any) -> Request:
        """One question, which is not sampled."""
        text = self._templates.render(
            "scale",
            prompt=self._quoting.turns(prompt),
            reply=self._quoting.quoted(reply.strip()),
            levels=scale.levels,
            criterion=scale.criterion,
            examples=self._templates.examples,
        ).strip()
        if self._templates.completes:
            return Request("judge", text=f"{text} {self.prefix}".rstrip(), temperature=0.0, **settings)
        turn = Message(role="user", content=text)
        return Request("judge", (turn,), prefill=self.prefix, temperature=0.0, **settings)
