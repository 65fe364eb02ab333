"""Finds the replies of a record, one, two or many, and the conversation that they answer.

The first line whose columns all have a value is read, by `cai label`, `cai judge`, `cai train` and `cai audit` alike:

    columns                                          replies
    rounds, initial, final                           a row of revisions.jsonl
    the keys of `MANY`                               many: texts, or objects with one of `TEXTS`
    the pairs of `PAIRS`                             two; `cai.sources.labels` may say which of them people prefer
    the keys of `BESIDE_TWO`                         many
    the names of `SINGLE`                            one; `text` for an audit only: its prompt is not separated

A reply is text, or a whole conversation that ends with it, in any form of `cai.sources.turns`. A whole conversation
brings its prompt; other replies answer the prompt of the record. Text that repeats the prompt is cut to the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.errors import SourceError
from cai.records import Contest, Message, Object
from cai.sources.conversations import conversation_before, merged, pair_hash, prompt_hash, prompt_in, to_answer
from cai.sources.labels import BETTER, OTHER, Preference, human_label, number_in, preferred_of
from cai.sources.turns import HUMAN, held, is_conversation, parted
from cai.sources.values import BadRecord, as_text, id_of, missing, optional_text

MANY: dict[str, bool] = {  # columns of a list of replies → whether only objects are, and not texts
    "replies": False,
    "outputs": False,
    "sampled_answers": False,
    "completions": True,  # UltraFeedback
    "answers": True,  # Nectar
}
BESIDE_TWO = (
    "generations",
    "responses",
    "completions",
    "candidates",
)  # the same, unless two of them are in columns of their own
TEXTS = ("sampled_string", "text", "response", "answer")  # keys of the text of one of many
RANKS = {"overall_score": 1, "pm_score": 1, "rank": -1}  # keys of how good one of many is → whether more is better
RATINGS = ("ratings", "scores")  # columns of how good each of many is, more is better
NAMES = ("response", "output", "answer", "completion", "reply", "generation", "text", "conversation")
ENDS = (("_a", "_b"), ("_A", "_B"), ("_0", "_1"), ("_1", "_2"), ("0", "1"), ("1", "2"))
THIRD = {"b": "c", "B": "C", "1": "2", "2": "3"}  # the end of a second column → that of a third
RANKED = (("chosen", "rejected"), ("final", "initial"))  # that training would prefer comes first
PAIRS = (  # columns of two replies; of `cai.sources.labels.BETTER`, the first is preferred
    *RANKED, ("a", "b"), ("A", "B"), ("human_ref_A", "human_ref_B"), ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"), ("response_j", "response_k"),
    ("good_edited_response", "bad_edited_response"),
    *((name + first, name + second) for name in NAMES for first, second in ENDS),
)  # fmt: skip
SINGLE = (  # columns of one reply, first match wins
    "completion", "messages", "conversations", "conversation", "transcript", "output", "response", "reply", "answer",
    "text", "generation", "targets", "chosen",
)  # fmt: skip


CHOSEN: dict[str, Preference] = {"chosen": "a", "rejected": "b", "tie": "tie"}  # human labels of dpo.jsonl


class Reply(NamedTuple):
    """One of many replies."""

    text: str
    model: str | None
    problem: str | None  # why it cannot be used, in the words of its record; None: it can
    rank: float | None = None  # how good its record says it is, more is better; None: it does not say


def columns_of_two(record: Object) -> tuple[str, str] | None:
    """The columns of a record's two replies; None if it has no such columns with values."""
    pairs = (pair for pair in PAIRS if pair[0] in record)
    return next((pair for pair in pairs if not any(missing(record.get(name)) for name in pair)), None)


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
    lists = (name for name in BESIDE_TWO if isinstance(record.get(name), list | tuple) and record[name])
    return None if columns_of_two(record) else next(lists, None)


def answers_in(
    record: Object, columns: Sequence[str], prompt_field: str | None = None
) -> tuple[list[Sequence[Message]], list[str]]:
    """The turns before the reply in each of these columns, none if the record has none, and the replies."""
    before: list[Sequence[Message]] = []
    replies = []
    for name in columns[1:]:
        third = name[:-1] + THIRD.get(name[-1], "?")
        if not missing(record.get(third)):
            raise BadRecord(f"{third!r} is a third reply beside {name!r}: list all of them under 'replies'")
    for name in columns:
        own, reply = parted(record.get(name), name)
        before.append(conversation_before(record, own, name, prompt_field))
        replies.append(reply)
    if not any(is_conversation(record[name], name) for name in columns):
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
        raise BadRecord(f"no prompt beside the reply; {held(record)}")
    if any(merged(other) != merged(first) for other in others):
        raise BadRecord("the two replies answer different conversations")
    return first


def many_of(record: Object, name: str) -> list[Reply]:
    """The replies in a column that lists them; raises BadRecord."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise BadRecord(f"{name!r} is of type {type(values).__name__}, not a list")
    replies = [_reply(value, number) for number, value in enumerate(values, 1)]
    ratings = next((record[key] for key in RATINGS if isinstance(record.get(key), list | tuple)), ())
    if len(ratings) != len(replies) or any(reply.rank is not None for reply in replies):
        return replies
    return [reply._replace(rank=_number(rating)) for reply, rating in zip(replies, ratings, strict=True)]


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
        value = _number(entry.get(key))
        if value is not None:
            return sign * value
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or missing(value):
        return None
    return float(value)


def with_clear_numbers(records: Iterable[tuple[int, Any]], where: str | Path | None) -> Iterator[tuple[int, Any]]:
    """The records, none before it is known from which number the labels beside numbered columns count.

    Beside `output_1` a label 1 is the first reply, unless the file also has 0 and no 2: then it may be the second, and
    so may a 1 beside `response_0` if there is a 2: then it raises SourceError. Records wait until a 2, or a 0, is read.
    """
    waiting: list[tuple[int, Any]] = []
    lines: dict[str, int] = {}  # label → where it was read first
    first = ""
    for line, record in records:
        waiting.append((line, record))
        names = columns_of_two(record) if isinstance(record, Mapping) else None
        number = names and number_in(record, names)
        if names and number:
            first = names[0]
            lines.setdefault(number, line)
        from_0 = first.endswith("0")
        if from_0 and "2" in lines:
            break
        if not lines or ("0" if from_0 else "2") in lines:
            yield from waiting
            waiting.clear()
    wrong = "2" if first.endswith("0") else "0"
    if waiting and wrong in lines:
        raise SourceError(
            f"a label beside {first!r} is {wrong}, so a 1 may be either reply: write a or b, or end the names of the "
            "columns with the numbers of the labels",
            where,
            lines[wrong],
        )
    yield from waiting


# Two replies, to be judged


def pair_of(record: Object) -> Contest:
    """The pair of a record, whose position is 0; raises BadRecord if it has none.

    Which of `chosen` and `rejected` is a is decided by a coin that depends on the texts only.
    """
    names = columns_of_two(record)
    if names is None:
        columns = "replies, chosen and rejected, a and b, response_a and response_b, output_1 and output_2, …"
        raise BadRecord(f"no pair of replies ({columns}); {held(record)}")
    before, replies = answers_in(record, names)
    messages = to_answer(shared_prompt(record, before))
    for name, reply in zip(names, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{name} is empty", "empty")
    if replies[0].strip() == replies[1].strip():
        raise BadRecord("the two replies are the same", "identical")
    key = pair_hash(messages, *replies)
    preferred = preferred_of(record, names)
    if "human" in record and names == RANKED[0]:  # a row of ours: its judge chose, and people may not agree
        preferred = CHOSEN.get(human_label(record, "human") or "")
    sides = [(reply, *_origin(record, name)) for name, reply in zip(names, replies, strict=True)]
    if names[0] in BETTER and int(key[:8], 16) % 2:
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
