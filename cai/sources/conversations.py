"""Finds the prompt in a record: one string, a list of messages, or a transcript, in the shapes people's data has.

Text is data: nothing in it is rendered or interpreted, except the turn markers of a `Human:`/`Assistant:` transcript.
Knows nothing of files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from cai.records import DropReason, Message, Prompt

FORMATS: dict[str, tuple[str, ...]] = {  # format → the keys it looks at, first match wins
    "auto": ("prompt", "messages", "conversations", "chosen", "rejected"),
    "text": ("prompt",),
    "prompt": ("prompt",),
    "messages": ("messages", "conversations"),
    "hh": ("chosen", "rejected"),
}
ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",  # ShareGPT and transcripts
    "assistant": "assistant",
    "gpt": "assistant",
}
MARKER = re.compile(r"\n\n(Human|Assistant):")


class NoPrompt(Exception):
    """A record holds no prompt that can be used."""

    def __init__(self, problem: str, reason: DropReason = "bad_input") -> None:
        self.problem, self.reason = problem, reason
        super().__init__(problem)


def prompt_hash(messages: Sequence[Message]) -> str:
    """32 hex digits that name a conversation: equal for equal roles and texts, whatever file they came from."""
    digest = hashlib.sha256()
    for message in messages:
        content = message["content"].encode("utf-8", "surrogatepass")
        digest.update(f"{message['role']}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]


def pair_hash(messages: Sequence[Message], a: str, b: str) -> str:
    """32 hex digits that name two replies to a conversation, in whichever order they are given."""
    digest = hashlib.sha256(prompt_hash(messages).encode())
    for reply in sorted((a, b)):
        digest.update(hashlib.sha256(reply.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()[:32]


def keys_of(format: str, field: str | None) -> tuple[str, ...]:
    """The keys or columns that may hold the prompt, first match wins."""
    return (field,) if field else FORMATS[format]


def to_prompt(record: Any, format: str = "auto", field: str | None = None) -> Prompt:
    """The prompt in `record`: a string, a list of messages, an object that holds one of them, or a `Prompt`.

    format: a key of `FORMATS`. field: look at this key alone. Raises NoPrompt.
    """
    if isinstance(record, Prompt):
        return Prompt(id=record.id, messages=_conversation(record.messages))
    if not isinstance(record, Mapping):
        if field:
            raise NoPrompt(f"the record is of type {type(record).__name__}: it has no {field!r}")
        messages = _messages(record, "the record", format)
        return Prompt(id=prompt_hash(messages), messages=messages)
    keys = keys_of(format, field)
    for key in keys:
        if record.get(key) is not None:  # tables fill the columns a row lacks with None
            messages = _messages(record[key], key, format)
            return Prompt(id=_id(record.get("id"), messages), messages=messages)
    for key in keys:
        if key in record:
            raise NoPrompt(f"{key!r} is null", "empty")
    raise NoPrompt(f"no {' or '.join(keys)}; it has {listed(record)}: name the right one with --prompt-field")


def to_messages(value: Any, name: str) -> list[Message]:
    """The turns of a whole conversation, its last reply too: a list of messages, or a transcript; raises NoPrompt."""
    if isinstance(value, str):
        as_text(value, name)
        value = _transcript(value, name)
    if not isinstance(value, list | tuple):
        raise NoPrompt(f"{name} is of type {type(value).__name__}, not a transcript or a list of messages")
    return [_turn(number, turn) for number, turn in enumerate(value, 1)]


def _id(given: Any, messages: tuple[Message, ...]) -> str:
    if given is None:
        return prompt_hash(messages)
    if isinstance(given, str):
        return as_text(given, "the id") or prompt_hash(messages)  # a table's empty cell
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise NoPrompt(f"the id is of type {type(given).__name__}, not text or a whole number")


def _messages(value: Any, name: str, format: str) -> tuple[Message, ...]:
    if isinstance(value, list | tuple):
        return _conversation(value)
    if not isinstance(value, str):
        raise NoPrompt(f"{name} is of type {type(value).__name__}, not text or a list of messages")
    as_text(value, name)
    if format == "text":
        return _conversation([{"role": "user", "content": value}])
    if format == "hh" or name in FORMATS["hh"] or value.startswith("\n\nHuman:"):
        return _conversation(_transcript(value, name))
    if format == "messages" or name in FORMATS["messages"]:
        raise NoPrompt(f"{name} is text, not a list of messages")
    return _conversation([{"role": "user", "content": value}])


def _transcript(text: str, name: str) -> list[dict[str, str]]:
    """The turns of `\\n\\nHuman: …\\n\\nAssistant: …`: cut at these markers alone, never at another colon."""
    before, *parts = MARKER.split("\n\n" + text.lstrip())
    if before or not parts:
        raise NoPrompt(f"{name} is no transcript: it does not start with 'Human:'")
    return [
        {"role": role.lower(), "content": said.removeprefix(" ")}
        for role, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _conversation(turns: Sequence[Any]) -> tuple[Message, ...]:
    """System first, turns of one role merged, blank turns left out; what follows the last user turn is dropped."""
    said = [_turn(number, turn) for number, turn in enumerate(turns, 1)]
    while said and said[-1]["role"] == "assistant":
        said.pop()
    if not said or said[-1]["role"] != "user":
        raise NoPrompt("there is no user turn to answer", "bad_input" if said else "empty")
    if not said[-1]["content"].strip():
        raise NoPrompt("the prompt is empty", "empty")
    if len(said) == 1:
        return (said[0],)
    merged: list[Message] = []
    for number, message in enumerate(said, 1):
        if not message["content"].strip():  # APIs refuse blank turns
            continue
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {"role": message["role"], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        elif merged and message["role"] == "system":
            raise NoPrompt(f"turn {number} is a system message in mid-conversation")
        else:
            merged.append(message)
    return tuple(merged)


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise NoPrompt(f"turn {number} is of type {type(turn).__name__}, not an object with role and content")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise NoPrompt(f"turn {number} has the role {_short(role)}; known: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise NoPrompt(f"the content of turn {number} is of type {type(content).__name__}, not text")
    return {"role": ROLES[role], "content": as_text(content, f"turn {number}")}


def as_text(text: str, name: str) -> str:
    """The text itself; NoPrompt where it holds half a surrogate pair, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NoPrompt(f"{name} holds what is not UTF-8 (character {error.start + 1})") from None
    return text


def listed(keys: Iterable[Any]) -> str:
    """The first dozen of `keys`, for a message."""
    shown = [_short(key) for key in keys]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "nothing"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
