"""Reads a conversation in any shape: text, a list of messages, or a transcript; and finds the prompt of a record.

Text is data: nothing in it is rendered or interpreted, except the turn markers of a `Human:`/`Assistant:` transcript.

    value                                            read as
    "Hi"                                             one turn of the user; as a reply, the reply alone
    "\\n\\nHuman: Hi\\n\\nAssistant: Hello"              a transcript, cut at these markers only
    [{"role": "user", "content": "Hi"}, …]           messages; roles: system, user or human, assistant or gpt
    [{"from": "human", "value": "Hi"}, …]            the same, as ShareGPT writes it

    prompt, else instruction (with input), question, input, rl_prompt: the conversation before the reply
    messages, conversations, chosen, rejected: a whole conversation, its last reply included

`cai.sources.replies` lists the columns of replies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from cai.records import DropReason, Message, Object, Prompt, Turns
from cai.texts import wording

PROMPTS = ("prompt", "instruction", "question", "input", "rl_prompt")  # columns of a prompt, first match wins
FORMATS: dict[str, tuple[str, ...]] = {  # format → the keys it looks at, first match wins
    "auto": ("prompt", "messages", "conversations", *PROMPTS[1:], "chosen", "rejected"),
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
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class BadRecord(Exception):
    """A record cannot be used."""

    def __init__(self, problem: str, reason: DropReason = "bad_input") -> None:
        self.problem = problem
        self.reason = reason
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


# The prompt of a record


def keys_of(format: str, field: str | None) -> tuple[str, ...]:
    """The keys or columns that may hold the prompt, first match wins."""
    if field:
        return (field,)
    return FORMATS[format]


def to_prompt(record: Any, format: str = "auto", field: str | None = None) -> Prompt:
    """The prompt in `record`: a string, a list of messages, an object that holds one of them, or a `Prompt`.

    format: a key of `FORMATS`. field: look at this key only. Raises BadRecord.
    """
    if isinstance(record, Prompt):
        return Prompt(id=record.id, messages=to_answer(whole(record.messages, "the prompt")))
    if not isinstance(record, Mapping):
        if field:
            raise BadRecord(f"the record is of type {type(record).__name__}: it has no {field!r}")
        messages = to_answer(_turns(record, "the record", format))
        return Prompt(id=prompt_hash(messages), messages=messages)
    keys = keys_of(format, field)
    turns = _first(record, keys, format)
    if turns is not None:
        messages = to_answer(turns)
        return Prompt(id=id_of(record) or prompt_hash(messages), messages=messages)
    for key in keys:
        if key in record:
            raise BadRecord(f"{key!r} is null", "empty")
    raise BadRecord(f"no {', '.join(keys)}; it has {listed(record)}: name the right one with --prompt-field")


def prompt_in(record: Object, field: str | None = None) -> list[Message]:
    """The turns of the prompt that a record has in a column of its own; none if it has no such column.

    field: look at this column only.
    """
    if field:
        return _first(record, (field,), "auto") or []
    return _first(record, PROMPTS, "auto") or []


def _first(record: Object, keys: tuple[str, ...], format: str) -> list[Message] | None:
    """The turns in the first of these columns that has a value; None if none has.

    Alpaca's `instruction` and `input` are one text, unless only one of them is looked at.
    """
    for key in keys:
        value = record.get(key)  # tables fill the columns that a row lacks with None
        if value is not None:
            more = record.get("input")
            if key == "instruction" and "input" in keys and more and isinstance(more, str) and isinstance(value, str):
                value = f"{value}\n\n{more}"
            return _turns(value, key, format)
    return None


def to_answer(turns: Sequence[Message]) -> Turns:
    """A conversation that a model can answer: what follows the last user turn is dropped, and turns are `merged`."""
    conversation = to_reply(before_reply(turns))
    for number, message in enumerate(conversation[1:], 2):
        if message["role"] == "system":
            raise BadRecord(f"turn {number} is a system message in mid-conversation")
    return conversation


def to_reply(turns: Sequence[Message]) -> Turns:
    """A conversation before a reply: it ends with a user turn that is not blank, and turns are `merged`."""
    if not turns:
        raise BadRecord("there is no user turn to answer", "empty")
    if turns[-1]["role"] != "user":
        raise BadRecord("there is no user turn to answer")
    if not turns[-1]["content"].strip():
        raise BadRecord("the prompt is empty", "empty")
    return merged(turns)


def merged(turns: Sequence[Message]) -> Turns:
    """The turns without blank ones, which APIs refuse; consecutive turns of one role are one."""
    spoken = (turn for turn in turns if turn["content"].strip())
    return tuple(
        {"role": role, "content": "\n\n".join(turn["content"] for turn in same)}
        for role, same in groupby(spoken, itemgetter("role"))
    )


def before_reply(turns: Sequence[Message]) -> Sequence[Message]:
    """The turns without those of the assistant at the end."""
    end = len(turns)
    while end and turns[end - 1]["role"] == "assistant":
        end -= 1
    return turns[:end]


def id_of(record: Object) -> str | None:
    """The id of a record, text or a whole number; None or "", a table's empty cell, if it has none."""
    value = record.get("id")
    if value is None or isinstance(value, str):
        return value and as_text(value, "the id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadRecord(f"the id is {kind(value)}, not text or a whole number")


# Turns


def parted(value: Any, name: str) -> tuple[Sequence[Message], str]:
    """The turns before a reply, and the reply.

    Text is a reply alone, unless it is a transcript. Several turns of the assistant at the end are one reply.
    """
    if isinstance(value, str) and not _is_transcript(value):
        return [], as_text(value, name)
    turns = whole(value, name)
    before = before_reply(turns)
    replies = [turn["content"] for turn in turns[len(before) :]]
    if not replies:
        raise BadRecord(f"{name} does not end with a reply")
    return before, "\n\n".join(filter(str.strip, replies))


def whole(value: Any, name: str) -> list[Message]:
    """The turns of a whole conversation, its last reply included: a list of messages, or a transcript."""
    if isinstance(value, str):
        return _transcript(as_text(value, name), name)
    if not isinstance(value, list | tuple):
        raise BadRecord(f"{name} is {kind(value)}, not text or a list of messages")
    return [_turn(number, turn) for number, turn in enumerate(value, 1)]


def _turns(value: Any, name: str, format: str) -> list[Message]:
    """The turns of a prompt, or of the conversation that it ends."""
    if not isinstance(value, str):
        return whole(value, name)
    as_text(value, name)
    if format != "text":
        if format == "hh" or name in FORMATS["hh"]:
            return _transcript(value, name)
        if format == "messages" or (name in FORMATS["messages"] and not _is_transcript(value)):
            raise BadRecord(f"{name} is text, not a list of messages")
        if value.startswith(HUMAN) or name in FORMATS["messages"]:
            return _transcript(value, name)
    return [{"role": "user", "content": value}]


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:") and ASSISTANT in text


def _transcript(text: str, name: str) -> list[Message]:
    """The turns of `\\n\\nHuman: …\\n\\nAssistant: …`: cut at these markers only, never at another colon."""
    before, *parts = MARKER.split("\n\n" + text.lstrip())
    if before or not parts:
        raise BadRecord(f"{name} is not a transcript: it does not start with 'Human:'")
    return [
        {"role": ROLES[role.lower()], "content": content.removeprefix(" ")}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecord(f"turn {number} is {kind(turn)}, not an object with role and content")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRecord(f"turn {number} has the role {_short(role)}; known: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRecord(f"the content of turn {number} is {kind(content)}, not text")
    return {"role": ROLES[role], "content": as_text(content, f"turn {number}")}


# Values, and words for them


def object_of(record: Any, columns: str) -> Object:
    """A record that must be an object, with these columns in words; BadRecord if it is not, or was not decoded."""
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, Mapping):
        return record
    raise BadRecord(f"the record is {kind(record)}, not an object with {columns}")


def as_text(value: Any, name: str) -> str:
    """A value that must be text; BadRecord if it is not, or holds half a surrogate pair, which no file can hold."""
    if not isinstance(value, str):
        raise BadRecord(f"{name} is {kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name} is not UTF-8 (character {error.start + 1})") from None
    return value


def optional_text(record: Object, name: str) -> str | None:
    """A text that a record may lack."""
    value = record.get(name)
    return None if value is None else as_text(value, f"'{name}'")


def kind(value: Any) -> str:
    """The type of a value, for a message."""
    return "null" if value is None else f"of type {type(value).__name__}"


def listed(keys: Iterable[Any]) -> str:
    """The first dozen of `keys`, for a message."""
    return wording.listed([_short(key) for key in keys], most=12) or "nothing"


def _short(value: Any) -> str:
    return wording.shortened(repr(value), 60)
