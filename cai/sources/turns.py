"""Reads the turns of a conversation in any writing: messages, as ShareGPT or Gemini has them, a transcript, JSON text.

Text is data: nothing in it is rendered or interpreted, except the turn markers of a `Human:`/`Assistant:` transcript,
and a whole text that is a JSON list of messages.

    value                                            read as
    "Hi"                                             one turn of the user; as a reply, the reply alone
    "\\n\\nHuman: Hi\\n\\nAssistant: Hello"              a transcript, cut at these markers only
    [{"role": "user", "content": "Hi"}, …]           messages; `ROLES` are the roles
    [{"from": "human", "value": "Hi"}, …]            the same, as ShareGPT writes it
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, …]    content in parts, which are joined
    '[{"role": "user", "content": "Hi"}]'            messages as JSON text, as tables hold them
    {"from": "gpt", "value": "Hello"}                one message
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from cai.records import Message, Object
from cai.sources.values import BadRecord, as_text, kind, shown

ROLES: dict[str, Literal["system", "user", "assistant"]] = {  # in lower case
    "system": "system",
    "developer": "system",  # OpenAI
    "user": "user",
    "human": "user",  # ShareGPT and transcripts
    "prompter": "user",  # OpenAssistant
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "model": "assistant",  # Gemini, Gemma
    "bot": "assistant",
    "ai": "assistant",
}
OF_TOOLS = frozenset({  # roles of turns that are not read yet
    "tool", "function", "function_call", "tool_call", "tool_calls", "observation", "ipython", "tool_response",
    "function_response",
})  # fmt: skip
CALLS = ("tool_calls", "function_call")  # keys of a turn that calls tools
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "parts")  # the last is Gemini's
TEXT_PARTS = (None, "text", "input_text", "output_text")
MARKER = re.compile(r"\n\n(Human|Assistant):")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def whole(value: Any, name: str) -> list[Message]:
    """The turns of a whole conversation, its last reply included."""
    if isinstance(value, str):
        messages = _from_json(value)
        if messages is None:
            return transcript(as_text(value, name), name)
        value = messages
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise BadRecord(f"{name} is {kind(value)}, not text or a list of messages")
    return [_turn(number, turn) for number, turn in enumerate(value, 1)]


def parted(value: Any, name: str) -> tuple[Sequence[Message], str]:
    """The turns before a reply, and the reply.

    Text is a reply alone, unless it is a conversation. Several turns of the assistant at the end are one reply.
    """
    if not is_conversation(value):
        return [], as_text(value, name)
    turns = whole(value, name)
    before = before_reply(turns)
    replies = [turn["content"] for turn in turns[len(before) :]]
    if not replies:
        raise BadRecord(f"{name} does not end with a reply")
    return before, "\n\n".join(filter(str.strip, replies))


def is_conversation(value: Any) -> bool:
    """Whether a value is more than a text: messages, a transcript, or messages as JSON text."""
    if isinstance(value, str):
        return _is_transcript(value) or _from_json(value) is not None
    return isinstance(value, list | tuple | Mapping)


def before_reply(turns: Sequence[Message]) -> Sequence[Message]:
    """The turns without those of the assistant at the end."""
    end = len(turns)
    while end and turns[end - 1]["role"] == "assistant":
        end -= 1
    return turns[:end]


def is_turn(value: Any) -> bool:
    """Whether a value is written as one message is."""
    if not isinstance(value, Mapping):
        return False
    return any(key in value for key in ROLE_KEYS) and any(key in value for key in (*CONTENT_KEYS, *CALLS))


def is_reply(value: Any) -> bool:
    """Whether a message is one of the assistant."""
    if not isinstance(value, Mapping):
        return False
    role = _first(value, ROLE_KEYS)
    return isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant"


def messages_in(value: Any) -> list[Any] | None:
    """The messages of a conversation that is a list or JSON text; None: it is written in another way."""
    if isinstance(value, str):
        return _from_json(value)
    return list(value) if isinstance(value, list | tuple) else None


def transcript(text: str, name: str) -> list[Message]:
    """The turns of `\\n\\nHuman: …\\n\\nAssistant: …`: cut at these markers only, never at another colon."""
    before, *parts = MARKER.split("\n\n" + text.lstrip())
    if before or not parts:
        raise BadRecord(f"{name} is not a transcript: it does not start with 'Human:'")
    return [
        {"role": ROLES[role.lower()], "content": content.removeprefix(" ")}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:") and ASSISTANT in text


def _from_json(text: str) -> list[Any] | None:
    """The messages in a text that is a JSON list of them; None: it is another text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    return values if values and all(map(is_turn, values)) else None


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecord(f"turn {number} is {kind(turn)}, not an object with role and content")
    role = _first(turn, ROLE_KEYS)
    name = role.strip().lower() if isinstance(role, str) else None
    if name in OF_TOOLS:
        raise BadRecord(f"turn {number} has the role {shown(role)}: turns of tools are not supported")
    if name not in ROLES:
        raise BadRecord(f"turn {number} has the role {shown(role)}; known: {', '.join(ROLES)}")
    for key in CALLS:
        if turn.get(key):
            raise BadRecord(f"turn {number} calls a tool ({key!r}): turns of tools are not supported")
    content = _first(turn, CONTENT_KEYS)
    if isinstance(content, list | tuple):
        content = "".join(_part(number, part) for part in content)
    if not isinstance(content, str):
        raise BadRecord(f"the content of turn {number} is {kind(content)}, not text")
    return {"role": ROLES[name], "content": as_text(content, f"turn {number}")}


def _first(turn: Object, keys: Sequence[str]) -> Any:
    """The first value of a turn under these keys; tables fill those that it lacks with None."""
    return next((turn[key] for key in keys if turn.get(key) is not None), None)


def _part(number: int, part: Any) -> str:
    """A part of a content in parts, which must be text."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise BadRecord(f"the content of turn {number} has a part {kind(part)}, not text")
    if part.get("type") not in TEXT_PARTS:
        raise BadRecord(f"the content of turn {number} has a part of type {shown(part['type'])}: only text is read")
    text = part.get("text")
    if not isinstance(text, str):
        raise BadRecord(f"the content of turn {number} has a part without text")
    return text
