"""Words the requests of a flow: which turns a model sees, in chat or as the text a base model goes on with.

Pure: templates and texts in, requests out. Knows nothing of what the answers are used for.

Chat: the conversation goes on turn by turn, so that a server's prefix cache holds all but the last turn. The revision
of one round takes the place of the assistant's turn in the next, as in the paper (Bai et al. 2022, appendix A).
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

    constitution: None where replies alone are asked for. system: put before every conversation; None for nothing.
    gate: ask critiques for a verdict line.
    """

    def __init__(
        self, templates: Templates, constitution: Constitution | None, *, system: str | None = None, gate: bool = True
    ) -> None:
        self._templates, self._system, self._gate = templates, system, gate
        self._examples = (constitution.examples if constitution is not None else ()) or templates.examples
        self._asked: dict[tuple[str, str], str] = {}  # a chat turn depends on the principle alone
        # What a set stops at is how its layout begins a part: together the stop strings name every label.
        parts = [name for name in templates.stop if name not in JOBS["judge"]]
        labels = {stop.strip() for name in parts for stop in templates.stop[name]} - {""}
        start, label = rf"[{LINE_ENDS}][^\S{LINE_ENDS}]*", "|".join(map(re.escape, sorted(labels)))
        self._labels = re.compile(f"({start})(?={label})") if labels else None

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError where the templates want what a principle does not have."""
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
        system = (_turn("system", self._system),) if self._system is not None else ()
        if system and prompt.messages[0]["role"] == "system":
            merged = f"{self._system}\n\n{prompt.messages[0]['content']}"
            system, messages = (_turn("system", merged),), prompt.messages[1:]
        else:
            messages = prompt.messages
        return system + messages + tuple(map(_turn, ("assistant", "user"), rest))

    def _question(self, name: str, principle: Principle) -> str:
        key = (name, principle.id)
        text = self._asked.get(key)
        if text is None:
            shown: dict[str, Any] = {"principle": principle, "gate": self._gate, "examples": self._examples}
            text = self._asked[key] = self._templates.render(name, **shown).strip()
        return text

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
        return self._labels.sub(r"\1> ", "\n" + text)[1:] if role == "system" else self._labels.sub(r"\1> ", text)


def _turn(role: Any, content: str | None) -> Message:
    return {"role": role, "content": content or ""}
