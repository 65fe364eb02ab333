"""The lines of a run's JSONL files: in input order, by their positions, with an error that names a damaged one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import orjson
from pydantic import ValidationError

from cai.disk.reading import check_files, exists
from cai.errors import RunError
from cai.records import KINDS, Drop, Record
from cai.sources.yamlfile import first_fault

R = TypeVar("R", bound=Record)
DROPPED = "dropped.jsonl"
BAD_ROW = (LookupError, TypeError, AttributeError, ValueError)  # what a line that is not such a row leads to
PAIR_BITS = 16  # of the position of a pair: its number among those of its prompt; above them the place of the prompt
PROMPT_BITS = 32
OFFSET_BITS = 48
OFFSET = (1 << OFFSET_BITS) - 1
OF_PROMPTS = {kind.rows_file for kind in KINDS.values() if not kind.pairs}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error in the rows of a JSONL file into a RunError that names the line."""
    try:
        yield
    except BAD_ROW as error:
        raise damage(path) from error


def lines_in_order(path: Path) -> Iterator[tuple[int, bytes]]:
    """Position and line of every row of a JSONL file, in input order, each line read when it is wanted.

    Of several lines of one position the last counts: a row that has grown is appended anew. Holds about 45 bytes a row,
    and leaves out a torn last line. Raises RunError naming a line without a position; the lines are not parsed.
    """
    check_files(path.parent, [path.name])
    with open(path, "rb", buffering=2**18) as file:
        for place in _places(file, path):
            file.seek(place & OFFSET)
            yield place >> OFFSET_BITS, file.readline()


def few_lines_in_order(path: Path, most: int) -> Iterator[tuple[int, bytes]]:
    """Like `lines_in_order`, for many files side by side: each is open only while so many lines of it are read."""
    with open(path, "rb", buffering=2**18) as file:
        places = _places(file, path)
    for first in range(0, len(places), most):
        lines = []
        with open(path, "rb") as file:
            for place in places[first : first + most]:
                file.seek(place & OFFSET)
                lines.append((place >> OFFSET_BITS, file.readline()))
        yield from lines


def _places(file: BinaryIO, path: Path) -> list[int]:
    """Position and offset of the last line of every position, in order, in one integer: a third of a tuple's memory."""
    places = []
    start = 0
    with reading(path):
        for line in file:
            if line.endswith(b"\n"):
                places.append(position_of(line, path.name) << OFFSET_BITS | start)
            start += len(line)
    places.sort()
    each = pairwise(chain(places, [-1]))
    return [place for place, following in each if following >> OFFSET_BITS != place >> OFFSET_BITS]


def read_rows(path: Path, row: type[R]) -> Iterator[R]:
    """The rows of a file in input order; none if it is not there yet. Raises RunError that names a damaged line."""
    if not exists(path):
        return
    for _, line in lines_in_order(path):
        with reading(path):
            parsed = row.model_validate_json(line)
        yield parsed


def read_drops(folder: Path) -> Iterator[Drop]:
    """What a run left out, with the reasons, in the order of the file and without a torn last line."""
    path = folder / DROPPED
    if not exists(path):
        return
    with reading(path), open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield Drop.model_validate_json(line)


def is_torn(path: Path) -> bool:
    """Whether the last line of a file is not whole."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def position_of(line: bytes, name: str) -> int:
    """The position of a row; the first key of that name is the row's own: a text before it has its quotes escaped.

    To search for it takes a tenth of the time of parsing the line. name: of the file. ValueError for no position.
    """
    start = line.find(b'"position":') + 11
    digits = line[start : line.find(b",", start)]
    if start > 10 and digits.strip().isdigit():
        return as_position(int(digits), name)
    return as_position(orjson.loads(line)["position"], name)


def as_position(value: Any, name: str) -> int:
    """A position that a row of a file may have; ValueError for anything else, which may stand for another input."""
    if type(value) is int and 0 <= value < 1 << (PROMPT_BITS if name in OF_PROMPTS else PROMPT_BITS + PAIR_BITS):
        return value
    raise ValueError(f"{value!r} is no position")


def damage(path: Path) -> RunError:
    """The error that names the first line of a run's JSONL file that is not such a row."""
    row = next((kind.row for kind in KINDS.values() if kind.rows_file == path.name), Drop)
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
