"""The files of a run folder: which rows lie in which, how they are read in input order and replaced, and the lock.

Knows names, lines and rows; nothing of whose run it is, nor of what is done already.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.errors import RunError
from cai.records import Candidates, Drop, DropReason, Label, Record, Revision
from cai.sources.yamlfile import first_fault

ROWS: dict[str, type[Record]] = {
    "revisions.jsonl": Revision,
    "candidates.jsonl": Candidates,
    "labels.jsonl": Label,
    "dropped.jsonl": Drop,
}
EXPORT_STAGES = ("sft", "dpo", "pairs", "kto")  # drops of an export: the row itself is finished, it only left a file
RETRIED: tuple[DropReason, ...] = ("model_error",)  # drops that are tried again when the run is resumed
TRAINING_FILES = tuple(
    f"{name}{side}.{kind}"
    for name in ("sft", "dpo", "kto", "reward")
    for side in ("", ".eval")
    for kind in ("jsonl", "parquet")
)


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
    """The error that names the first line of a JSONL file of `ROWS` that is no such row."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                ROWS[path.name].model_validate_json(line)
            except ValidationError as error:
                return RunError(
                    f"{path}: line {number} is damaged ({first_fault(error)}): delete that line and run the same "
                    "command again; its row is made again from the finished calls"
                )
    return RunError(f"{path} has a row that cannot be read")
