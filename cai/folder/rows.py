"""The rows of a run folder: JSONL files that only grow, each with its committed size, and how they are read.

The sizes are rows of the caller's database, so that a transaction holds them together with what the lines mean to it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
from pydantic import ValidationError

from cai.errors import RunError
from cai.records import Candidates, Drop, DropReason, Label, Record, Revision
from cai.sources.yamlfile import first_fault


@dataclass(frozen=True, slots=True)
class Kind:
    """What is in the folders of one kind of run."""

    rows_file: str
    row: type[Record]
    stages: tuple[str, ...] = ()  # at which an export may leave rows out of a file
    training: tuple[str, ...] = ()  # names of the files that an export cuts
    pairs: bool = False  # whether its positions are those of pairs: see PAIR_BITS


KINDS = {  # by command; a new kind of run is an entry here, a row in cai.records and a class in cai.runs
    "generate": Kind("revisions.jsonl", Revision, stages=("sft", "dpo"), training=("sft", "dpo")),
    "sample": Kind("candidates.jsonl", Candidates, stages=("sft",), training=("sft",)),
    "label": Kind("labels.jsonl", Label, stages=("pairs", "kto"), training=("dpo", "kto"), pairs=True),
    "test": Kind("labels.jsonl", Label, pairs=True),
}
DROPPED = "dropped.jsonl"
# Drops of an export: the row itself is finished, it is only not in a file.
EXPORT_STAGES = tuple(dict.fromkeys(stage for kind in KINDS.values() for stage in kind.stages))
RETRIED: tuple[DropReason, ...] = ("model_error",)  # drops that are tried again when the run is resumed
TRAINING_FILES = tuple(
    f"{name}{side}.{form}"
    for name in dict.fromkeys((*(name for kind in KINDS.values() for name in kind.training), "reward"))  # of 0.1.0
    for side in ("", ".eval")
    for form in ("jsonl", "parquet")
)
SIZES = "CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, size INTEGER NOT NULL);"


class Lines:
    """The JSONL files of a folder; raises OSError and sqlite3.Error as they come."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self._folder, self._db = folder, db
        self._files: dict[str, BinaryIO] = {}
        self._added: dict[str, list[bytes]] = {}

    def add(self, name: str, line: bytes) -> None:
        """Have a line written with the next `write`."""
        self._added.setdefault(name, []).append(line)

    def write(self) -> None:
        """Append what was added; the caller commits after it. A kill between the two leaves lines for `unseen`."""
        for name, lines in self._added.items():
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = open(self._folder / name, "ab", buffering=0)  # noqa: SIM115
            data = b"".join(lines)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._remember(name, file.tell())
        self._added.clear()

    def unseen(self, name: str) -> Iterator[bytes]:
        """The lines after the committed size, which is then moved to the last whole one; a torn one is cut off.

        A file that is shorter than what was committed is read from its start.
        """
        with open(self._folder / name, "ab+") as file:
            committed = self._committed(name)
            size = file.seek(0, os.SEEK_END)
            end = 0
            if committed <= size:
                end = committed
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                yield line
            file.truncate(end)
        self._remember(name, end)
        self._db.commit()

    def is_shorter(self, name: str) -> bool:
        """Whether a file has lost committed lines."""
        path = self._folder / name
        if not path.exists():
            return self._committed(name) > 0
        return self._committed(name) > path.stat().st_size

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file at once; `lines` may read the one it replaces, if they close it at their end (for Windows)."""
        self.write()  # the commits below must not tell of lines that are not there
        path = self._folder / name
        if (old := self._files.pop(name, None)) is not None:
            old.close()
        with open(path.with_suffix(".tmp"), "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the new name with no content
            size = file.tell()
        # A kill before the last line leaves either file with size 0, so that it is read from its start again.
        self._remember(name, 0)
        self._db.commit()
        os.replace(path.with_suffix(".tmp"), path)
        self._remember(name, size)
        self._db.commit()

    def close(self) -> None:
        """Close the files; what was added and not written is lost."""
        for file in self._files.values():
            file.close()

    def _committed(self, name: str) -> int:
        row = self._db.execute("SELECT size FROM files WHERE name = ?", (name,)).fetchone()
        if row is None:
            return 0
        return int(row[0])

    def _remember(self, name: str, size: int) -> None:
        self._db.execute("INSERT INTO files VALUES (?,?) ON CONFLICT(name) DO UPDATE SET size = ?2", (name, size))


def lines_in_order(path: Path) -> Iterator[tuple[int, bytes]]:
    """Position and line of every row of a JSONL file, in input order, each line read when it is wanted.

    Holds about 45 bytes a row, and leaves out a torn last line. Raises RunError naming a line that is no row.
    """
    places = []  # position and offset in one integer, which is a third of the memory of a tuple
    with open(path, "rb") as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                try:
                    places.append(orjson.loads(line)["position"] << 48 | start)
                except (ValueError, LookupError, TypeError) as error:
                    raise damage(path) from error
            start += len(line)
        places.sort()
        for place in places:
            file.seek(place & (1 << 48) - 1)
            yield place >> 48, file.readline()


def retried_lines(path: Path) -> Iterator[tuple[int, int, DropReason]]:
    """Number, position and reason of the lines of dropped.jsonl that tell of drops which are tried again."""
    words = [reason.encode() for reason in RETRIED]
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if any(word in line for word in words):  # the others, which may be millions, need no parsing
                try:
                    drop = orjson.loads(line)
                    if drop["reason"] in RETRIED and drop["stage"] not in EXPORT_STAGES:
                        yield number, drop["position"], drop["reason"]
                except (ValueError, LookupError, TypeError) as error:
                    raise damage(path) from error


def lines_without(path: Path, numbers: set[int]) -> Iterator[bytes]:
    """The lines of a file but some; it is closed after the last one."""
    with open(path, "rb") as file:
        yield from (line for number, line in enumerate(file) if number not in numbers)


def damage(path: Path) -> RunError:
    """The error that names the first line of a run's JSONL file that is not such a row."""
    rows = {kind.rows_file: kind.row for kind in KINDS.values()}
    row = rows.get(path.name, Drop)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row.model_validate_json(line)
            except ValidationError as error:
                return RunError(
                    f"{path}: line {number} is damaged ({first_fault(error)}): delete that line and run the same "
                    "command again; its row is made again from the finished calls"
                )
    return RunError(f"{path} has a row that cannot be read")
