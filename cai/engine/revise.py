"""Critique and revise: supervised Constitutional AI (Bai et al. 2022, section 3.1), one prompt at a time.

`revise` is a flow: a generator that yields the requests it needs next and is sent the answers; so is `sample`, which
asks for several replies, from which a judge chooses. `Ask` words the requests: the turns a chat model sees, or the text
a base model continues. In chat the conversation continues turn by turn, so that a server's prefix cache holds all but
the last turn; the revision of one round replaces the assistant's turn in the next, as in the paper (appendix A). A set
whose templates have a frame quotes conversation and reply in one turn instead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cai.constitution.principles import Constitution, Principle
from cai.engine.gate import Gate
from cai.engine.quoting import Quoting, after, before
from cai.engine.screen import Screen
from cai.engine.templates.checks import JOBS
from cai.engine.templates.sets import Templates
from cai.errors import RowDropped
from cai.records import (
    Acceptance,
    Candidate,
    Completion,
    DropReason,
    Message,
    Prompt,
    Request,
    Role,
    Round,
    Screening,
    Turns,
    Values,
)
from cai.texts.turns import Labels

Accept = Callable[[Turns, str, str, Principle], Generator[list[Request], list[Completion], Acceptance]]


@dataclass(frozen=True, slots=True)
class Chain:
    """A first reply and what the rounds made of it."""

    initial: str
    rounds: tuple[Round, ...]
    final: str
    screens: tuple[Screening, ...] = ()
    reasoning: str | None = None  # before the first reply
    problem: DropReason | None = None  # of a first reply that stands in the row all the same


def revise(
    prompt: Prompt,
    principles: Sequence[Principle],
    ask: Ask,
    *,
    gate: Gate | None,
    screen: Screen | None = None,
    accept: Accept | None = None,
) -> Generator[list[Request], list[Completion], Chain]:
    """Reply, then per principle critique the reply and revise it; the revision is the next round's reply.

    A screen draws the principle of each round from those that the reply goes against, instead of these, which then only
    say how many rounds there are at most; if it goes against none, the chain ends.
    With a gate, a reply that needs no change after its critique is kept as it is; one of which that cannot be read is
    revised. accept: whether the judge prefers a revision to the reply, which stands otherwise; None: a revision always
    takes its place. Raises RowDropped for an empty or truncated reply; a truncated critique is used as it is.
    """
    [completion] = yield [ask.respond(prompt)]
    initial = reply = whole(completion, "assistant")
    reasoning = completion.reasoning
    rounds: list[Round] = []
    screens = []
    for principle in principles:
        if screen is not None:
            drawn, screening = yield from screen.look(prompt, reply, rounds)
            screens.append(screening)
            if drawn is None:
                break
            principle = drawn
        turn = yield from _round(prompt, reply, len(rounds), principle, ask, gate, accept)
        rounds.append(turn)
        if turn.revision is not None:
            reply = turn.revision
    return Chain(initial, tuple(rounds), reply, tuple(screens), reasoning)


def _round(
    prompt: Prompt, reply: str, number: int, principle: Principle, ask: Ask, gate: Gate | None, accept: Accept | None
) -> Generator[list[Request], list[Completion], Round]:
    """One critique and revision of a reply; `number` counts rounds from 0."""
    [completion] = yield [ask.critique(prompt, reply, principle)]
    critique = _text(completion, "critic")
    p_revise = verdict = revision = acceptance = None
    more: Values = {}
    if gate is not None:
        question = ask.gate(prompt, reply, critique, principle)
        p_revise = yield from gate.ask(replace(question, index=number))
        verdict = gate.verdict(p_revise)
    if verdict != "nothing_to_fix":
        [completion] = yield [ask.revise(prompt, reply, critique, principle)]
        revision = whole(replace(completion, text=ask.revision(completion.text)), "reviser")
        more = reasoned(completion)
    if accept is not None and revision not in (None, reply):
        acceptance = yield from accept(prompt.messages, reply, revision, principle)
        if not acceptance.accepted:
            revision = None
    if accept is not None:
        more["acceptance"] = acceptance
    return Round(
        principle=principle.id,
        critique=critique,
        verdict=verdict,
        p_revise=p_revise,
        revision=revision,
        changed=revision not in (None, reply),
        **more,
    )


def reasoned(completion: Completion) -> Values:
    """The column of a row for what a thinking model wrote before its answer, if it did."""
    return {} if completion.reasoning is None else {"reasoning": completion.reasoning}


def _text(completion: Completion, stage: Role) -> str:
    text = completion.text.strip()
    if completion.finish == "content_filter":
        raise RowDropped("content_filter", stage, "the provider's filter withheld the answer")
    if not text:
        raise RowDropped("empty", stage, "the model answered with nothing")
    return text


def whole(completion: Completion, stage: Role) -> str:
    """The text of an answer; raises RowDropped if it is empty or cut."""
    # Before emptiness is looked at: a thinking model can spend all its tokens on thoughts.
    if completion.finish == "length":
        tokens = "" if completion.output_tokens is None else f" after {completion.output_tokens} tokens"
        raise RowDropped("truncated", stage, f"cut{tokens}: raise --max-tokens, or see the reply in calls.sqlite")
    return _text(completion, stage)


# Several replies


def sample(
    prompt: Prompt, ask: Ask, numbers: Iterable[int]
) -> Generator[list[Request], list[Completion], list[Candidate]]:
    """Ask for the replies with these numbers, side by side; the same number is the same question, whenever it comes.

    The replies come in the order of their numbers, the unusable ones with their problem.
    """
    numbers = list(numbers)
    request = ask.respond(prompt)
    answers = yield [replace(request, sample=number, index=number) for number in numbers]
    return [
        Candidate(text=answer.text.strip(), model=answer.model, sample=number, problem=problem_of(answer))
        for answer, number in zip(answers, numbers, strict=True)
    ]


def problem_of(answer: Completion) -> DropReason | None:
    """Why a reply cannot be compared with another; None: it can."""
    if answer.finish == "content_filter":
        return "content_filter"
    if answer.finish == "length":
        return "truncated"
    return "empty" if not answer.text.strip() else None


# The words of the requests


class Ask:
    """The requests of one run.

    constitution: None if only replies are asked for. system: put before every conversation; None for nothing.
    """

    def __init__(self, templates: Templates, constitution: Constitution | None, *, system: str | None = None) -> None:
        self._templates = templates
        self._system = system
        self._examples = templates.examples
        if constitution is not None and constitution.examples:
            self._examples = constitution.examples
        self._questions: dict[tuple[str, str], str] = {}  # a chat turn depends on the principle alone
        # What a set stops at is how its layout begins a part: together the stop strings name every label.
        stops = [stop for name, stops in templates.stop.items() if name not in JOBS["judge"] for stop in stops]
        labels = sorted({stop.strip() for stop in stops} - {""})
        self._labels = Labels(labels)
        self._more: dict[str, Values] = {"gate": {"question": constitution and constitution.gate}}  # beside the rest
        self._quoting = {name: Quoting(templates, frame) for name, frame in templates.frame.items() if frame}
        self.begins_replies = False  # whether the reviser goes on with a reply that is begun for it

    def check(self, principles: Iterable[Principle]) -> None:
        """Word every question once; raises TemplateError if the templates need what a principle does not have."""
        self._templates.need("revise")
        has_gate = "gate" in self._templates.by_name
        prompt = Prompt(id="trial", messages=(_turn("user", "Trial."),))
        self.respond(prompt)
        for principle in principles:
            self.critique(prompt, "Trial.", principle)
            self.revise(prompt, "Trial.", "Trial.", principle)
            if has_gate:
                self.gate(prompt, "Trial.", "Trial.", principle)

    def respond(self, prompt: Prompt) -> Request:
        """Ask for the first reply."""
        if self._templates.completes:
            return self._text("assistant", "respond", prompt)
        return Request("assistant", self._turns(prompt))

    def critique(self, prompt: Prompt, reply: str, principle: Principle) -> Request:
        """Ask what is wrong with a reply under a principle."""
        if self._templates.completes:
            return self._text("critic", "critique", prompt, reply=reply, principle=principle)
        if "critique" in self._quoting:
            return self._whole("critic", "critique", prompt, principle, reply=reply)
        turns = self._turns(prompt, reply, self._question("critique", principle))
        return Request("critic", turns, stop=self._templates.stop["critique"])

    def gate(self, prompt: Prompt, reply: str, critique: str, principle: Principle) -> Request:
        """Ask whether a reply needs a change, after a critique of it."""
        return self._after("gate", "gate", prompt, reply, critique, principle)

    def revise(self, prompt: Prompt, reply: str, critique: str, principle: Principle) -> Request:
        """Ask for the reply again, in the light of a critique."""
        return self._after("reviser", "revise", prompt, reply, critique, principle)

    def _after(self, role: Role, name: str, prompt: Prompt, reply: str, critique: str, principle: Principle) -> Request:
        """Put the question of a template after a critique."""
        if self._templates.completes:
            return self._text(role, name, prompt, reply=reply, principle=principle, critique=critique)
        if name in self._quoting:
            return self._whole(role, name, prompt, principle, reply=reply, critique=critique)
        before = self._turns(prompt, reply, self._question("critique", principle))
        after = (_turn("assistant", critique), _turn("user", self._question(name, principle)))
        return Request(role, before + after, stop=self._templates.stop[name])

    def _turns(self, prompt: Prompt, *rest: str) -> Turns:
        """The conversation, then the reply and the question about it."""
        messages = prompt.messages
        if self._system is not None:
            system = self._system
            if messages[0]["role"] == "system":
                system = f"{system}\n\n{messages[0]['content']}"
                messages = messages[1:]
            messages = (_turn("system", system), *messages)
        return messages + tuple(map(_turn, ("assistant", "user"), rest))

    def _whole(self, role: Role, name: str, prompt: Prompt, principle: Principle, **texts: str) -> Request:
        """A question in one turn, in which nothing of the conversation can pass for its frame."""
        quoting = self._quoting[name]
        texts = {key: quoting.quoted(text.strip()) for key, text in texts.items()}
        text = self._words(name, prompt=quoting.turns(prompt.messages), principle=principle, **texts).strip()
        messages: Turns = (_turn("user", text),)
        if self._system is not None:
            messages = (_turn("system", self._system), *messages)
        prefill = ""
        if name == "revise" and self.begins_replies:
            prefill = self._templates.prefix[name]
        return Request(role, messages, stop=self._templates.stop[name], prefill=prefill)

    def revision(self, answer: str) -> str:
        """The reply in an answer of the reviser: without what begins and ends it, if the model writes that itself."""
        begin, ends = self._templates.prefix["revise"], self._templates.stop["revise"]
        if "revise" not in self._quoting:
            return answer.strip().removeprefix(begin).strip()
        return before(after(before(answer, *ends), begin), begin)

    def _question(self, name: str, principle: Principle) -> str:
        key = (name, principle.id)
        if key not in self._questions:
            self._questions[key] = self._words(name, principle=principle).strip()
        return self._questions[key]

    def _text(self, role: Role, name: str, prompt: Prompt, **variables: Any) -> Request:
        variables = {key: self._quoted(value) if isinstance(value, str) else value for key, value in variables.items()}
        messages = [_turn(turn["role"], self._quoted(turn["content"], turn["role"])) for turn in self._turns(prompt)]
        return Request(role, text=self._words(name, prompt=messages, **variables), stop=self._templates.stop[name])

    def _words(self, name: str, **given: Any) -> str:
        """A template with what it is given, and what all of its kind are."""
        return self._templates.render(name, examples=self._examples, gate=False, **given, **self._more.get(name, {}))

    def _quoted(self, text: str, role: str = "user") -> str:
        """A text in which no line can pass for a label of the layout.

        The first line follows a label of its own, except in a system text.
        """
        if role == "system":
            return self._labels.quoted("\n" + text)[1:]
        return self._labels.quoted(text)


def _turn(role: Any, content: str | None) -> Message:
    return {"role": role, "content": content or ""}
