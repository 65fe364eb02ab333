"""Words the requests of critique and revision: the turns a chat model sees, or the text a base model continues.

In chat the conversation continues turn by turn, so that a server's prefix cache holds all but the last turn. The
revision of one round replaces the assistant's turn in the next, as in the paper (Bai et al. 2022, appendix A).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cai.constitution.principles import Constitution, Principle
from cai.engine.template_checks import JOBS
from cai.engine.templates import Templates
from cai.records import Message, Prompt, Request, Role

LINE_ENDS = r"\n\v\f\r\x1c-\x1e\x85\u2028\u2029"  # all that str.splitlines knows


class Ask:
    """The requests of one run.

    constitution: None if only replies are asked for. system: put before every conversation; None for nothing.
    gate: ask critiques for a verdict line.
    """

    def __init__(
        self, templates: Templates, constitution: Constitution | None, *, system: str | None = None, gate: bool = True
    ) -> None:
        self._templates = templates
        self._system = system
        self._gate = gate
        self._examples = templates.examples
        if constitution is not None and constitution.examples:
            self._examples = constitution.examples
        self._questions: dict[tuple[str, str], str] = {}  # a chat turn depends on the principle alone
        # What a set stops at is how its layout begins a part: together the stop strings name every label.
        stops = [stop for name, stops in templates.stop.items() if name not in JOBS["judge"] for stop in stops]
        labels = sorted({stop.strip() for stop in stops} - {""})
        self._labels: re.Pattern[str] | None = None
        if labels:
            start = rf"[{LINE_ENDS}][^\S{LINE_ENDS}]*"
            self._labels = re.compile(f"({start})(?={'|'.join(map(re.escape, labels))})")

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError if the templates need what a principle does not have."""
        self._templates.need("revise")
        prompt = Prompt(id="trial", messages=(_turn("user", "Trial."),))
        self.respond(prompt)
        for principle in principles:
            self.critique(prompt, "Trial.", principle)
            self.revise(prompt, "Trial.", "Trial.", principle)

    def respond(self, prompt: Prompt) -> Request:
        """Ask for the first reply."""
        if self._templates.completes:
            return self._text("assistant", "respond", prompt)
        return Request("assistant", self._turns(prompt))

    def critique(self, prompt: Prompt, reply: str, principle: Principle) -> Request:
        """Ask what is wrong with a reply under a principle."""
        if self._templates.completes:
            return self._text("critic", "critique", prompt, reply=reply, principle=principle, gate=False)
        turns = self._turns(prompt, reply, self._question("critique", principle))
        return Request("critic", turns, stop=self._templates.stop["critique"])

    def revise(self, prompt: Prompt, reply: str, critique: str, principle: Principle) -> Request:
        """Ask for the reply again, in the light of a critique."""
        if self._templates.completes:
            return self._text("reviser", "revise", prompt, reply=reply, principle=principle, critique=critique)
        before = self._turns(prompt, reply, self._question("critique", principle))
        after = (_turn("assistant", critique), _turn("user", self._question("revise", principle)))
        return Request("reviser", before + after, stop=self._templates.stop["revise"])

    def _turns(self, prompt: Prompt, *rest: str) -> tuple[Message, ...]:
        """The conversation, then the reply and the question about it."""
        messages = prompt.messages
        if self._system is not None:
            system = self._system
            if messages[0]["role"] == "system":
                system = f"{system}\n\n{messages[0]['content']}"
                messages = messages[1:]
            messages = (_turn("system", system), *messages)
        return messages + tuple(map(_turn, ("assistant", "user"), rest))

    def _question(self, name: str, principle: Principle) -> str:
        key = (name, principle.id)
        if key not in self._questions:
            variables: dict[str, Any] = {"principle": principle, "gate": self._gate, "examples": self._examples}
            self._questions[key] = self._templates.render(name, **variables).strip()
        return self._questions[key]

    def _text(self, role: Role, name: str, prompt: Prompt, **variables: Any) -> Request:
        variables = {key: self._quoted(value) if isinstance(value, str) else value for key, value in variables.items()}
        messages = [_turn(turn["role"], self._quoted(turn["content"], turn["role"])) for turn in self._turns(prompt)]
        text = self._templates.render(name, prompt=messages, examples=self._examples, **variables)
        return Request(role, text=text, stop=self._templates.stop[name])

    def _quoted(self, text: str, role: str = "user") -> str:
        """A text in which no line can pass for a label of the layout: such a line is quoted, as mail readers do.

        The first line follows a label of its own, except in a system text.
        """
        if self._labels is None:
            return text
        if role == "system":
            return self._labels.sub(r"\1> ", "\n" + text)[1:]
        return self._labels.sub(r"\1> ", text)


def _turn(role: Any, content: str | None) -> Message:
    return {"role": role, "content": content or ""}
