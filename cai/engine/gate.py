"""The gate: whether a reply needs a change, as the critic says after its critique, and how its answer is read.

The question branches off the conversation: the reviser sees neither it nor the answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

from cai.constitution.principles import Constitution
from cai.engine.letters import LETTER_TOKENS, LISTED, log_ratio, probability, read_letters
from cai.engine.templates.sets import Templates
from cai.errors import RowDropped
from cai.records import Completion, Protocol, Reading, Request

log = logging.getLogger("cai")
YES, NO = "Yes", "No"
SAID = {YES: 0.75, NO: 0.25}  # what one word counts as: (x + 1/2)/(n + 1), the mean under Jeffreys' prior, at n = 1
WORD = re.compile(r"[\W_]*(?:answer\b[\W_]*)?(yes|no)\b", re.IGNORECASE)  # at the start: what follows gives reasons
Verdict = Literal["revise", "nothing_to_fix"]


def question_of(law: Constitution, templates: Templates, threshold: float | None) -> str | None:
    """What the gate asks instead of whether the critique found a fault; None: nothing, or there is no gate.

    Warns of a template set that does not ask what the constitution says.
    """
    if law.gate is None or threshold is None:
        return None
    if not templates.takes("gate", "question"):
        log.warning(
            "gate.jinja of %s does not ask what the gate of %s asks: put {{ question }} into it, or leave the "
            "constitution's gate out",
            templates.source,
            law.name,
        )
        return None
    return law.gate


@dataclass(frozen=True, slots=True)
class YesNo:
    """How a question is asked whose answer is Yes or No: its probabilities, or the word.

    protocol: logprob, score or vote, as for a judge. prefix: how the answer is begun for a model; "" if it cannot be.
    """

    protocol: Protocol
    prefix: str = ""

    def letters(self, question: Request) -> Request:
        """Ask for the probabilities of both words."""
        question = replace(self._begun(question), temperature=0.0, max_tokens=1)
        if self.protocol == "score":
            space = " " if self.prefix else ""
            return replace(question, score=(space + YES, space + NO))
        return replace(question, top_logprobs=LISTED)

    def word(self, question: Request) -> Request:
        """Ask for the word itself."""
        room = LETTER_TOKENS if self.prefix else None  # without a prefix a thinking model needs room
        return replace(self._begun(question), temperature=0.0, max_tokens=room)

    def _begun(self, question: Request) -> Request:
        if question.text is None:
            return replace(question, prefill=self.prefix)
        return replace(question, text=f"{question.text} {self.prefix}".rstrip())


@dataclass(frozen=True, slots=True)
class Gate:
    """How a gate is asked, and what it decides.

    threshold: in [0, 1]; a reply is revised if it needs a change with at least this probability. protocol, prefix: see
    `YesNo`.
    """

    threshold: float
    protocol: Protocol
    prefix: str = ""

    def ask(self, question: Request) -> Generator[list[Request], list[Completion], float | None]:
        """The probability that a reply needs a change; None if the answer cannot be read.

        A model that lists no probabilities, or whose server refuses to, is asked for the word. Raises RowDropped if
        that is refused, too.
        """
        asked = YesNo(self.protocol, self.prefix)
        if self.protocol != "vote":
            try:
                [answer] = yield [replace(asked.letters(question), optional=True)]
            except RowDropped as refusal:
                if refusal.reason != "model_error":
                    raise
            else:
                if answer.scores is not None or answer.logprobs:
                    return p_of(read_letters(answer, (YES, NO)))
        if self.threshold > SAID[YES]:  # no word could pass it
            return None
        [answer] = yield [asked.word(question)]
        return read_word(answer)

    def verdict(self, p_revise: float | None) -> Verdict | None:
        """What becomes of the reply; None: unknown, so that it is revised."""
        if p_revise is None:
            return None
        return "revise" if p_revise >= self.threshold else "nothing_to_fix"


def p_of(reading: Reading) -> float | None:
    """The probability of Yes among Yes and No; None if the reading does not count."""
    ratio = log_ratio(reading)
    return None if ratio is None else probability(ratio)


def read_word(answer: Completion) -> float | None:
    """What the word at the start of an answer counts as; None if there is none."""
    if answer.finish == "content_filter":
        return None
    match = WORD.match(answer.text)
    return None if match is None else SAID[match[1].capitalize()]
