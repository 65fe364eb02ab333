"""Reads the turns of a conversation in any form: messages, as ShareGPT or Gemini has them, a transcript, JSON text.

Text is data: nothing in it is rendered or interpreted, except the turn markers of a `Human:`/`Assistant:` transcript,
and a whole text that is a JSON list of messages.

    value                                            read as
    "Hi"                                             one turn of the user; as a reply, the reply alone
    "\\n\\nHuman: Hi\\n\\nAssistant: Hello"              a transcript, cut at these markers only
    [{"role": "user", "content": "Hi"}, …]           messages; `ROLES` are the roles
    [{"from": "human", "value": "Hi"}, …]            the same, as ShareGPT writes it
    [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, …]    content in parts, which are joined
    '[{"role": "user", "content": "Hi"}]'            messages as JSON text or as Python prints them, as tables hold them
    {"from": "gpt", "value": "Hello"}                one message
    {"messages": […]}                                the messages in it
    {"role": ["user", …], "content": ["Hi", …]}      messages in columns, as tables hold a list of objects
    [{"input": "Hi", "output": "Hello"}, …]          questions with their answers; `ASKED` and `SAID` are their names
    [["Hi", "Hello"], …]                             the same without names
    ["Hi", "Hello", …]                               the same as one list, in `conversation` and `conversations` (LIMA)
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import orjson

from cai.records import Message, Object
from cai.sources.values import BadRecord, as_text, kind, listed, missing, shown
from cai.texts.wording import counted

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
    "chatbot": "assistant",  # Cohere
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
MARKER = re.compile(r"\n\n(Human|Assistant): ?")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TURN_OF_HELPSTEER = re.compile(r"\n<extra_id_1>(User|Assistant)\n")  # before all turns but the first, a user's
CHATS = ("messages", "conversations", "conversation", "transcript")  # columns and keys of a whole conversation
# Keys of a question, of its answer, and of what an object that is both must not have.
ASKED = ("input", "human", "user", "prompt", "question", "instruction", "query")
SAID = ("output", "assistant", "gpt", "bot", "response", "answer", "completion")
NOT_BESIDE = (*ROLE_KEYS, "system", "system_prompt", "context", "history", "tools", "weight", "train", "loss")
UNREAD = {  # columns that must be empty → what conversations that have them are about
    **dict.fromkeys(("tools", "functions"), "tools"),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), "images or sounds"),
}
NOTHING = ("[]", "{}", "null", "None")  # an empty value, as text
NO_COMMA = re.compile(r"\}\s+(?=\{'(?:role|content|from|value)': )")  # arrays of numpy print their objects so
PRINTED_LIST = re.compile(r"""\s*[\[{][\s\[{]*(['"]|null|None)""")  # how text begins that may be a list or an object


def whole(value: Any, name: str) -> list[Message]:
    """The turns of a whole conversation, its last reply included."""
    messages = messages_in(value, name)
    if messages is None and isinstance(value, str):
        return transcript(as_text(value, name), name)
    if messages is None:
        raise BadRecord(f"{name} is {kind(value)}, not text or a list of messages")
    if name in CHATS[1:3] and messages and all(isinstance(text, str) for text in messages):  # LIMA
        messages = _alternating(messages)
    return [_turn(number, turn) for number, turn in enumerate(messages, 1)]


def parted(value: Any, name: str) -> tuple[Sequence[Message], str]:
    """The turns before a reply, and the reply.

    Text is a reply alone, unless it is a conversation. Several turns of the assistant at the end are one reply.
    """
    if not is_conversation(value, name):
        return [], as_text(value, name)
    turns = whole(value, name)
    before = before_reply(turns)
    replies = [turn["content"] for turn in turns[len(before) :]]
    if not replies:
        raise BadRecord(f"{name} does not end with a reply")
    return before, "\n\n".join(filter(str.strip, replies))


def is_conversation(value: Any, name: str) -> bool:
    """Whether a value, in the column `name`, is more than a text: messages, a transcript, or messages as JSON text."""
    if isinstance(value, str):
        return _is_transcript(value) or _from_text(value, name) is not None
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


def held(record: Object, advice: str = "") -> str:
    """What a record has instead of what is looked for, and what to do: to take its records out, if it wraps a list."""
    match [(key, value) for key, value in record.items() if isinstance(value, list) and value]:
        case [(key, [Mapping() as first, *rest])] if not is_turn(first):
            count = counted(len(rest) + 1, "record")
            return f"it has {shown(key)}, a list of {count}: make that list a file of its own"
    return f"it has {listed(record)}{advice}"


def is_reply(value: Any) -> bool:
    """Whether a message is one of the assistant."""
    return isinstance(value, Mapping) and ROLES.get(_role(value)) == "assistant"


def messages_in(value: Any, name: str) -> list[Any] | None:
    """The messages of a conversation; None: it is a transcript, or another thing than a conversation."""
    if isinstance(value, str):
        return _from_text(value, name)
    if isinstance(value, Mapping):
        chat = next((value[key] for key in CHATS if not missing(value.get(key))), None)
        if chat is not None:
            check_read(value)
            return messages_in(chat, CHATS[0])
        return _in_columns(value)
    if not isinstance(value, list | tuple):
        return None
    exchanges = [_exchange(entry) for entry in value]
    if value and all(exchanges):
        return _alternating([text for exchange in exchanges for text in exchange])
    return list(value)


def check_read(record: Object) -> None:
    """Raise BadRecord if a record has tools, images or sounds, which no command passes on."""
    for name, what in UNREAD.items():
        value = record.get(name)
        if not missing(value) and value and value not in NOTHING:
            raise BadRecord(f"{name!r} has a value: conversations with {what} are not supported")


def _in_columns(value: Object) -> list[Any]:
    """The messages of an object that is one, or holds a list of each of their values."""
    lists = {name: inner for name, inner in value.items() if isinstance(inner, list | tuple)}
    if not any(key in lists for key in ROLE_KEYS):
        return [value]
    if len({len(inner) for inner in lists.values()}) > 1:
        raise BadRecord(f"the lists of {', '.join(lists)} differ in length")
    return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]


def _exchange(entry: Any) -> Sequence[Any]:
    """A question and its answer, if an entry of a list is both."""
    if isinstance(entry, list):  # tuples are the keys and values of a map
        return entry if len(entry) == 2 and all(isinstance(text, str | None) for text in entry) else ()
    if not isinstance(entry, Mapping) or any(entry.get(key) not in (None, "", []) for key in NOT_BESIDE):
        return ()
    asked, said = ([key for key in keys if not missing(entry.get(key))] for keys in (ASKED, SAID))
    if len(asked) != 1 or len(said) > 1 or not any(key in entry for key in SAID):
        return ()
    return [entry[asked[0]], entry[said[0]] if said else None]


def _alternating(texts: Sequence[Any]) -> list[Any]:
    """Texts as turns of the user and the assistant, in turn; the last answer may be missing."""
    end = len(texts) - missing(texts[-1])
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts[:end])]


def transcript(text: str, name: str) -> list[Message]:
    """The turns of `\\n\\nHuman: …\\n\\nAssistant: …`: cut at these markers only, never at another colon."""
    if TURN_OF_HELPSTEER.search(text):
        parts = ["user", *TURN_OF_HELPSTEER.split(text)]
    else:
        before, *parts = MARKER.split("\n\n" + text.lstrip())
        if before or not parts:
            raise BadRecord(f"{name} is not a transcript: it does not start with 'Human:'")
    return [
        {"role": ROLES[role.lower()], "content": content} for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _is_transcript(text: str) -> bool:
    return (text.lstrip().startswith("Human:") and ASSISTANT in text) or TURN_OF_HELPSTEER.search(text) is not None


def _from_text(text: str, name: str) -> list[Any] | None:
    """The messages in a text that is JSON of them, or Python's print of it; None: it is another text.

    An object is the body of a request to a reader of prompts and replies: it counts in the columns `CHATS` only.
    """
    value = value_in(text)
    if not isinstance(value, list) and not (isinstance(value, Mapping) and name in CHATS):
        return None
    messages = messages_in(value, name)
    return messages if messages and all(map(is_turn, messages)) else None


def value_in(text: str) -> Any:
    """The list or object in a text that is JSON of it, or Python's print of it; None: it is another text."""
    if not PRINTED_LIST.match(text):
        return None
    with suppress(orjson.JSONDecodeError, UnicodeEncodeError):
        return orjson.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings(action="ignore"):
        return ast.literal_eval(NO_COMMA.sub("}, ", text.strip()))
    return None


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecord(f"turn {number} is {kind(turn)}, not an object with role and content")
    name = _role(turn)
    if name not in ROLES:
        role = f"turn {number} has {_shown_role(_first(turn, ROLE_KEYS))}"
        known = ": turns of tools are not supported" if name in OF_TOOLS else f"; known: {', '.join(ROLES)}"
        raise BadRecord(role + known)
    for key in CALLS:
        if turn.get(key):
            raise BadRecord(f"turn {number} calls a tool ({key!r}): turns of tools are not supported")
    content = _first(turn, CONTENT_KEYS)
    if isinstance(content, list | tuple):
        content = "".join(_part(number, part) for part in content)
    if not isinstance(content, str):
        raise BadRecord(f"the content of turn {number} is {kind(content)}, not text")
    return {"role": ROLES[name], "content": as_text(content, f"turn {number}")}


def _role(turn: Object) -> str:
    """The role of a turn in lower case; "" if it is not a text."""
    role = _first(turn, ROLE_KEYS)
    return role.strip().lower() if isinstance(role, str) else ""


def _shown_role(role: Any) -> str:
    """For a message; an object may be nested too deeply to be printed."""
    if isinstance(role, Mapping | list | tuple):
        return f"a role {kind(role)}, not text"
    return f"the role {shown(role)}"


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
