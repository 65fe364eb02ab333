"""Reads training rows (texts, pairs, labels, `p_chosen`) from records as TRL and published datasets have them."""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cai.errors import InputError
from cai.records import DropReason, Object, Turns
from cai.sources.conversations import PROMPTS, BadRecord, as_text, listed, object_of, prompt_hash, to_reply
from cai.sources.files import Source, examine, read_records
from cai.sources.replies import (
    SINGLE,
    answers_in,
    column_of_many,
    columns_of,
    columns_of_two,
    preferred_of,
    shared_prompt,
)
from cai.training.setup.methods import METHODS, Kind

KEPT_COLUMNS = ("constitution", "constitution_hash", "judge", "protocol", "model", "chosen_model", "rejected_model")
MOST_ORIGINS = 20  # values of a column that are remembered
PLAIN = frozenset({"chosen", "rejected", "completion"})  # columns of TRL, whose text continues a text in `prompt`


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row. A `prompt` of plain text is continued as it is, without the model's chat template."""

    id: str
    prompt: Turns | str
    reply: str  # of a pair, the chosen one
    key: str  # hash of the prompt: all rows of one prompt are on one side of a split
    rejected: str | None = None  # of a pair
    label: bool | None = None  # of a graded reply: whether it is desirable
    p_chosen: float | None = None  # probability that `reply` is better than `rejected`; None: not judged
    margin: float | None = None  # log odds of it in nats; None: the dataset names none

    @property
    def is_plain(self) -> bool:
        """Whether the prompt is plain text."""
        return isinstance(self.prompt, str)

    @property
    def replies(self) -> list[str]:
        """The reply, or both replies of a pair."""
        return [self.reply] if self.rejected is None else [self.reply, self.rejected]


def named(row: str) -> str:
    """A row's id in a sentence; a row without one is called by its line."""
    return row if row.startswith("line ") else f"row {row}"


def kind_of(record: Object) -> Kind:
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


ADVICE: dict[Kind, str] = {  # what to do with a dataset of another kind than a method trains on
    "chat": "these are conversations, not what {method} trains on: cai train sft {where}",
    "pairs": "these are pairs, not what {method} trains on: cai train dpo {where}",
    "graded": "these are single replies with a label, not what {method} trains on: cai train kto {where}",
    "labels": "these are labels, from which training rows are cut: name the run, cai train dpo {folder}",
    "revisions": "these are revisions, from which training rows are cut: name the run, cai train sft {folder}",
    "candidates": "these are replies that nobody has judged: cai label {where}",
    "prompts": "these are prompts without replies: cai generate {where}",
    "text": "'text' does not tell the reply from the prompt; give 'messages', or 'prompt' and 'completion'",
    "unknown": "no columns that {method} trains on; it has {columns}",
}


def advice(where: str, method: str, record: Object) -> str:
    """What to do with a record of another kind than `method` trains on; where: its file."""
    words = ADVICE[kind_of(record)]
    return words.format(where=where, folder=Path(where).parent, method=method, columns=listed(record))


def row_of(record: Any, line: int, method: str) -> TrainingRow:
    """The row in a record; raises BadRecord for what cannot train."""
    record = object_of(record, "columns")
    kind = kind_of(record)
    if kind != METHODS[method].rows:
        raise BadRecord(f"the columns are not those of {method}: {advice('it', method, record)}")
    name = f"line {line}"
    value = record.get("id")
    if isinstance(value, str | int) and value != "":
        name = as_text(str(value), "the id")
    columns = columns_of(record)
    if kind == "pairs":
        return _pair(record, columns, name)
    prompt, [reply] = _read(record, columns)
    label = None
    if kind == "graded":
        label = record["label"]
        if not isinstance(label, bool) and label not in (0, 1):
            raise BadRecord(f"'label' is {str(label)[:40]!r}, not true or false")
        label = bool(label)
    return TrainingRow(name, prompt, reply, _key(prompt), label=label)


def _pair(record: Object, columns: Sequence[str], name: str) -> TrainingRow:
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


def _read(record: Object, columns: Sequence[str]) -> tuple[Turns | str, list[str]]:
    """The prompt, and the replies in these columns; the prompt is text if it and all replies are plain text."""
    before, replies = answers_in(record, columns)
    for column, reply in zip(columns, replies, strict=True):
        if not reply.strip():
            raise BadRecord(f"{column!r} is an empty reply", "empty")
    prompt = record.get("prompt")
    if isinstance(prompt, str) and PLAIN.issuperset(columns) and replies == [record[column] for column in columns]:
        if not prompt.strip():
            raise BadRecord("the prompt is empty", "empty")
        return prompt, replies
    return to_reply(shared_prompt(record, before)), replies


def _number(record: Object, name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        value = math.inf  # Python writes no integer of more than 4,300 digits
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise BadRecord(f"{name!r} is {str(value)[:40]!r}, not a finite number")
    return float(value)


def _key(prompt: Turns | str) -> str:
    return prompt_hash([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


# Files


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that does not train."""

    file: str
    line: int  # 0: found out after it was read
    reason: DropReason
    detail: str


def reasons_of(drops: Iterable[Skipped]) -> dict[str, int]:
    """How many were dropped, by reason."""
    return dict(Counter(drop.reason for drop in drops))


@dataclass(slots=True)
class RowFile:
    """What one file held; `read` = rows + drops."""

    source: str
    content: str = ""  # equal for equal content: size and hash of a file
    rows: list[TrainingRow] = field(default_factory=list)
    drops: list[Skipped] = field(default_factory=list)
    read: int = 0
    origins: dict[str, list[str]] = field(default_factory=dict)  # distinct values of KEPT_COLUMNS
    first_replies: list[tuple[str, str]] = field(default_factory=list)  # of the model, with the text that each answers


def file_of(source: Any) -> Path | None:
    """The path that a source names; None for standard input, a dataset of the hub, and rows from Python."""
    if not isinstance(source, str | Path) or str(source) == "-" or str(source).startswith("hf:"):
        return None
    return Path(source)


def read_rows(source: Source, method: str, command: str = "") -> RowFile:
    """Every record of one file as a row or a drop, in order; raises InputError if its records are of another kind.

    command: of the run that cut it, empty: unknown.
    """
    where = str(source) if isinstance(source, str | Path) else "ROWS"
    file = RowFile(where)
    path = file_of(source)
    if path is not None:
        _check_content(path, command)
        file.content = examine(where)[0]
    for line, record in read_records(source):
        file.read += 1
        try:
            row = row_of(record, line, method)
        except BadRecord as bad:
            if isinstance(record, Mapping) and not file.rows and kind_of(record) != METHODS[method].rows:
                raise InputError(advice(where, method, record), where, line) from None
            file.drops.append(Skipped(where, line, bad.reason, bad.problem))
            continue
        file.rows.append(row)
        _remember(file.origins, record)
        first = _first_reply(record, row, command)
        if first is not None:
            file.first_replies.append((first, last_words(row.prompt)))
    if path is None:
        file.content = hashlib.sha256(orjson.dumps(file.rows)).hexdigest()[:16]
    return file


def _check_content(path: Path, command: str) -> None:
    """Raise InputError for a file without content."""
    if not path.exists() or path.stat().st_size:
        return
    if not command:
        raise InputError("is empty", path)
    message = "is empty: no row came this far"
    dropped = path.parent / "dropped.jsonl"
    if dropped.exists():
        message += f"; {dropped} says why"
    raise InputError(message, path)


def _remember(origins: dict[str, list[str]], record: Object) -> None:
    for column in KEPT_COLUMNS:
        value = record.get(column)
        if not isinstance(value, str):
            continue
        values = origins.setdefault(column, [])
        name = value.encode("utf-8", "replace").decode()
        if name not in values and len(values) < MOST_ORIGINS:
            values.append(name)


def _first_reply(record: Object, row: TrainingRow, command: str) -> str | None:
    """The model's first reply to the prompt, if it is one of those of the row."""
    if record.get("chosen_from") == "initial":
        return row.reply
    rejected = record.get("rejected_from")
    if rejected == "initial" or ("rejected_from" not in record and command == "generate"):
        return row.rejected
    return None


def last_words(prompt: Turns | str) -> str:
    """The text that a reply answers."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
