"""Finds the replies of a record, one, two or many, and the conversation that they answer.

The first line whose columns all have a value is read, by `cai label`, `cai judge`, `cai train` and `cai audit` alike:

    columns                                          replies
    rounds, initial, final                           a row of revisions.jsonl
    the keys of `MANY`                               many: texts, or objects with one of `TEXTS`
    the pairs of `PAIRS`                             two; of `chosen` and `rejected` people prefer the first, of others
                                                     `cai.sources.labels` may say which
    the names of `SINGLE`                            one; `text` for an audit only: its prompt is not separated

A reply is text, or a whole conversation that ends with it, in any writing of `cai.sources.turns`. A whole conversation
brings its prompt; other replies answer the prompt of the record. Text that repeats the prompt is cut to the reply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cai.records import Contest, Message, Object
from cai.sources.conversations import conversation_before, merged, pair_hash, prompt_hash, prompt_in, to_answer
from cai.sources.labels import OTHER, preferred_of
from cai.sources.turns import HUMAN, is_conversation, parted
from cai.sources.values import BadRecord, as_text, id_of, listed, missing, optional_text

MANY: dict[str, bool] = {  # columns of a list of replies → whether only objects are, and not texts
    "replies": False,
    "outputs": False,
    "sampled_answers": False,
    "completions": True,  # UltraFeedback
    "answers": True,  # Nectar
}
TEXTS = ("sampled_string", "text", "response", "answer")  # keys of the text of one of many
RANKS = {"overall_score": 1, "rank": -1}  # keys of how good one of many is → whether more is better
PAIRS = (  # columns of two replies; of the first two, the one that training would prefer comes first
    ("chosen", "rejected"), ("final", "initial"), ("a", "b"), ("output_1", "output_2"), ("text_a", "text_b"),
    ("response_a", "response_b"), ("chosen_response", "rejected_response"), ("response_0", "response_1"),
    ("response_1", "response_2"), ("response1", "response2"), ("human_ref_A", "human_ref_B"),
    ("conversation_a", "conversation_b"),
)  # fmt: skip
RANKED = PAIRS[:2]
SINGLE = (  # columns of one reply, first match wins
    "completion", "messages", "conversations", "conversation", "output", "response", "reply", "answer", "text",
    "generation", "chosen",
)  # fmt: skip


class Reply(NamedTuple):
    """One of many replies."""

    text: str
    model: str | None
    problem: str | None  # why it cannot be used, in the words of its record; None: it can
    rank: float | None = None  # how good its record says it is, more is better; None: it does not say


def columns_of_two(record: Object) -> tuple[str, str] | None:
    """The columns of a record's two replies; None if it has no such columns with values."""
    return next((pair for pair in PAIRS if not any(missing(record.get(name)) for name in pair)), None)


def columns_of(record: Object) -> tuple[str, ...]:
    """The columns of a record's two replies, else that of its only one, if it has any; one with a value first."""
    names = [name for name in SINGLE if name in record]
    valued = [name for name in names if not missing(record[name])]
    return columns_of_two(record) or tuple(valued or names)[:1]


def column_of_many(record: Object) -> str | None:
    """The column with the list of a record's replies."""
    for name, objects in MANY.items():
        value = record.get(name)
        if isinstance(value, list | tuple):
            if not objects or (value and all(isinstance(entry, Mapping) for entry in value)):
                return name
        elif name == "replies" and not missing(value):
            return name
    return None


def answers_in(
    record: Object, columns: Sequence[str], prompt_field: str | None = None
) -> tuple[list[Sequence[Message]], list[str]]:
    """The turns before the reply in each of these columns, none if the record has none, and the replies."""
    before: list[Sequence[Message]] = []
    replies = []
    for name in columns:
        own, reply = parted(record.get(name), name)
        before.append(conversation_before(record, own, name, prompt_field))
        replies.append(reply)
    if not any(is_conversation(record[name]) for name in columns):
        replies = _alone(prompt_in(record, prompt_field), columns, replies)
    return before, replies


def _alone(prompt: Sequence[Message], columns: Sequence[str], replies: list[str]) -> list[str]:
    """The replies without the prompt, if each repeats it before it answers.

    A short prompt may begin a reply by chance, as in a greeting that is returned: it counts if it has three words or
    more, or ends with a question mark or a blank.
    """
    if len(prompt) != 1 or not re.search(r"\s\S+\s+\S|\?$|\s$", prompt[0]["content"]):
        return replies
    asked = prompt[0]["content"]
    repeating = [reply.startswith(asked) and bool(reply[len(asked) :].strip()) for reply in replies]
    if all(repeating):
        return [reply[len(asked) :] for reply in replies]
    if any(repeating):
        first, second = columns if repeating[0] else reversed(columns)
        raise BadRecord(f"{first} begins with the prompt, and {second} does not: leave the prompt out of both")
    return replies


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
        text = next((value[key] for key in TEXTS if value.get(key) is not None), None)
    if not isinstance(text, str):
        raise BadRecord("a reply must be text, or an object with 'text'")
    if "sampled_string" in entry:
        text = text.removesuffix(HUMAN)  # the marker at which sampling was stopped
    return Reply(as_text(text, f"reply {number}"), optional_text(entry, "model"), cut_of(entry), _rank(entry))


def cut_of(entry: Object) -> str | None:
    """Why a record or a reply says that it cannot be used."""
    problem = entry.get("problem")
    if problem is not None:
        return str(problem)
    return "truncated" if entry.get("finish_reason") == "length" else None


def _rank(entry: Object) -> float | None:
    for key, sign in RANKS.items():
        value = entry.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and not missing(value):
            return sign * float(value)
    return None


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
    if names[0].startswith("chosen") and int(key[:8], 16) % 2:
        sides.reverse()
        preferred = preferred and OTHER[preferred]
    (a, a_from, a_model), (b, b_from, b_model) = sides
    return Contest(
        id=id_of(record) or key,
        position=0,
        key=key,
        prompt_id=id_of(record, "prompt_id") or prompt_hash(messages),
        messages=messages,
        a=a,
        b=b,
        a_from=a_from,
        b_from=b_from,
        a_model=a_model,
        b_model=b_model,
        human=preferred,
    )


def _origin(record: Object, name: str) -> tuple[str, str | None]:
    """What a reply is in its source, and who wrote it: rows of ours say both of their replies a and b."""
    if name not in ("a", "b"):
        return name, None
    return optional_text(record, f"{name}_from") or name, optional_text(record, f"{name}_model")
