"""Takes lines that are no longer the last word on an input out of a run: shorter rows, and drops tried again."""

from __future__ import annotations

import re
from array import array
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from cai.folder.journal.inputs import FINISHED
from cai.folder.journal.rows import NOTHING, Rows
from cai.folder.kinds import EXPORT_STAGES
from cai.folder.lines import DROPPED, as_position, position_of, reading
from cai.sources.lines import repeated_later

OF_EXPORTS = re.compile(f'"stage":"({"|".join(sorted(EXPORT_STAGES))})"'.encode())  # as written; texts escape quotes


def forget_superseded(folder: Path, rows_file: str, rows: Rows) -> None:
    """Leave one line of every input, that of its state, beside those of exports.

    A reader who knows nothing of runs then finds every id once. The files are read only if something was played again.
    """
    finders = {rows_file: _stale_rows, DROPPED: _stale_drops}
    for name, find in finders.items():
        with reading(folder / name):
            stale = sorted(set(find(folder / name, rows)))
        if stale:
            rows.rewrite(name, lines_without(folder / name, stale))
    rows.expect_repeats(NOTHING)


def _stale_rows(path: Path, rows: Rows) -> Iterator[int]:
    """Where the lines start that a later line follows, or whose input was dropped when it was played again."""
    positions, starts = array("Q"), array("Q")
    with open(path, "rb") as file:
        for start, line in lines_of(file):
            positions.append(position_of(line, path.name))
            starts.append(start)
    for place in repeated_later(positions):
        yield starts[place]
    for place, position in enumerate(positions):
        entry = rows.state(position)
        if entry is not None and entry[1] not in FINISHED:
            yield starts[place]


def _stale_drops(path: Path, rows: Rows) -> Iterator[int]:
    """Where the lines start of drops whose input has ended otherwise since, or in a later line."""
    last: dict[int, int] = {}  # position → start of its last line
    with open(path, "rb") as file:
        for start, line in lines_of(file):
            if OF_EXPORTS.search(line):  # such lines, which may be millions, need no parsing
                continue
            drop = orjson.loads(line)
            if drop["stage"] in EXPORT_STAGES:
                continue
            position = as_position(drop["position"], DROPPED)
            entry = rows.state(position)
            if entry is not None and entry[1] != drop["reason"]:
                yield start
                continue
            if position in last:
                yield last[position]
            last[position] = start


def forget_drops(folder: Path, rows: Rows, reasons: Container[str]) -> None:
    """Take drops for these reasons out of a run, so that their inputs are played as if they never were."""
    starts, positions = list[int](), list[tuple[int]]()
    with reading(folder / DROPPED), open(folder / DROPPED, "rb") as file:
        for start, line in lines_of(file):
            drop = orjson.loads(line)
            if drop["stage"] not in EXPORT_STAGES and drop["reason"] in reasons:
                starts.append(start)
                positions.append((as_position(drop["position"], DROPPED),))
    if starts:
        left = lines_without(folder / DROPPED, starts)
        rows.rewrite_all({DROPPED: left}, lambda: rows.take_out(positions))


def lines_without(path: Path, starts: Iterable[int]) -> Iterator[bytes]:
    """The lines of a file but those that start there, in order; it is closed after the last one."""
    left_out = iter(starts)
    following = next(left_out, None)
    with open(path, "rb") as file:
        for start, line in lines_of(file):
            if start == following:
                following = next(left_out, None)
                continue
            yield line


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with the place where it starts."""
    start = 0
    for line in file:
        yield start, line
        start += len(line)
