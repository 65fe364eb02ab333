"""Finds the replies of a record, one, two or many, and the conversation that they answer.

The first line whose columns all have a value is read, by `cai label`, `cai judge`, `cai train` and `cai audit` alike:

    columns                                          replies
    rounds, initial, final                           a row of revisions.jsonl
    replies, outputs or sampled_answers              many: texts, or objects with `text` (or `sampled_string`)
    chosen, rejected                                 two, of which people prefer the first
    a, b · output_1, output_2 · text_a, text_b
      · response_a, response_b · final, initial      two; `human` or `label` may say which one people prefer
    completion, messages, conversations, output,
      response, reply, answer, generation, chosen    one
    text                                             one, for an audit: it does not tell a prompt from its reply

A reply is text, or a whole conversation that ends with it, in any shape of `cai.sources.conversations`. A whole
conversation brings its prompt; other replies answer the prompt of the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cai.records import Contest, Message
from cai.sources.conversations import (
    HUMAN,
    BadRecord,
    as_text,
    id_of,
    kind,
    listed,
    merged,
    optional_text,
    pair_hash,
    parted,
    prompt_hash,
    prompt_in,
    to_answer,
)

MANY = ("replies", "outputs", "sampled_answers")  # columns of a list of replies
PAIRS = (  # columns of two replies; of the first two, the one that training would prefer comes first
    ("chosen", "rejected"), ("final", "initial"), ("a", "b"), ("output_1", "output_2"), ("text_a", "text_b"),
    ("response_a", "response_b"),
)  # fmt: skip
RANKED = PAIRS[:2]
SINGLE = (  # columns of one reply, first match wins
    "completion", "messages", "conversations", "output", "response", "reply", "answer", "text", "generation", "chosen",
)  # fmt: skip
HUMAN_LABELS = ("human", "label", "gold", "preferences")  # columns of human labels; the last is an object with `human`
CHOICES = {"a": 0, "first": 0, "b": 1, "second": 1}  # what a human label may say, and the reply that it means
NUMBERS = {"1": 0, "2": 1, "1.0": 0, "2.0": 1}  # tables hold 1.0
LETTERS: tuple[Literal["a"], Literal["b"]] = ("a", "b")
MARKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": "\n\nAssistant:"}


class Reply(NamedTuple):
    """One of many replies."""

    text: str
    model: str | None
    problem: str | None  # why it cannot be used, in the words of its record; None: it can


def columns_of_two(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """The columns of a record's two replies; None if it has no such columns with values."""
    for first, second in PAIRS:
        if record.get(first) is not None and record.get(second) is not None:
            return first, second
    return None


def column_of_one(record: Mapping[str, Any]) -> str | None:
    """The column of a record's only reply, one with a value first."""
    names = [name for name in SINGLE if name in record]
    valued = [name for name in names if record[name] is not None]
    return next(iter(valued or names), None)


def column_of_many(record: Mapping[str, Any]) -> str | None:
    """The column with the list of a record's replies."""
    for name in MANY:
        value = record.get(name)
        if isinstance(value, list | tuple) or (name == MANY[0] and value is not None):
            return name
    return None


def answers_in(
    record: Mapping[str, Any], names: Sequence[str], prompt_field: str | None = None
) -> list[tuple[list[Message], str]]:
    """The reply in each of these columns, with the turns before it; no turns if the record has none."""
    answers = [parted(record.get(name), name) for name in names]
    if all(_asks(turns) for turns, _ in answers):
        return answers
    prompt = prompt_in(record, prompt_field)
    return [(turns if _asks(turns) else prompt, reply) for turns, reply in answers]


def _asks(turns: Sequence[Message]) -> bool:
    return any(turn["role"] == "user" for turn in turns)


def shared_prompt(record: Mapping[str, Any], answers: Sequence[tuple[list[Message], str]]) -> list[Message]:
    """The one conversation that all answers of a record answer; raises BadRecord if there is none."""
    first, *others = (turns for turns, _ in answers)
    if not all(turns for turns, _ in answers):
        raise BadRecord(f"no prompt beside the reply; it has {listed(record)}")
    if any(merged(other) != merged(first) for other in others):
        raise BadRecord("the two replies answer different conversations")
    return first


def many_of(record: Mapping[str, Any], name: str) -> list[Reply]:
    """The replies in a column that lists them; raises BadRecord."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise BadRecord(f"{name!r} is of type {type(values).__name__}, not a list")
    return [_reply(value, number) for number, value in enumerate(values, 1)]


def _reply(value: Any, number: int) -> Reply:
    entry = {"text": value} if isinstance(value, str) else value
    if not isinstance(entry, Mapping):
        raise BadRecord("a reply must be text, or an object with 'text'")
    text = entry.get("sampled_string", entry.get("text"))
    if not isinstance(text, str):
        raise BadRecord("a reply must be text, or an object with 'text'")
    if "sampled_string" in entry:
        text = text.removesuffix(HUMAN)  # the marker at which sampling was stopped
    return Reply(as_text(text, f"reply {number}"), optional_text(entry, "model"), _cut(entry))


def _cut(entry: Mapping[str, Any]) -> str | None:
    """Why a record or a reply says that it cannot be used."""
    problem = entry.get("problem")
    if problem is None and entry.get("finish_reason") == "length":
        return "truncated"
    return None if problem is None else str(problem)


# Two replies, to be judged


def pair_of(record: Mapping[str, Any]) -> Contest:
    """The pair of a record, whose position is 0; raises BadRecord if it has none.

    Which of `chosen` and `rejected` is a is decided by a coin that depends on the texts only.
    """
    names = columns_of_two(record)
    if names is None:
        known = ", ".join(" and ".join(names) for names in PAIRS)
        raise BadRecord(f"no pair of replies (replies, {known}); it has {listed(record)}")
    answers = answers_in(record, names)
    messages = to_answer(shared_prompt(record, answers))
    replies = [reply for _, reply in answers]
    for name, reply in zip(names, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{name} is empty", "empty")
    if replies[0].strip() == replies[1].strip():
        raise BadRecord("the two replies are the same", "identical")
    key = pair_hash(messages, *replies)
    preferred = preferred_of(record, names)
    human = None if preferred is None else LETTERS[preferred]
    a = 0
    b = 1
    if names == PAIRS[0] and int(key[:8], 16) % 2:
        a = 1
        b = 0
        human = "b"
    return Contest(
        id=id_of(record) or key,
        position=0,
        key=key,
        prompt_id=optional_text(record, "prompt_id") or prompt_hash(messages),
        messages=messages,
        a=replies[a],
        b=replies[b],
        a_from=_own(record, names[a], "from") or names[a],
        b_from=_own(record, names[b], "from") or names[b],
        a_model=_own(record, names[a], "model"),
        b_model=_own(record, names[b], "model"),
        human=human,
    )


def preferred_of(record: Mapping[str, Any], names: tuple[str, str]) -> int | None:
    """The place of the reply that people prefer, 0 or 1; None if the record does not say. Raises BadRecord.

    Numbers count from 1, and are read beside numbered columns only: elsewhere 1 could be either reply.
    """
    if names == PAIRS[0]:
        return 0
    numbered = names[0].endswith("_1")
    for name in HUMAN_LABELS:
        label = human_label(record, name)
        if label is None:
            continue
        if label in CHOICES:
            return CHOICES[label]
        if numbered and label in NUMBERS:
            return NUMBERS[label]
        if name == "human" or numbered:
            raise BadRecord(f"{name!r} is {record[name]!r}, not {'1 or 2' if numbered else 'a or b'}")
    return None


def human_label(record: Mapping[str, Any], name: str) -> str | None:
    """A human label in lower case, as text; None if there is none."""
    value = record.get(name)
    if name == "preferences":
        value = value.get("human") if isinstance(value, Mapping) else None
    return None if value is None or value == "" else str(value).strip().lower()


def _own(record: Mapping[str, Any], name: str, what: str) -> str | None:
    """What a row of ours says of its reply a or b: who wrote it, or what it is in its source."""
    return optional_text(record, f"{name}_{what}") if name in LETTERS else None


# All replies, to be audited


@dataclass(frozen=True, slots=True)
class Case:
    """A record's replies by role, in order, and the conversation that they answer."""

    replies: tuple[tuple[str, str], ...]
    prompt: str | None = None  # all of it; None: the record has none
    asked: str | None = None  # the last turn of the user
    cut: frozenset[int] = frozenset()  # replies of which the record says that they were cut, by index


def read_case(record: Any, reply_field: str | None = None, prompt_field: str | None = None) -> Case:
    """The replies of a record in any shape; raises BadRecord.

    reply_field, prompt_field: columns of the reply and of the prompt, for shapes that are not known.
    """
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, str | list) and reply_field is None:
        record = {"text" if isinstance(record, str) else "messages": record}
    if not isinstance(record, Mapping):
        raise BadRecord(f"the record is {kind(record)}, not an object")
    many = None if reply_field else column_of_many(record)
    if many is not None:
        listing = many_of(record, many)
        replies = [("reply", reply.text) for reply in listing]
        cut = [number for number, reply in enumerate(listing) if reply.problem == "truncated"]
        turns = prompt_in(record, prompt_field)
    else:
        roles = list(_roles(record, reply_field))
        answers = answers_in(record, [name for _, name in roles], prompt_field)
        replies = [(role, reply) for (role, _), (_, reply) in zip(roles, answers, strict=True)]
        cut = list(range(len(replies))) if _cut(record) == "truncated" else []
        turns = next((turns for turns, _ in answers if turns), [])
    if not replies:
        raise BadRecord(f"no reply; it has {listed(record)}: name its column with --reply-field")
    return Case(tuple(replies), written(turns), _asked(turns), frozenset(cut))


def _roles(record: Mapping[str, Any], reply_field: str | None) -> Iterator[tuple[str, str]]:
    """The role and the column of each reply."""
    if reply_field is not None:
        yield "reply", reply_field
        return
    two = columns_of_two(record)
    one = column_of_one(record)
    if two is not None:
        yield from ((name, name) for name in two)
    elif one is not None:
        yield "reply", one


def written(turns: Sequence[Message]) -> str | None:
    """A conversation in one writing, so that it is the same prompt in whatever shape it comes; None: no turns."""
    conversation = list(merged(turns))
    while conversation and conversation[-1]["role"] == "assistant":
        conversation.pop()
    if not conversation:
        return None
    return "".join(f"{MARKERS[turn['role']]} {turn['content'].strip()}" for turn in conversation)


def _asked(turns: Sequence[Message]) -> str | None:
    return next((turn["content"].strip() for turn in reversed(turns) if turn["role"] == "user"), None)
