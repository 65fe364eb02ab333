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
    text                                             one, for an audit: a prompt and its reply are not separated

A reply is text, or a whole conversation that ends with it, in any shape of `cai.sources.conversations`. A whole
conversation brings its prompt; other replies answer the prompt of the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from cai.records import Contest, Message, Object
from cai.sources.conversations import (
    HUMAN,
    BadRecord,
    as_text,
    before_reply,
    id_of,
    listed,
    merged,
    object_of,
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
LETTERS: dict[int | None, Literal["a", "b"]] = {0: "a", 1: "b"}  # by the place of a reply
LONE: dict[type, str] = {str: "text", list: "messages"}  # what a record that is not an object is read as
MARKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": "\n\nAssistant:"}


class Reply(NamedTuple):
    """One of many replies."""

    text: str
    model: str | None
    problem: str | None  # why it cannot be used, in the words of its record; None: it can


def columns_of_two(record: Object) -> tuple[str, str] | None:
    """The columns of a record's two replies; None if it has no such columns with values."""
    return next((pair for pair in PAIRS if all(record.get(name) is not None for name in pair)), None)


def columns_of(record: Object) -> tuple[str, ...]:
    """The columns of a record's two replies, else that of its only one, if it has any; one with a value first."""
    names = [name for name in SINGLE if name in record]
    valued = [name for name in names if record[name] is not None]
    return columns_of_two(record) or tuple(valued or names)[:1]


def column_of_many(record: Object) -> str | None:
    """The column with the list of a record's replies."""
    for name in MANY:
        value = record.get(name)
        if isinstance(value, list | tuple) or (name == MANY[0] and value is not None):
            return name
    return None


def answers_in(
    record: Object, columns: Sequence[str], prompt_field: str | None = None
) -> tuple[list[Sequence[Message]], list[str]]:
    """The turns before the reply in each of these columns, none if the record has none, and the replies."""
    before: list[Sequence[Message]] = []
    replies = []
    for turns, reply in [parted(record.get(name), name) for name in columns]:
        if not any(turn["role"] == "user" for turn in turns):
            turns = prompt_in(record, prompt_field)
        before.append(turns)
        replies.append(reply)
    return before, replies


def shared_prompt(record: Object, before: Sequence[Sequence[Message]]) -> Sequence[Message]:
    """The one conversation that all replies of a record answer; raises BadRecord if there is none."""
    first, *others = before
    if not all(before):
        raise BadRecord(f"no prompt beside the reply; it has {listed(record)}")
    if any(merged(other) != merged(first) for other in others):
        raise BadRecord("the two replies answer different conversations")
    return first


def many_of(record: Object, name: str) -> list[Reply]:
    """The replies in a column that lists them; raises BadRecord."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise BadRecord(f"{name!r} is of type {type(values).__name__}, not a list")
    return [_reply(value, number) for number, value in enumerate(values, 1)]


def _reply(value: Any, number: int) -> Reply:
    entry: Object = {}
    text = value
    if isinstance(value, Mapping):
        entry = value
        text = value.get("sampled_string", value.get("text"))
    if not isinstance(text, str):
        raise BadRecord("a reply must be text, or an object with 'text'")
    if "sampled_string" in entry:
        text = text.removesuffix(HUMAN)  # the marker at which sampling was stopped
    return Reply(as_text(text, f"reply {number}"), optional_text(entry, "model"), _cut(entry))


def _cut(entry: Object) -> str | None:
    """Why a record or a reply says that it cannot be used."""
    problem = entry.get("problem")
    if problem is not None:
        return str(problem)
    return "truncated" if entry.get("finish_reason") == "length" else None


# Two replies, to be judged


def pair_of(record: Object) -> Contest:
    """The pair of a record, whose position is 0; raises BadRecord if it has none.

    Which of `chosen` and `rejected` is a is decided by a coin that depends on the texts only.
    """
    names = columns_of_two(record)
    if names is None:
        columns = ", ".join(" and ".join(pair) for pair in PAIRS)
        raise BadRecord(f"no pair of replies (replies, {columns}); it has {listed(record)}")
    before, replies = answers_in(record, names)
    messages = to_answer(shared_prompt(record, before))
    for name, reply in zip(names, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{name} is empty", "empty")
    if replies[0].strip() == replies[1].strip():
        raise BadRecord("the two replies are the same", "identical")
    key = pair_hash(messages, *replies)
    preferred = preferred_of(record, names)
    sides = [(reply, *_origin(record, name)) for name, reply in zip(names, replies, strict=True)]
    if names == PAIRS[0] and int(key[:8], 16) % 2:
        sides.reverse()
        preferred = 1
    (a, a_from, a_model), (b, b_from, b_model) = sides
    return Contest(
        id=id_of(record) or key,
        position=0,
        key=key,
        prompt_id=optional_text(record, "prompt_id") or prompt_hash(messages),
        messages=messages,
        a=a,
        b=b,
        a_from=a_from,
        b_from=b_from,
        a_model=a_model,
        b_model=b_model,
        human=LETTERS.get(preferred),
    )


def _origin(record: Object, name: str) -> tuple[str, str | None]:
    """What a reply is in its source, and who wrote it: rows of ours say both of their replies a and b."""
    if name not in ("a", "b"):
        return name, None
    return optional_text(record, f"{name}_from") or name, optional_text(record, f"{name}_model")


def preferred_of(record: Object, names: Sequence[str]) -> int | None:
    """The place of the reply that people prefer, 0 or 1; None if the record does not say. Raises BadRecord.

    Numbers count from 1, and are read beside numbered columns only: elsewhere 1 could be either reply.
    """
    if names == PAIRS[0]:
        return 0
    numbered = names[0].endswith("_1")
    choices, expected = (CHOICES | NUMBERS, "1 or 2") if numbered else (CHOICES, "a or b")
    for name in HUMAN_LABELS:
        label = human_label(record, name)
        if label in choices:
            return choices[label]
        if label is not None and (name == "human" or numbered):
            raise BadRecord(f"{name!r} is {record[name]!r}, not {expected}")
    return None


def human_label(record: Object, name: str) -> str | None:
    """A human label in lower case, as text; None if there is none."""
    value = record.get(name)
    if name == "preferences":
        if not isinstance(value, Mapping):
            return None
        value = value.get("human")
    if value is None or value == "":
        return None
    return str(value).strip().lower()


# All replies, to be audited


@dataclass(frozen=True, slots=True)
class Case:
    """A record's replies by role, in order, and the turns of the conversation that they answer."""

    replies: tuple[tuple[str, str], ...]
    turns: Sequence[Message] = ()  # none: the record has no prompt
    cut: frozenset[int] = frozenset()  # replies of which the record says that they were cut, by index

    @property
    def prompt(self) -> str | None:
        """All of the conversation; None if the record has none."""
        return written(self.turns)

    @property
    def question(self) -> str | None:
        """The last turn of the user."""
        return next((turn["content"].strip() for turn in reversed(self.turns) if turn["role"] == "user"), None)


def read_case(record: Any, reply_field: str | None = None, prompt_field: str | None = None) -> Case:
    """The replies of a record in any shape; raises BadRecord.

    reply_field, prompt_field: columns of the reply and of the prompt, for shapes that are not listed above.
    """
    column = LONE.get(type(record))
    if column is not None and reply_field is None:
        record = {column: record}
    record = object_of(record, "a reply")
    many = column_of_many(record)
    if many is not None and not reply_field:
        listing = many_of(record, many)
        roles = ["reply"] * len(listing)
        texts = [reply.text for reply in listing]
        problems = [reply.problem for reply in listing]
        turns: Sequence[Message] = prompt_in(record, prompt_field)
    else:
        columns = (reply_field,) if reply_field else columns_of(record)
        roles = [name if columns in PAIRS else "reply" for name in columns]
        before, texts = answers_in(record, columns, prompt_field)
        problems = [_cut(record)] * len(texts)
        turns = next(filter(None, before), [])
    if not texts:
        raise BadRecord(f"no reply; it has {listed(record)}: name its column with --reply-field")
    cut = frozenset(number for number, problem in enumerate(problems) if problem == "truncated")
    return Case(tuple(zip(roles, texts, strict=True)), turns, cut)


def written(turns: Sequence[Message]) -> str | None:
    """A conversation in one writing, so that it is the same prompt in whatever shape it comes; None: no turns."""
    conversation = before_reply(merged(turns))
    if not conversation:
        return None
    return "".join(f"{MARKERS[turn['role']]} {turn['content'].strip()}" for turn in conversation)
