"""Critique and revise: supervised Constitutional AI (Bai et al. 2022, section 3.1), one prompt at a time.

`revise` is a flow: a generator that yields the requests it needs next and is sent the answers.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.constitution.principles import Principle
from cai.engine.ask import Ask
from cai.errors import RowDropped
from cai.records import Completion, Prompt, Request, Role, Round

# A line that gives a verdict, whatever marks it up; one that begins with `>` quotes somebody else. The verdict itself
# may stand in the line below.
VERDICT = re.compile(r"""^[ \t*_#~"'`“”‘’(\[–—•-]*verdict[ \t*_"'`”’]*:[\W_]*(.*)$""", re.IGNORECASE | re.MULTILINE)
VERDICTS: dict[str, Literal["revise", "nothing_to_fix"]] = {"r": "revise", "n": "nothing_to_fix"}
CHOICE = re.compile(r"(?<![^\W_])(nothing[\s_-]+to[\s_-]+fix|revise)(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Chain:
    """A first reply and what the rounds made of it."""

    initial: str
    rounds: tuple[Round, ...]
    final: str


def revise(
    prompt: Prompt, principles: Sequence[Principle], ask: Ask, *, gate: bool
) -> Generator[list[Request], list[Completion], Chain]:
    """Reply, then per principle critique the reply and revise it; the revision is the next round's reply.

    With `gate`, a critique whose last verdict line says that there is nothing to fix keeps the reply as it is; one
    without a readable verdict is followed by a revision. Raises RowDropped for an empty or truncated reply; a
    truncated critique is used as it is.
    """
    [completion] = yield [ask.respond(prompt)]
    initial = reply = _whole(completion, "assistant")
    rounds = []
    for principle in principles:
        [completion] = yield [ask.critique(prompt, reply, principle)]
        critique = _text(completion, "critic")
        verdict = read_verdict(critique) if gate else None
        revision = None
        if verdict != "nothing_to_fix":
            [completion] = yield [ask.revise(prompt, reply, critique, principle)]
            revision = _whole(completion, "reviser")
        changed = revision not in (None, reply)
        rounds.append(
            Round(principle=principle.id, critique=critique, verdict=verdict, revision=revision, changed=changed)
        )
        if revision is not None:
            reply = revision
    return Chain(initial, tuple(rounds), reply)


def read_verdict(critique: str) -> Literal["revise", "nothing_to_fix"] | None:
    """What the last verdict line of a critique says; None if there is none, or it is ambiguous.

    A line that names both verdicts, as one that repeats the instruction does, is ambiguous.
    """
    lines = VERDICT.findall(critique)
    if not lines or not CHOICE.match(lines[-1]):
        return None
    choices = {choice[0].lower() for choice in CHOICE.findall(lines[-1])}  # by their first letter
    if len(choices) > 1:
        return None
    return VERDICTS[choices.pop()]


def _text(completion: Completion, stage: Role) -> str:
    text = completion.text.strip()
    if completion.finish == "content_filter":
        raise RowDropped("content_filter", stage, "the provider's filter withheld the answer")
    if not text:
        raise RowDropped("empty", stage, "the model answered with nothing")
    return text


def _whole(completion: Completion, stage: Role) -> str:
    # Before emptiness is looked at: a thinking model can spend all its tokens on thoughts.
    if completion.finish == "length":
        tokens = "" if completion.output_tokens is None else f" after {completion.output_tokens} tokens"
        raise RowDropped("truncated", stage, f"cut{tokens}: raise --max-tokens, or see the reply in calls.sqlite")
    return _text(completion, stage)
