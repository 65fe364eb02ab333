"""Finds the replies of a record, and the conversation that they answer, in the shapes that files of others have.

docs/auditing.md lists the shapes. Knows nothing of faults or counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cai.sources.conversations import ROLES, NoPrompt, listed

PAIRS = (  # columns of two replies; of the first three, the one that training would prefer comes first
    ("chosen", "rejected"), ("final", "initial"), ("a", "b"), ("output_1", "output_2"), ("text_a", "text_b"),
    ("response_a", "response_b"),
)  # fmt: skip
RANKED = PAIRS[:2]
REPLIES = (  # columns of one reply, first match wins
    "messages", "conversations", "completion", "output", "response", "reply", "answer", "text", "generation", "chosen",
)  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "input", "rl_prompt")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
MARKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT}


@dataclass(frozen=True, slots=True)
class Case:
    """A record's replies by role, in order, and the conversation that they answer."""

    replies: tuple[tuple[str, str], ...]
    prompt: str | None = None  # all of it; None: the record has none
    asked: str | None = None  # the last turn of the user
    cut: frozenset[int] = frozenset()  # replies of which the record says that they were cut, by index


class NoReply(Exception):
    """A record has no reply that can be read; the message says why."""


def read_case(record: Any, reply_field: str | None = None, prompt_field: str | None = None) -> Case:
    """The replies of a record in any of the shapes of docs/auditing.md; raises NoReply."""
    if isinstance(record, NoPrompt):
        raise NoReply(record.problem)
    if isinstance(record, str | list) and reply_field is None:
        record = {"text" if isinstance(record, str) else "messages": record}
    if not isinstance(record, Mapping):
        raise NoReply(f"the record is of type {type(record).__name__}, not an object")
    replies, before = [], ""
    for role, value in _values(record, reply_field):
        said, reply = _parted(value, role)
        replies.append((role, reply))
        before = before or said
    if not replies:
        raise NoReply(f"no reply; it has {listed(record)}: name its column with --reply-field")
    prompt = prompt_of(record, prompt_field) or before or None
    asked = None if prompt is None else prompt.rpartition(HUMAN)[2].partition(ASSISTANT)[0].strip()
    return Case(tuple(replies), prompt, asked, frozenset(_cut(record, len(replies))))


def _cut(record: Mapping[str, Any], replies: int) -> Iterator[int]:
    """Indices of the replies that the record, or their own entry in it, says were cut."""
    many = record.get("replies")
    said = many if isinstance(many, list) and len(many) == replies else [record] * replies
    for index, entry in enumerate(said):
        if isinstance(entry, Mapping) and (
            entry.get("finish_reason") == "length" or entry.get("problem") == "truncated"
        ):
            yield index


def _values(record: Mapping[str, Any], reply_field: str | None) -> Iterator[tuple[str, Any]]:
    """Roles and values of a record's replies."""
    many = record.get("sampled_answers", record.get("replies"))
    if reply_field is not None:
        yield "reply", record.get(reply_field)
    elif isinstance(many, list):
        for value in many:
            text = value.get("sampled_string", value.get("text")) if isinstance(value, Mapping) else value
            # The paper's samples end with the marker at which sampling was stopped.
            yield "reply", text.removesuffix(HUMAN) if "sampled_answers" in record and isinstance(text, str) else text
    elif pair := next((pair for pair in PAIRS if all(record.get(name) is not None for name in pair)), None):
        yield from ((role, record[role]) for role in pair)
    elif key := next((key for key in REPLIES if key in record), None):
        yield "reply", record[key]


def prompt_of(record: Mapping[str, Any], prompt_field: str | None) -> str | None:
    """The conversation of a record that has it in a column of its own."""
    if prompt_field is not None:
        return _transcript(record[prompt_field]) if record.get(prompt_field) is not None else None
    if isinstance(record.get("instruction"), str) and isinstance(record.get("input"), str) and record["input"]:
        return _transcript(f"{record['instruction']}\n\n{record['input']}")  # Alpaca's two halves
    given = next((value for key in PROMPTS if (value := record.get(key))), None)
    return None if given is None else _transcript(given)


def _transcript(value: Any) -> str:
    """A conversation in one writing, so that it counts as the same prompt in whatever shape it comes."""
    if isinstance(value, list | tuple):
        return "".join(f"{MARKERS[role]} {text}" for role, text in map(_turn, value))
    if not isinstance(value, str):
        raise NoReply(f"the prompt is of type {type(value).__name__}, not text or a list of messages")
    text = _utf8(value).strip()
    return f"\n\n{text.removesuffix(ASSISTANT)}" if text.startswith("Human:") else f"{HUMAN} {text}"


def _parted(value: Any, role: str) -> tuple[str, str]:
    """What was said before, and the reply: of a text, a transcript or a list of messages that ends with it."""
    if isinstance(value, list | tuple):
        turns = [_turn(turn) for turn in value]
        if not turns or turns[-1][0] != "assistant":
            raise NoReply(f"{role!r} does not end with a turn of the assistant")
        return _transcript(value[:-1]), turns[-1][1]
    if not isinstance(value, str):
        raise NoReply(f"{role!r} is {'null' if value is None else f'of type {type(value).__name__}'}, not text")
    if _utf8(value).lstrip().startswith("Human:") and ASSISTANT in value:
        before, _, reply = value.rpartition(ASSISTANT)
        return _transcript(before), reply.removeprefix(" ")
    return "", value


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise NoReply("a turn is no object with role and content")
    role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if role not in ROLES or not isinstance(text, str):
        raise NoReply(
            f"a turn has the role {role!r} and content of type {type(text).__name__}; known: {', '.join(ROLES)}"
        )
    return ROLES[role], _utf8(text)


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NoReply(f"text that is not UTF-8 (character {error.start + 1})") from None
    return text
