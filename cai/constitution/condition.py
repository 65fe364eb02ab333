"""A principle in front of a conversation, for a reward model that is told by which one it is to judge the last reply.

It stands in a system text: before whatever the conversation has of one, and in the user's turn where a chat template
has no such role.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from cai.constitution.principles import Principle
from cai.records import Condition, Message
from cai.texts.wording import listed

log = logging.getLogger("cai")

SHOWN = 5  # principles that a warning names
PLACE = "{principle}"
FORM = f"The principle by which the last reply is judged: {PLACE}"


def wording(principle: Principle) -> str:
    """What a reward model is told of a principle that can judge; spacing does not matter."""
    return in_line(principle.choose or principle.text or "")


def in_line(text: str) -> str:
    """A text with single spaces."""
    return " ".join(text.split())


def told(condition: Condition, messages: Sequence[Message], principle: str) -> tuple[Message, ...]:
    """A conversation behind a principle in words."""
    text = condition.form.replace(PLACE, in_line(principle))
    rest = tuple(messages)
    if rest and rest[0]["role"] == "system":
        text = f"{text}\n\n{rest[0]['content']}"
        rest = rest[1:]
    return (Message(role="system", content=text), *rest)


def is_told(condition: Condition, messages: Sequence[Message]) -> bool:
    """Whether a conversation stands behind a principle."""
    start = condition.form.partition(PLACE)[0]
    return bool(messages) and messages[0]["role"] == "system" and messages[0]["content"].startswith(start)


def warn_of_unseen(spec: str, condition: Condition | None, principles: Iterable[Principle]) -> None:
    """Log the ids of principles that the model of a spec was not trained on, though it is told of them."""
    if condition is None:
        return
    seen = set(condition.principles)
    new = [principle.id for principle in principles if wording(principle) not in seen]
    if new:
        log.warning("%s was not trained on %s: what it makes of these is a guess", spec, listed(new, SHOWN))
