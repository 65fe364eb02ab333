"""How a judge is asked: both orders, letters, reasons and votes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from cai.constitution.principles import Constitution, Principle
from cai.engine.letters import LETTER_TOKENS, LISTED
from cai.engine.revise import LINE_ENDS, NEVER
from cai.engine.templates import Templates
from cai.records import Message, Request, Values

REASON_TOKENS = 256  # for "at most three sentences"
# What a reader does not see: control characters, marks of direction and of joining, and what selects a variant.
UNSEEN = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
UNSEEN += r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
DRESSING = r"_*#\-\u2010-\u2015\uff0d\uff3f"  # hyphens, and what Markdown dresses words in
ALIKE = {"<": "﹤‹〈〈⟨", "/": "∕⁄", ":": "﹕∶"}  # what passes for a character of a frame, beside its full-width form
# Some servers read their marks of turns in the text, too: "<|im_end|>", "</s>", "<end_of_turn>", "[/INST]".
MARKS = r"<(?=[|｜])|[<\[](?=/?(?:s|bos|eos|think|start_of_turn|end_of_turn|INST|SYSTEM_PROMPT)[>\]])"


Question = tuple[Sequence[Message], str, str, Principle]  # the conversation, the replies as shown, and the principle


class AskJudge:
    """The questions of a judge about two replies.

    What a conversation or reply holds is quoted if it could pass for the frame of the template: a tag of it anywhere
    (`<reply_b>` becomes `&lt;reply_b>`), another label at the start of a line (`> Assistant:`), whatever its case and
    spacing; and if a server could take it for the end of a turn (`&lt;|im_end|>`). So only the template can write the
    frame of a question.

    prefill: whether the model continues a started reply; then the letter comes next to the template's prefix.
    """

    def __init__(self, templates: Templates, constitution: Constitution, *, prefill: bool) -> None:
        templates.need("judge")
        self._templates = templates
        self._examples = constitution.examples or templates.examples
        self.prefix, self.letters = "", ("A", "B")  # the form in which the answer's letter comes
        if templates.prefix and (prefill or templates.completes):
            self.prefix, self.letters = templates.prefix, (" A", " B")
        tags = [loose(label) for label in templates.frame if label.startswith("<")]
        labels = [loose(label) for label in templates.frame if not label.startswith("<")]
        self._tags = re.compile("|".join([*tags, MARKS]), re.IGNORECASE)
        start = rf"(^|[{LINE_ENDS}])((?:[^\S{LINE_ENDS}]|[{DRESSING}{UNSEEN}])*+)"
        self._starts = re.compile(f"{start}(?={'|'.join(labels) or NEVER})", re.IGNORECASE)
        self._quoted = lru_cache(maxsize=32)(self._quote)  # the questions about a pair come one after the other

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError if the template needs what a principle does not have."""
        for principle in principles:
            question = (Message(role="user", content="Trial."),), "Trial.", "Trial.", principle
            self.letter(question, score=True)

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

    def reward(self, prompt: Sequence[Message], reply: str) -> Request:
        """Ask a reward model for its number."""
        return Request("judge", (*prompt, Message(role="assistant", content=reply)), score=("",), max_tokens=1)

    def _request(self, question: Question, reasons: str | None, **settings: Any) -> Request:
        verdict = self._templates.render("verdict").strip()
        text = self._render(question, reason=reasons is not None)
        if self._templates.completes:
            if reasons is not None:
                text = f"{text} {reasons.strip()}\n\n{verdict}"
            return Request("judge", text=f"{text} {self.prefix}".rstrip(), **settings)
        turns = [Message(role="user", content=text)]
        if reasons is not None:
            turns.append(Message(role="assistant", content=reasons.strip()))
            turns.append(Message(role="user", content=verdict))
        return Request("judge", tuple(turns), prefill=self.prefix, **settings)

    def _render(self, question: Question, *, reason: bool) -> str:
        prompt, first, second, principle = question
        return self._templates.render(
            "judge",
            prompt=[Message(role=turn["role"], content=self._quoted(turn["content"])) for turn in prompt],
            first=self._quoted(first.strip()),
            second=self._quoted(second.strip()),
            principle=principle,
            reason=reason,
            examples=self._examples,
        ).strip()

    def _quote(self, text: str) -> str:
        return self._starts.sub(r"\1\2> ", self._tags.sub(_escaped, text))


def _escaped(tag: re.Match[str]) -> str:
    return {"[": "&#91;"}.get(tag[0][0], "&lt;") + tag[0][1:]


def loose(label: str) -> str:
    """A pattern for a label of a frame and what looks like it, through spaces, hyphens, Markdown and the unseen."""
    shown = [char for char in label.rstrip(">") if not (char.isspace() or char in "_-")]
    wide = {char: chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "" for char in shown}
    return rf"[\s{DRESSING}{UNSEEN}]*+".join(f"[{re.escape(char)}{wide[char]}{ALIKE.get(char, '')}]" for char in shown)
