"""Reads records from a stream of bytes: one a line, as JSON or text, or JSON of another form."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import orjson

from cai.errors import SourceError
from cai.sources.documents import document_values, is_document
from cai.sources.tables import Rows
from cai.sources.values import BadRecord
from cai.texts.wording import reason_of

MAX_LINE = 64 * 2**20  # bytes; longer lines are skipped without being held in memory
MOST_DIGITS = 19  # of an integer that an array takes
LARGE = 2.0**53  # a float from which on it may be a whole number of more digits than it can hold

OTHER_STARTS = {  # how files begin whose name says another thing
    b"\x1f\x8b": "packed by gzip: its name must end in .gz",
    b"BZh": "packed by bzip2: unpack it first",
    b"\xfd7zXZ": "packed by xz: unpack it first",
    b"(\xb5/\xfd": "packed by zstd: unpack it first",
    b"PK\x03\x04": "a zip archive, or a table of Excel: unpack it, or save it as .csv",
    b"PAR1": "parquet: its name must end in .parquet",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: git lfs pull",
}

OF_RUNS = ("revisions.jsonl", "candidates.jsonl", "labels.jsonl")  # in which a row that has grown is appended anew
POSITION = re.compile(rb'"position": ?(\d+)[,}]')  # the first of a line is its row's own: quotes in texts are escaped
OF_PEOPLE = b'"annotator":'  # in lines of several people on one row

ByteLines = io.BufferedReader | gzip.GzipFile


def decoded(stream: ByteLines, where: str | Path, decode: Callable[[bytes], Any]) -> Rows:
    """The records of a stream, each with its line, or with its number in JSON that is not one record a line."""
    with _undamaged(where) as place:
        head = _head(stream, where)
        if head and decode is not text_line and is_document(head[-1]):
            for place[0], record in document_values(b"".join(head), stream, where, MAX_LINE):
                yield place[0], record
            return
    for number, line in _lines(stream, where, head):
        if isinstance(line, BadRecord):
            yield number, line
        elif not line.isspace():
            yield number, decode(line)


def bounded(stream: ByteLines, where: str | Path) -> Iterator[bytes]:
    """Lines none of which is too long: cut off, one could still look like a row."""
    with _undamaged(where):
        head = _head(stream, where)
    for number, line in _lines(stream, where, head):
        if isinstance(line, BadRecord):
            raise SourceError(line.problem, where, number)
        yield line


@contextmanager
def _undamaged(where: str | Path) -> Iterator[list[int]]:
    """Errors of a stream as SourceErrors that name the last line or record that was read: the number in the list."""
    place = [0]
    try:
        yield place
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip data is damaged or cut off after line {place[0]} ({reason_of(error)})"
        raise SourceError(f"{problem}; what came before was read", where) from None
    except OSError as error:
        raise SourceError(f"cannot be read after line {place[0]}: {reason_of(error)}", where) from None


def _head(stream: ByteLines, where: str | Path) -> list[bytes]:
    """The lines up to the first that is not blank, which may be too long to be whole."""
    start = stream.peek(8192)[:8192]
    other = next((what for mark, what in OTHER_STARTS.items() if start.startswith(mark)), None)
    if other is not None:
        raise SourceError(f"is {other}", where)
    if b"\0" in start:
        raise SourceError("holds NUL bytes: it is binary, or text in UTF-16; prompts are read as UTF-8 text", where)
    if b"\r" in start and b"\n" not in start:
        raise SourceError("its lines end with a carriage return alone: save it with line feeds", where)
    head: list[bytes] = []
    while line := stream.readline(MAX_LINE + 1):
        head.append(line if head else line.removeprefix(BOM_UTF8))
        if head[-1].strip():
            break
    return head


def _lines(stream: ByteLines, where: str | Path, head: Iterable[bytes]) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Numbered lines, the first of which were read already; of one that is too long, the record that it cannot be."""
    with _undamaged(where) as place:
        for line in chain(head, iter(lambda: stream.readline(MAX_LINE + 1), b"")):
            place[0] += 1
            if len(line) <= MAX_LINE:
                yield place[0], line
                continue
            yield place[0], BadRecord(f"the line is longer than {MAX_LINE:,} bytes")
            while len(line) > MAX_LINE and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE + 1)


def json_line(line: bytes) -> Any:
    """The record in a line of JSON."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if "infinity" not in error.msg and not re.search(rb"\bNaN\b|\bInfinity\b", line):
            return BadRecord(f"not JSON: {error.msg} (column {error.colno})")
        return _as_python_reads(line)
    name = record.get("id") if isinstance(record, dict) else None
    if isinstance(name, float) and abs(name) >= LARGE:
        return _as_python_reads(line)
    return record


def _as_python_reads(line: bytes) -> Any:
    """The record in a line of JSON, with NaN, infinity and whole numbers of any length; slower."""
    try:
        return json.loads(line)
    except ValueError as error:  # such as a number of more than 4,300 digits
        return BadRecord(f"not JSON: {error}")


def text_line(line: bytes) -> str | BadRecord:
    """A line as it stands."""
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return BadRecord(f"not UTF-8: {error.reason} (byte {error.start + 1})")


def json_or_text(line: bytes) -> Any:
    """A line that is JSON of a record, or text."""
    record = json_line(line)
    if isinstance(record, BadRecord) and line.lstrip().startswith(b"{"):
        return BadRecord(f"{record.problem}; for plain text that starts with a brace, use --format text")
    if isinstance(record, str | list | dict):
        return record
    return text_line(line)


def superseded_lines(path: Path) -> set[int]:
    """The numbers of the lines in a file of a run, as a kill may leave it, that a later line has taken the place of."""
    if path.name not in OF_RUNS or not path.with_name("run.json").exists():
        return set()
    positions, numbers = array("Q"), array("Q")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            own = POSITION.search(line)
            if own is not None and len(own[1]) < MOST_DIGITS and OF_PEOPLE not in line:
                positions.append(int(own[1]))
                numbers.append(number)
    return {numbers[place] for place in repeated_later(positions)}


def repeated_later(values: Sequence[int]) -> Iterator[int]:
    """The places of values that come again behind them."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return (place for place, following in pairwise(order) if values[place] == values[following])
