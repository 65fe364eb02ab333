"""Chat templates without a system role, such as Gemma's: the system text goes before the first turn of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Turn = Mapping[str, Any]

# Of a conversation that shows whether a template has a system role: words that no template has of its own.
SYSTEM, USER = "Qsystemz", "Quserz"
FOLDED = "the chat template has no system role: the system text goes before the first turn of the user"


def has_system(render: Callable[[list[dict[str, str]]], str]) -> bool:
    """Whether a template shows a system text, by rendering one: some templates refuse it, and some leave it out.

    render: a conversation as the template writes it; may raise anything.
    """
    conversation = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    try:
        return SYSTEM in render(conversation)
    except Exception:  # of the template's own making: that the role is not known, or that the first is not the user
        return False


def begins_with_system(messages: Sequence[Turn]) -> bool:
    """Whether there is a system text, and a turn of the user to put it before."""
    return len(messages) > 1 and messages[0]["role"] == "system" and messages[1]["role"] == "user"


def folded(messages: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation that begins with a system text, with that text before the first turn of the user."""
    system, user, *rest = messages
    content = f"{system['content'].strip()}\n\n{user['content']}"
    return [{"role": "user", "content": content}, *map(dict, rest)]
