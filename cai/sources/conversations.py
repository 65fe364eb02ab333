"""Finds the conversation that a record holds: its prompt, its system text, and the turns before its replies.

    prompt, else instruction (with input or context), question,
      query, input, inputs, rl_prompt, trajectory,
      context, history                                   the conversation before the reply
    messages, conversations, conversation, transcript,
      chosen, rejected, conversation_a, conversation_b   a whole conversation, its last reply included
    system, system_prompt                                the system turn, of all of these
    history of any form, context of messages             the turns before another prompt

A record may hold a conversation twice, such as the first turn under `prompt` and all turns under `chosen`: the longer
counts, if it holds the other. `cai.sources.turns` lists the forms, `cai.sources.replies` the columns of replies.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import dropwhile, groupby, takewhile
from operator import itemgetter
from typing import Any

from cai.records import Message, Object, Prompt, Turns
from cai.sources.threads import ANSWERED, JUDGED, woven
from cai.sources.turns import (
    CHATS,
    HUMAN,
    UNREAD,
    before_reply,
    check_read,
    held,
    is_conversation,
    is_turn,
    transcript,
    whole,
)
from cai.sources.values import BadRecord, as_text, id_of, missing, shown

SIDES = ("chosen", "rejected", "conversation_a", "conversation_b")  # columns of one side of a pair
PROMPTS = (  # columns of a prompt, first match wins
    "prompt", "instruction", "question", "query", "input", "inputs", "rl_prompt", "trajectory", "context", "history",
)  # fmt: skip
FOLLOWED = {"instruction": ("input", "context"), "question": ("context",)}  # columns whose text goes on in another
LOOSE = ("input", "context", "history")  # names that other things have, too: read if nothing else is the prompt
SYSTEM = ("system", "system_prompt")
FORMATS: dict[str, tuple[str, ...]] = {  # format → the keys it looks at, first match wins
    "auto": ("prompt", *CHATS, *PROMPTS[1:], *SIDES),
    "text": ("prompt",),
    "prompt": ("prompt",),
    "messages": CHATS,
    "hh": ("chosen", "rejected"),
}
BESIDE = ("id", *SYSTEM, *UNREAD, *ANSWERED, JUDGED)  # columns that are read beside those of a format
READ = {*FORMATS["auto"], *BESIDE} - {"id"}  # columns that have a say in which conversation a record holds
ALONE = [{name} for name in ("prompt", *CHATS)]  # of those, what most records have: to look further takes twice as long


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
    return (field,) if field else FORMATS[format]


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
    guessed = format == "auto" and field is None
    is_alone = guessed and record.keys() & READ in ALONE
    if guessed and not is_alone:
        record = woven(record)
    keys = keys_of(format, field)
    turns = _first(record, keys, format)
    if turns is not None:
        if guessed and not is_alone:
            turns = _conversation(record, turns)
        messages = to_answer(turns if is_alone else in_context(record, turns))
        return Prompt(id=id_of(record) or prompt_hash(messages), messages=messages)
    for key in keys:
        if key in record:
            raise BadRecord(f"{key!r} is null", "empty")
    raise BadRecord(f"no {', '.join(keys)}; {held(record, ': name the right one with --prompt-field')}")


def prompt_in(record: Object, field: str | None = None) -> list[Message]:
    """The turns of the prompt that a record has in a column of its own; none if it has no such column.

    field: look at this column only.
    """
    if field:
        return _opened(_first(record, (field,), "auto") or [])
    turns = _first(record, PROMPTS, "auto")
    if turns is None:
        return list(before_reply(_first(record, CHATS, "messages") or []))
    earlier = _earlier(record)
    if any(turn["role"] == "assistant" for turn in turns) or (earlier and earlier[-1]["role"] == "user"):
        return joined(_opened(turns), earlier, "the history")
    return [*earlier, *_opened(turns)]


def _opened(turns: list[Message]) -> list[Message]:
    """The turns without a blank one of the assistant at the end, with which a transcript asks for a reply."""
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        return turns[:-1]
    return turns


def conversation_before(record: Object, own: Sequence[Message], name: str, field: str | None = None) -> list[Message]:
    """The whole conversation before a reply, whose column `name` holds the turns `own` before it, perhaps none.

    Raises BadRecord if the prompt of the record, or its system text, contradicts these turns.
    """
    if any(turn["role"] == "user" for turn in own) and field is None and missing(record.get("prompt")):
        return in_context(record, own)  # names such as `question` may hold another thing
    return in_context(record, joined(prompt_in(record, field), own, name))


def _conversation(record: Object, first: list[Message]) -> list[Message]:
    """The conversation to answer, of which the first column that has a value holds at least a part."""
    prompt = _first(record, PROMPTS, "auto") and prompt_in(record)
    if not prompt:
        return first
    for name in (*CHATS, *SIDES):
        value = record.get(name)
        if is_conversation(value, name):
            return conversation_before(record, before_reply(whole(value, name)), name)
    return prompt


def _first(record: Object, keys: tuple[str, ...], format: str) -> list[Message] | None:
    """The turns in the first of these columns that has a value; None if none has.

    Alpaca's `instruction` and `input` are one text, as are others of `FOLLOWED`, unless only one of them is looked at.
    """
    for key in keys:
        value = record.get(key)
        if isinstance(value, Mapping) and "full_text" in value:  # WebGPT
            value = value["full_text"]
        loose = key in LOOSE and len(keys) > 1 and not isinstance(value, str | list | tuple)
        if missing(value) or (loose and not (isinstance(value, Mapping) and "messages" in value)):
            continue
        if key in FOLLOWED and isinstance(value, str):
            more = [_material(record, name) for name in FOLLOWED[key] if name in keys]
            value = "\n\n".join([value, *filter(None, more)])
        return _turns(value, key, format)
    return None


def _material(record: Object, name: str) -> str:
    """The text that a prompt is about; "": there is none, or it is the turns before the prompt."""
    value = record.get(name)
    if missing(value) or (isinstance(value, list | tuple) and all(map(is_turn, value))):
        return ""
    return as_text(value, f"{name!r} beside the prompt")


def _earlier(record: Object) -> list[Message]:
    """The turns before a prompt of its own column: messages in `context`, messages or pairs of texts in `history`."""
    context = record.get("context")
    chat = isinstance(context, list | tuple) and all(map(is_turn, context))
    if context and chat and not all(missing(record.get(name)) for name in PROMPTS[:-2]):
        return whole(context, "context")
    history = record.get("history")
    if not isinstance(history, list | tuple) or all(missing(record.get(name)) for name in PROMPTS[:-1]):
        return []
    return whole(history, "history")


def _turns(value: Any, name: str, format: str) -> list[Message]:
    """The turns of a prompt, or of the conversation that it ends."""
    if not isinstance(value, str):
        return whole(value, name)
    as_text(value, name)
    if format != "text":
        if format == "hh" or name in SIDES:
            return whole(value, name)
        if name != "the record" and is_conversation(value, name) and not value.startswith("Human:"):
            return whole(value, name)
        if format == "messages" or name in CHATS:
            raise BadRecord(f"{name} is text, not a list of messages")
        if value.startswith(HUMAN):
            return transcript(value, name)
    return [{"role": "user", "content": value}]


# One conversation, held twice


def joined(prompt: Sequence[Message], own: Sequence[Message], name: str) -> list[Message]:
    """The longer of two copies of one conversation: the prompt of a record, and the turns in its column `name`.

    Blanks do not count. A prompt of one turn is held by a turn that has its words among others, as when a template
    wrapped them. Raises BadRecord if neither holds the other.
    """
    if not prompt or not own:
        return list(prompt or own)
    systems = [list(takewhile(_is_system, turns)) for turns in (prompt, own)]
    first, second = map(_words, systems)
    if first and second and first != second:
        raise BadRecord(f"the system text of {name} is not that of the prompt: keep one")
    sides = [list(dropwhile(_is_system, turns)) for turns in (own, prompt)]
    for longer, shorter in (sides, sides[::-1]):
        if _holds(merged(longer), merged(shorter)):
            return [*(systems[0] or systems[1]), *longer]
    words = shown(sides[1][-1]["content"])
    raise BadRecord(f"{name} answers another conversation than the prompt, which ends with {words}: keep one")


def in_context(record: Object, turns: Sequence[Message]) -> list[Message]:
    """The turns after the system text that a record has for all of them; raises BadRecord if it has tools, too."""
    check_read(record)
    for name in SYSTEM:
        value = record.get(name)
        text = "" if missing(value) else as_text(value, f"'{name}'")
        if not text.strip():
            continue
        own: Message = {"role": "system", "content": text}
        systems = list(takewhile(_is_system, turns))
        if systems and _words(systems) != _words([own]):
            raise BadRecord(f"{name!r} is not the text of the system turn: keep one")
        if turns and not systems:
            return [own, *turns]
    return list(turns)


def _is_system(turn: Message) -> bool:
    return turn["role"] == "system"


def _words(turns: Sequence[Message]) -> str:
    return " ".join(word for turn in turns for word in turn["content"].split())


def _holds(longer: Sequence[Message], shorter: Sequence[Message]) -> bool:
    """Whether some turns in a row of a conversation are those of another."""
    if len(shorter) == 1:
        words = rf"(?<!\w){re.escape(_words(shorter))}(?!\w)"
        return any(turn["role"] == shorter[0]["role"] and re.search(words, _words([turn])) for turn in longer)
    known, wanted = ([(turn["role"], _words([turn])) for turn in turns] for turns in (longer, shorter))
    return any(known[start : start + len(wanted)] == wanted for start in range(len(known) - len(wanted) + 1))


# Conversations that can be answered


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
    return merged(turns) if len(turns) > 1 else tuple(turns)


def merged(turns: Sequence[Message]) -> Turns:
    """The turns without blank ones, which APIs refuse; consecutive turns of one role are one."""
    spoken = (turn for turn in turns if turn["content"].strip())
    return tuple(
        {"role": role, "content": "\n\n".join(turn["content"] for turn in same)}
        for role, same in groupby(spoken, itemgetter("role"))
    )
