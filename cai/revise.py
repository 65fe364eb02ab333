"""Critique and revise: supervised Constitutional AI (Bai et al. 2022, section 3.1), one prompt at a time.

Pure. `revise` is a flow (DESIGN §3): it yields what it asks and is sent the answers. Knows nothing of models or files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.ask import Ask
from cai.constitution import Principle
from cai.errors import RowDropped
from cai.records import Completion, Prompt, Request, Role, Round

VERDICT = re.compile(r"^[\s>*_#-]*verdict[\s*_]*:[\s*_\"'“]*(nothing to fix|revise)\b", re.IGNORECASE | re.MULTILINE)


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
    without a readable verdict is followed by a revision. Raises RowDropped for an empty or cut reply; a cut critique
    is used as it is.
    """
    [completion] = yield [ask.respond(prompt)]
    initial = reply = _whole(completion, "assistant")
    rounds = []
    for principle in principles:
        [completion] = yield [ask.critique(prompt, reply, principle)]
        critique = _text(completion, "critic")
        verdict = read_verdict(critique) if gate else None
        if verdict == "nothing_to_fix":
            revision = None
        else:
            [completion] = yield [ask.revise(prompt, reply, critique, principle)]
            revision = _whole(completion, "reviser")
        changed = revision is not None and revision != reply
        rounds.append(
            Round(principle=principle.id, critique=critique, verdict=verdict, revision=revision, changed=changed)
        )
        reply = reply if revision is None else revision
    return Chain(initial, tuple(rounds), reply)


def read_verdict(critique: str) -> Literal["revise", "nothing_to_fix"] | None:
    """The last verdict line of a critique; None when it has none."""
    found = VERDICT.findall(critique)
    if not found:
        return None
    return "nothing_to_fix" if found[-1].lower() == "nothing to fix" else "revise"


def draw_principles(principles: Sequence[Principle], rounds: int, seed: int, row: str) -> list[Principle]:
    """One principle per round, by weight; none comes twice before all have come once.

    Depends on the seed and the row id alone. (The paper draws with replacement: a third of its 4-round chains repeat
    one.)
    """
    # The "principles" keeps this stream apart from any other that is seeded by (seed, row).
    chance = random.Random(f"principles\0{seed}\0{row}")
    drawn: list[Principle] = []
    left: list[Principle] = []
    for _ in range(rounds):
        left = left or list(principles)
        [principle] = chance.choices(left, weights=[p.weight for p in left])
        left.remove(principle)
        drawn.append(principle)
    return drawn


def _text(completion: Completion, stage: Role) -> str:
    text = completion.text.strip()
    if completion.finish == "content_filter":
        raise RowDropped("content_filter", stage, "the provider's filter withheld the answer")
    if not text:
        raise RowDropped("empty", stage, "the model answered with nothing")
    return text


def _whole(completion: Completion, stage: Role) -> str:
    text = _text(completion, stage)
    if completion.finish == "length":
        tokens = "" if completion.output_tokens is None else f" after {completion.output_tokens} tokens"
        raise RowDropped("truncated", stage, f"cut{tokens}: raise --max-tokens, or see the reply in calls.sqlite")
    return text
