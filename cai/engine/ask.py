"""Words the requests of a flow: which turns a model sees, in chat or as the text a base model goes on with.

Pure: templates and texts in, requests out. Knows nothing of what the answers are used for.

Chat: the conversation goes on turn by turn, so that a server's prefix cache holds all but the last turn. The revision
of one round takes the place of the assistant's turn in the next, as in the paper (Bai et al. 2022, appendix A).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from cai.constitution import lint
from cai.constitution.files import load_constitution, read_constitution
from cai.constitution.principles import Constitution, Principle
from cai.engine.templates import JOBS, VARIABLES, Templates, load_templates
from cai.errors import TemplateError, UsageError
from cai.records import Message, Prompt, Request, Role

LISTED = 20  # likeliest tokens whose probabilities a judge is asked for: the most that OpenAI's protocol lists
REASON_TOKENS = 256  # for "at most three sentences"
LETTER_TOKENS = 8  # for a letter after the prefix
# What a reader does not see: control characters, marks of direction and of joining, and what selects a variant.
UNSEEN = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
UNSEEN += r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
DRESSING = r"_*#\-\u2010-\u2015\uff0d\uff3f"  # hyphens, and what Markdown dresses words in
ALIKE = {"<": "﹤‹〈〈⟨", "/": "∕⁄", ":": "﹕∶"}  # what passes for a character of a frame, beside its full-width form
# Where servers read their marks of turns in the text, too: "<|im_end|>", "</s>", "<end_of_turn>", "[/INST]".
MARKS = r"<(?=[|｜])|[<\[](?=/?(?:s|bos|eos|think|start_of_turn|end_of_turn|INST|SYSTEM_PROMPT)[>\]])"
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


class AskJudge:
    """The questions of a judge about two replies.

    What a conversation or reply holds is quoted where it could pass for the frame of the template: a tag of it anywhere
    (`<reply_b>` becomes `&lt;reply_b>`), another label at the start of a line (`> Assistant:`), whatever its case and
    spacing; and where a server could take it for the end of a turn (`&lt;|im_end|>`). So the frame of a question is the
    template's alone.

    prefill: whether the model continues a started reply; then the letter comes next to the template's prefix.
    """

    def __init__(self, templates: Templates, constitution: Constitution, *, prefill: bool) -> None:
        templates.need("judge")
        self._templates, self._prefill = templates, prefill or templates.completes
        self._examples = constitution.examples or templates.examples
        self.prefix = templates.prefix if self._prefill else ""
        self.letters = (" A", " B") if self.prefix else ("A", "B")  # the form in which the answer's letter comes
        tags = [loose(label) for label in templates.frame if label.startswith("<")]
        labels = [loose(label) for label in templates.frame if not label.startswith("<")]
        self._tags = re.compile("|".join([*tags, MARKS]), re.IGNORECASE)
        start = rf"(^|[{LINE_ENDS}])((?:[^\S{LINE_ENDS}]|[{DRESSING}{UNSEEN}])*+)"
        self._starts = re.compile(f"{start}(?={'|'.join(labels)})", re.IGNORECASE) if labels else None
        self._quoted = lru_cache(maxsize=32)(self._quote)  # the questions about a pair come one after the other

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError where the template wants what a principle does not have."""
        for principle in principles:
            self.letter((_turn("user", "Trial."),), "Trial.", "Trial.", principle, score=True)

    def letter(
        self,
        prompt: Sequence[Message],
        first: str,
        second: str,
        principle: Principle,
        *,
        score: bool,
        reasons: str | None = None,
    ) -> Request:
        """Ask for the probabilities of the two letters; `score`: of these two alone, else among the likeliest tokens.

        reasons: what the judge has written before it chooses.
        """
        asked: dict[str, Any] = {"score": self.letters} if score else {"top_logprobs": LISTED}
        return self._request(prompt, first, second, principle, reasons, max_tokens=1, temperature=0.0, **asked)

    def reasons(self, prompt: Sequence[Message], first: str, second: str, principle: Principle) -> Request:
        """Ask for reasons, before the choice."""
        text = self._render(prompt, first, second, principle, reason=True)
        stop = self._templates.stop["judge"]
        asked: dict[str, Any] = {"max_tokens": REASON_TOKENS, "temperature": 0.0, "stop": stop}
        if self._templates.completes:
            return Request("judge", text=text, **asked)
        return Request("judge", (_turn("user", text),), **asked)

    def vote(self, prompt: Sequence[Message], first: str, second: str, principle: Principle, wave: int = 0) -> Request:
        """Ask for the letter in words: of a model that gives no probabilities.

        The first wave is greedy; in further ones only drawing can say something new.
        """
        most = LETTER_TOKENS if self.prefix else None  # without prefix a thinking model needs room for its thoughts
        temperature = 0.0 if wave == 0 else 1.0
        return self._request(
            prompt, first, second, principle, None, max_tokens=most, temperature=temperature, sample=wave
        )

    def reward(self, prompt: Sequence[Message], reply: str) -> Request:
        """Ask a reward model for its number."""
        return Request("judge", (*prompt, _turn("assistant", reply)), score=("",), max_tokens=1)

    def _request(
        self,
        prompt: Sequence[Message],
        first: str,
        second: str,
        principle: Principle,
        reasons: str | None,
        **asked: Any,
    ) -> Request:
        verdict = self._templates.render("verdict").strip()
        text = self._render(prompt, first, second, principle, reason=reasons is not None)
        if self._templates.completes:
            text = text if reasons is None else f"{text} {reasons.strip()}\n\n{verdict}"
            return Request("judge", text=f"{text} {self.prefix}".rstrip(), **asked)
        turns: tuple[Message, ...] = (_turn("user", text),)
        if reasons is not None:
            turns += (_turn("assistant", reasons.strip()), _turn("user", verdict))
        return Request("judge", turns, prefill=self.prefix, **asked)

    def _render(self, prompt: Sequence[Message], first: str, second: str, principle: Principle, *, reason: bool) -> str:
        return self._templates.render(
            "judge",
            prompt=[_turn(turn["role"], self._quoted(turn["content"])) for turn in prompt],
            first=self._quoted(first.strip()),
            second=self._quoted(second.strip()),
            principle=principle,
            reason=reason,
            examples=self._examples,
        ).strip()

    def _quote(self, text: str) -> str:
        text = self._tags.sub(lambda tag: ("&#91;" if tag[0][0] == "[" else "&lt;") + tag[0][1:], text)
        return text if self._starts is None else self._starts.sub(r"\1\2> ", text)


def loose(label: str) -> str:
    """A pattern for a label of a frame and what looks like it, through spaces, hyphens, Markdown and the unseen."""
    shown = [char for char in label.rstrip(">") if not (char.isspace() or char in "_-")]
    wide = {char: chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "" for char in shown}
    return rf"[\s{DRESSING}{UNSEEN}]*+".join(f"[{re.escape(char)}{wide[char]}{ALIKE.get(char, '')}]" for char in shown)


def _turn(role: Any, content: str | None) -> Message:
    return {"role": role, "content": content or ""}


def template_findings(templates: str | None, constitution: str) -> list[lint.Finding]:
    """What is wrong with a template set, alone and under a constitution, as findings of a check; None is no set."""
    findings = lint.template_findings(templates)
    law = read_constitution(constitution).constitution
    if templates is None or law is None or any(finding.level == "error" for finding in findings):
        return findings
    try:
        loaded = load_templates(templates)
        if "critique" in loaded.by_name:
            Ask(loaded, law).check(p for p in law.principles if p.can_revise)
        if "judge" in loaded.by_name:
            AskJudge(loaded, law, prefill=True).check(p for p in law.principles if p.can_judge)
    except TemplateError as error:
        file, text = str(error.path or templates), str(error).removeprefix(f"{error.path}:{error.line}: ")
        findings.append(
            lint.Finding(level="error", code="template-principle", message=text, file=file, line=error.line)
        )
    return findings


def show(name: str, template_set: str, template: str | None, message: str) -> Iterator[str]:
    """A constitution for people to read; or, per principle, the exact words that `template` makes of it.

    template: respond, critique, revise or judge; None shows the principles as they are written.
    """
    law = load_constitution(name)
    if template is None:
        yield from law.lines()
        return
    if template not in VARIABLES:
        close = get_close_matches(template, VARIABLES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VARIABLES)}"
        raise UsageError(f"unknown template {template!r}; {hint}")
    turn: Message = {"role": "user", "content": message}
    if template in JOBS["judge"]:
        judge = AskJudge(load_templates(template_set), law, prefill=True)
        first, second = "(here stands one reply)", "(here stands the other reply)"
        for principle in law.principles_for("judge"):
            yield f"# {principle.id}"
            yield from _words(judge.letter((turn,), first, second, principle, score=True))
        return
    ask = Ask(load_templates(template_set), law)
    prompt = Prompt(id="shown", messages=(turn,))
    reply, critique = "(here stands the assistant's reply)", "(here stands the critique)"
    if template == "respond":
        yield from _words(ask.respond(prompt))
        return
    for principle in law.principles_for("revise"):
        yield f"# {principle.id}"
        if template == "critique":
            yield from _words(ask.critique(prompt, reply, principle))
        else:
            yield from _words(ask.revise(prompt, reply, critique, principle))


def _words(request: Request) -> Iterator[str]:
    if request.text is not None:
        yield request.text
    for turn in request.messages:
        yield f"[{turn['role']}]"
        yield turn["content"]
    if request.prefill:
        yield f"[assistant, begun] {request.prefill}"
    if request.stop:
        yield f"[stop] {', '.join(map(repr, request.stop))}"
    yield ""
