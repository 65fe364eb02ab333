"""One training row, from a record in any of the shapes that TRL's datasets and published ones have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cai.records import Message
from cai.sources.conversations import PROMPTS, BadRecord, as_text, listed, prompt_hash, to_reply
from cai.sources.replies import (
    SINGLE,
    answers_in,
    column_of_many,
    column_of_one,
    columns_of_two,
    preferred_of,
    shared_prompt,
)

Method = Literal["sft", "dpo", "kto", "reward"]
Kind = Literal["chat", "pairs", "graded", "labels", "revisions", "candidates", "prompts", "text", "unknown"]
Turns = tuple[Message, ...]

FITS: dict[Method, Kind] = {"sft": "chat", "dpo": "pairs", "reward": "pairs", "kto": "graded"}
LARGEST = 1 << 53  # of a whole number: float() refuses some that are larger, and no probability or margin is
PLAIN = frozenset({"chosen", "rejected", "completion"})  # columns of TRL, whose text continues a text in `prompt`


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row. A `prompt` of plain text is continued as it is, without the model's chat template."""

    id: str
    prompt: Turns | str
    reply: str  # of a pair, the chosen one
    key: str  # hash of the prompt: rows of one prompt lie on one side of a split
    rejected: str | None = None  # of a pair
    label: bool | None = None  # of a graded reply: whether it is desirable
    p_chosen: float | None = None  # probability that `reply` is better than `rejected`; None: not judged
    margin: float | None = None  # log odds of it in nats; None: the dataset names none


def named(row: str) -> str:
    """A row's id in a sentence; a row without one is called by its line."""
    return row if row.startswith("line ") else f"row {row}"


def kind_of(record: Mapping[str, Any]) -> Kind:
    """What kind of dataset a record is from, by the columns it has a value in."""
    columns = {name for name, value in record.items() if value is not None}
    if columns >= {"votes", "a", "b"}:
        return "labels"
    if columns >= {"rounds", "initial", "final"}:
        return "revisions"
    if column_of_many(record) is not None:
        return "candidates"
    if columns_of_two(record) is not None:
        return "pairs"
    if columns >= {"completion", "label"}:
        return "graded"
    if columns & set(SINGLE) - {"text"}:
        return "chat"
    if columns & set(PROMPTS):
        return "prompts"
    return "text" if "text" in columns else "unknown"


def advice(kind: Kind, where: str, method: Method, record: Mapping[str, Any]) -> str:
    """What to do with a dataset of another kind than `method` trains on; where: its file."""
    folder = Path(where).parent
    return {
        "chat": f"these are conversations, not what {method} trains on: cai train sft {where}",
        "pairs": f"these are pairs, not what {method} trains on: cai train dpo {where}",
        "graded": f"these are single replies with a label, not what {method} trains on: cai train kto {where}",
        "labels": f"these are labels, from which training rows are cut: name the run, cai train dpo {folder}",
        "revisions": f"these are revisions, from which training rows are cut: name the run, cai train sft {folder}",
        "candidates": f"these are replies that nobody has judged: cai label {where}",
        "prompts": f"these are prompts without replies: cai generate {where}",
        "text": "'text' does not tell the reply from the prompt; give 'messages', or 'prompt' and 'completion'",
        "unknown": f"no columns that {method} trains on; it has {listed(record)}",
    }[kind]


def row_of(record: Any, line: int, method: Method) -> TrainingRow:
    """The row in a record; raises BadRecord for what cannot train."""
    if isinstance(record, BadRecord):
        raise record
    if not isinstance(record, Mapping):
        raise BadRecord(f"the record is of type {type(record).__name__}, not an object with columns")
    kind = kind_of(record)
    if kind != FITS[method]:
        raise BadRecord(f"the columns are not those of {method}: {advice(kind, 'it', method, record)}")
    name = _name(record, line)
    two = columns_of_two(record)
    if two is not None:
        return _pair(record, two, name)
    column = "completion" if kind == "graded" else column_of_one(record)
    assert column is not None
    prompt, [reply] = _read(record, [column])
    key = _key(prompt)
    if kind != "graded":
        return TrainingRow(name, prompt, reply, key)
    label = record["label"]
    if not isinstance(label, bool) and label not in (0, 1):
        raise BadRecord(f"'label' is {str(label)[:40]!r}, not true or false")
    return TrainingRow(name, prompt, reply, key, label=bool(label))


def _name(record: Mapping[str, Any], line: int) -> str:
    value = record.get("id")
    if isinstance(value, str | int) and value != "":
        return as_text(str(value), "the id")
    return f"line {line}"


def _pair(record: Mapping[str, Any], columns: tuple[str, str], name: str) -> TrainingRow:
    preferred = preferred_of(record, columns)
    if preferred is None:
        raise BadRecord(f"nothing says which of {columns[0]!r} and {columns[1]!r} is better: cai label asks a judge")
    prompt, replies = _read(record, columns)
    chosen = replies[preferred]
    rejected = replies[1 - preferred]
    if chosen.split() == rejected.split():
        raise BadRecord(f"{columns[0]!r} and {columns[1]!r} are the same text", "identical")
    p = _number(record, "p_chosen")
    if p is not None and not 0.0 <= p <= 1.0:
        raise BadRecord(f"'p_chosen' is {p:g}, not a probability from 0 to 1")
    margin = _number(record, "margin")
    return TrainingRow(name, prompt, chosen, _key(prompt), rejected=rejected, p_chosen=p, margin=margin)


def _read(record: Mapping[str, Any], columns: Sequence[str]) -> tuple[Turns | str, list[str]]:
    """The prompt, and the replies in these columns; the prompt is text if it and all replies are plain text."""
    answers = answers_in(record, columns)
    replies = [reply for _, reply in answers]
    for column, reply in zip(columns, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{column!r} is an empty reply", "empty")
    prompt = record.get("prompt")
    if isinstance(prompt, str) and PLAIN.issuperset(columns) and replies == [record[column] for column in columns]:
        if not prompt.strip():
            raise BadRecord("the prompt is empty", "empty")
        return prompt, replies
    return to_reply(shared_prompt(record, answers)), replies


def _number(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > LARGEST:
        value = math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRecord(f"{name!r} is {str(value)[:40]!r}, not a finite number")
    return float(value)


def _key(prompt: Turns | str) -> str:
    if isinstance(prompt, str):
        return prompt_hash([{"role": "user", "content": prompt}])
    return prompt_hash(prompt)
