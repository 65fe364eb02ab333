"""How a judge is asked: both orders, letters, reasons and votes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cai.constitution.condition import told, wording
from cai.constitution.principles import WORDINGS, Constitution, Principle
from cai.engine.letters import LETTER_TOKENS, LISTED
from cai.engine.quoting import Quoting
from cai.engine.templates.sets import Templates
from cai.errors import TemplateError
from cai.records import Condition, Decision, Message, Request, Values

REASON_TOKENS = 256  # for "at most three sentences"

CHOICES = ("A", "B")  # of a typed question: the first reply, and the second
MARK = "\ue000"  # of trial replies: a character for private use, which no principle holds
OTHER = Principle.model_validate({"id": "other", **dict.fromkeys(WORDINGS, "\N{WHITE SQUARE}")})  # begins like no other
Question = tuple[Sequence[Message], str, str, Principle]  # the conversation, the replies as shown, and the principle


class AskJudge:
    """The questions of a judge about two replies.

    What a conversation or reply holds is quoted if it could pass for the frame of the template. A base model is shown
    no labels of other few-shot prompts, either.

    prefill: whether the model continues a started reply; then the letter comes next to the template's prefix.
    decisions: how many typed questions the model takes in one request. condition: of a reward model, how it is told a
    principle.
    """

    def __init__(
        self,
        templates: Templates,
        constitution: Constitution,
        *,
        prefill: bool,
        decisions: int = 1,
        condition: Condition | None = None,
    ) -> None:
        templates.need("judge")
        self._templates, self._most, self._condition = templates, decisions, condition
        self._examples = constitution.examples or templates.examples
        self.prefix, self.letters = "", ("A", "B")  # the form in which the answer's letter comes
        if templates.prefix["verdict"] and (prefill or templates.completes):
            self.prefix, self.letters = templates.prefix["verdict"], (" A", " B")
        self._quoting = Quoting(templates, templates.frame["judge"])

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError if the template needs what a principle does not have."""
        self._templates.render("verdict")
        for principle in principles:
            question = (Message(role="user", content="Trial."),), "Trial.", "Trial.", principle
            self.letter(question, score=True)

    def check_decisions(self, principles: Sequence[Principle]) -> None:
        """Word every typed question once; raises TemplateError if the replies cannot be told from what is asked."""
        turn = Message(role="user", content="Trial.")
        for request in self.decide((turn,), f"{MARK} 1", f"{MARK} 2", principles):
            shown = request.messages[0]["content"]
            asked = "".join(decision.instructions for decision in request.decisions)
            if not (f"{MARK} 1" in shown and f"{MARK} 2" in shown) or f"{MARK} " in asked:
                raise TemplateError(
                    "judge.jinja asks its principle before or beside the replies: put it on a line of its own behind "
                    "both, so that --protocol decide can ask about them under several"
                )

    def decide(
        self, prompt: Sequence[Message], first: str, second: str, principles: Sequence[Principle]
    ) -> list[Request]:
        """Ask for the choice under every principle at once, in as few requests as the model takes.

        The message is what the questions of `letter` have in common, and each instruction the rest of one.
        """
        texts = [self._render((prompt, first, second, each), reason=False) for each in (*principles, OTHER)]
        shared = shared_lines(texts)
        turn = Message(role="user", content=shared.rstrip())
        decisions = [
            Decision(f"q{number}", text[len(shared) :].strip(), CHOICES)
            for number, text in enumerate(texts[:-1], start=1)
        ]
        return [
            Request("judge", (turn,), max_tokens=1, temperature=0.0, decisions=tuple(decisions[start:][: self._most]))
            for start in range(0, len(decisions), self._most)
        ]

    def letter(self, question: Question, *, score: bool, reasons: str | None = None) -> Request:
        """Ask for the probabilities of the two letters; `score`: of only these two, else among the likeliest tokens.

        reasons: what the judge has written before it chooses.
        """
        reading: Values = {"score": self.letters} if score else {"top_logprobs": LISTED}
        return self._request(question, reasons, max_tokens=1, temperature=0.0, **reading)

    def reasons(self, question: Question) -> Request:
        """Ask for reasons, before the choice."""
        text = self._render(question, reason=True)
        request = Request("judge", max_tokens=REASON_TOKENS, temperature=0.0, stop=self._templates.stop["judge"])
        if self._templates.completes:
            return replace(request, text=text)
        return replace(request, messages=(Message(role="user", content=text),))

    def vote(self, question: Question, wave: int = 0) -> Request:
        """Ask for the letter in words: of a model that gives no probabilities.

        The first wave is greedy; only sampling can add anything in further ones.
        """
        sampling: Values = {"temperature": min(float(wave), 1.0), "sample": wave}
        if self.prefix:  # without one, a thinking model needs room for its thoughts
            sampling["max_tokens"] = LETTER_TOKENS
        return self._request(question, None, **sampling)

    @staticmethod
    def reward(prompt: Sequence[Message], reply: str) -> Request:
        """Ask a reward model for its number."""
        return Request("judge", (*prompt, Message(role="assistant", content=reply)), score=("",), max_tokens=1)

    def told(self, prompt: Sequence[Message], principle: Principle) -> tuple[Message, ...]:
        """The conversation as a reward model that is told principles reads it."""
        assert self._condition is not None
        return told(self._condition, prompt, wording(principle))

    def _request(self, question: Question, reasons: str | None, **settings: Any) -> Request:
        text = self._render(question, reason=reasons is not None)
        if self._templates.completes:
            if reasons is not None:
                text = f"{text} {reasons.strip()}\n\n{self._verdict}"
            return Request("judge", text=f"{text} {self.prefix}".rstrip(), **settings)
        turns = [Message(role="user", content=text)]
        if reasons is not None:
            turns.append(Message(role="assistant", content=reasons.strip()))
            turns.append(Message(role="user", content=self._verdict))
        return Request("judge", tuple(turns), prefill=self.prefix, **settings)

    @property
    def _verdict(self) -> str:
        return self._templates.render("verdict").strip()

    def _render(self, question: Question, *, reason: bool) -> str:
        prompt, first, second, principle = question
        return self._templates.render(
            "judge",
            prompt=self._quoting.turns(prompt),
            first=self._quoting.quoted(first.strip()),
            second=self._quoting.quoted(second.strip()),
            principle=principle,
            reason=reason,
            examples=self._examples,
        ).strip()


def shared_lines(texts: Iterable[str]) -> str:
    """The lines with which all texts begin."""
    rows = zip(*(text.split("\n") for text in texts), strict=False)
    return "\n".join(row[0] for row in itertools.takewhile(lambda row: len({*row}) == 1, rows))
