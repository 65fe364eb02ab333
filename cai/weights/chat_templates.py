"""Chat templates without a system role, such as Gemma's: the system text goes before the first turn of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Turn = Mapping[str, Any]

# Of a conversation that shows whether a template has a system role: words that no template has of its own.
SYSTEM, USER = "Qsystemz", "Quserz"
FOLDED = "the chat template has no system role: the system text goes before the first turn of the user"


def has_system(render: Callable[[list[dict[str, str]]], str], *, own_way: str | None = None) -> bool:
    """Whether a template shows a system text, by rendering one: some templates refuse it, and some leave it out.

    render: a conversation as the template writes it; may raise anything. own_way: what the renderer itself puts between
    a system text and a turn of the user if the template has no role for it.
    """
    conversation = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    try:
        text = render(conversation)
        if own_way is not None and text == render([{"role": "user", "content": f"{SYSTEM}{own_way}{USER}"}]):
            return False
        return SYSTEM in text
    except Exception:  # of the template's own making: that the role is not known, or that the first is not the user
        return False


def takes_parts(render: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Whether a template shows a text only as a list of parts: some, such as Llama Guard 3 1B's, leave others out.

    render: a conversation as the template writes it; may raise anything.
    """

    def shows(content: Any) -> bool:
        try:
            return USER in render([{"role": "user", "content": content}])
        except Exception:  # of the template's own making
            return False

    return not shows(USER) and shows(in_parts(USER))


def in_parts(text: str) -> list[dict[str, str]]:
    """A text as the only part of a turn."""
    return [{"type": "text", "text": text}]


def begins_with_system(messages: Sequence[Turn]) -> bool:
    """Whether there is a system text at the start, and a turn of the user to put it before."""
    return bool(messages) and messages[0]["role"] == "system" and any(turn["role"] == "user" for turn in messages)


def folded(messages: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation that begins with system texts, with these before the first turn of the user."""
    turns = [dict(turn) for turn in messages if turn["role"] != "system"]
    user = next(turn for turn in turns if turn["role"] == "user")
    texts = [turn["content"].strip() for turn in messages if turn["role"] == "system"]
    user["content"] = "\n\n".join([*texts, user["content"]])
    return turns
