"""Reads a file of training rows: each record as rows or a drop, and what the file says of its origin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cai.errors import InputError
from cai.judge.votes import with_people
from cai.records import Contest, Object, Values
from cai.sources.files import Source, examine, read_records
from cai.sources.replies import with_clear_numbers
from cai.sources.values import BadRecord
from cai.training.data.conditioned import Made, UnderPrinciples
from cai.training.data.kinds import WrongKind, advice, is_graded
from cai.training.data.rows import Skipped, TrainingRow, last_words, named, rows_of
from cai.training.setup.methods import METHODS

KEPT_COLUMNS = ("constitution", "constitution_hash", "judge", "protocol", "model", "chosen_model", "rejected_model")
MOST_ORIGINS = 20  # values of a column that are remembered
TRIED = 1_000  # records of a dataset of which none can train before it is refused as one of another kind


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


def _record_of(pair: Contest) -> Values:
    """A pair that people voted on, as a record."""
    return {"id": pair.id, "prompt": list(pair.messages), "a": pair.a, "b": pair.b, "human": pair.human}


def read_rows(source: Source, method: str, command: str = "", under: UnderPrinciples | None = None) -> RowFile:
    """Every record of one file as a row or a drop, in order; raises InputError if its records are of another kind.

    command: of the run that cut it, empty: unknown. under: makes rows under principles.
    """
    where = str(source) if isinstance(source, str | Path) else "ROWS"
    file = RowFile(where)
    path = file_of(source)
    if path is not None:
        _check_content(path, command)
        file.content = examine(where)[0]
    make: Callable[[Any, int, str], Sequence[Made]] = rows_of if under is None else under.rows_of
    wrong: tuple[int, str] | None = None  # the first record of another kind: its line, and what to do with it
    graded: dict[int, tuple[int, str]] = {}  # place of a row whose reply has a grade → the same
    other_labels = False
    keys = set[str]()  # of the prompts so far, if prompts are all that is read
    # A person who labels to train may pick pairs, and may have seen a verdict.
    for line, item in with_clear_numbers(with_people(read_records(source), path, every=True), path):
        record = _record_of(item) if isinstance(item, Contest) else item
        file.read += 1
        try:
            made = make(record, line, method)
        except BadRecord as bad:
            file.drops.append(Skipped(where, line, bad.reason, bad.problem))
            if isinstance(bad, WrongKind) and wrong is None:
                wrong = (line, advice(where, method, record))
            if wrong is not None and not file.rows and file.read >= TRIED:
                break
            continue
        rows = [row for row in made if isinstance(row, TrainingRow)]
        if METHODS[method].rows == "prompts":
            _add_prompt(file, rows[0], keys, line)
            continue
        if METHODS[method].rows == "chat":
            grade = is_graded(record)
            other_labels |= grade is False
            if grade:
                graded[len(file.rows)] = (line, advice(where, method, record))
        file.read += len(made) - 1  # both replies of a pair are read, and each principle
        file.rows += rows
        file.drops += [Skipped(where, line, bad.reason, bad.problem) for bad in made if isinstance(bad, BadRecord)]
        _remember(file.origins, record)
        if not rows:
            continue
        first = _first_reply(record, rows[0], command)
        if first is not None:
            file.first_replies.append((first, last_words(rows[0].prompt)))
    if graded and not other_labels:  # among other labels, true and false are classes, too
        wrong = wrong or next(iter(graded.values()))
        _drop_graded(file, graded)
    if wrong is not None and not file.rows:
        raise InputError(wrong[1], where, wrong[0])
    if path is None:
        file.content = hashlib.sha256(orjson.dumps(file.rows)).hexdigest()[:16]
    return file


def _add_prompt(file: RowFile, row: TrainingRow, keys: set[str], line: int) -> None:
    """Add a prompt unless it repeats one of those with these keys."""
    if row.key in keys:
        file.drops.append(Skipped(file.source, line, "duplicate_prompt", f"{named(row.id)} repeats a prompt"))
        return
    keys.add(row.key)
    file.rows.append(row)


def _drop_graded(file: RowFile, graded: Mapping[int, tuple[int, str]]) -> None:
    """Drop the rows at these places, whose grades are not labels, each with its line and what to do."""
    file.drops += [Skipped(file.source, line, "bad_input", problem) for line, problem in graded.values()]
    file.rows = [row for place, row in enumerate(file.rows) if place not in graded]


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
