"""Finds single rows of a run by id or position, without reading its files from their start; may look on while it runs.

Rows are appended roughly in the order of the input, so a position is looked for first where lines of about that
position are, and then further away. An id leads to its position by the journal; the beginning of one is searched for.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from cai.disk.reading import check_files
from cai.errors import RunError
from cai.folder.journal.inputs import FINISHED, names_of
from cai.folder.journal.rows import DROPS, NOTHING
from cai.folder.journal.store import Store
from cai.folder.kinds import EXPORT_STAGES
from cai.folder.lines import DROPPED, position_of, reading
from cai.records import Values

BLOCK = 1 << 23  # bytes that are searched at once, at about 3 GB/s, if all must be
PART = 1 << 20  # bytes of a part that is searched for a position; more than what is finished out of order
MOST_IDS = 1_000  # that begin alike
HASH = re.compile("[0-9a-f]{1,32}")  # the id of a row whose input gave it none, or the beginning of one
POSITION = re.compile(rb'"position": ?(\d+)[,}]')  # the first one of a line is its own: quotes in texts are escaped
ID = rb'"id": ?("(?:%s)(?:[^"\\]|\\.)*")'  # that begins so; a text has its quotes escaped


class Entry(NamedTuple):
    """What became of one input. left_out: the lines of dropped.jsonl about a row, which say what files lack it."""

    id: str | None
    row: bytes | None
    drop: Values | None  # why there is no row
    left_out: tuple[Values, ...] = ()


class Lookup:
    """The rows of a run folder, to be found one by one; close it, or use it in a `with`.

    rows_file: the name of the file that has them. journal: None if there is none that can be read, and `problem` says
    why.
    """

    def __init__(self, folder: Path, rows_file: str) -> None:
        self.folder, self.rows, self.drops = folder, folder / rows_file, folder / DROPPED
        check_files(folder, (rows_file, DROPPED, "calls.sqlite"))
        self.journal: Store | None = None
        self.problem = f"{folder / 'calls.sqlite'} is not there"
        self._opened = ExitStack()
        if not (folder / "calls.sqlite").exists():
            return
        try:
            journal = self._opened.enter_context(closing(Store(folder, briefly=True)))
            journal.rows.first_row()
            self.journal = journal
        except RunError as error:
            self.problem = str(error)

    def __enter__(self) -> Lookup:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def first(self) -> Entry | None:
        """The first row in input order; if there is none, the first that was dropped, or None."""
        for position in self._first_positions():
            entry = self.at(position)
            if entry is not None:
                return entry
        return None

    def _first_positions(self) -> Iterator[int]:
        if self.journal is not None:
            yield from self.journal.rows.first_row()
        for path in (self.rows, self.drops):
            yield from sorted(_positions(path))[:1]

    def at(self, position: int) -> Entry | None:
        """What became of the input at a position; None if that is not written yet."""
        lines = [(start, orjson.loads(line)) for start, line in sorted(lines_at(self.drops, position))]
        drops = [(start, drop) for start, drop in lines if drop["stage"] not in EXPORT_STAGES]
        start, row = last_line_at(self.rows, position, is_only=self._is_settled())
        if row is not None and not (drops and self._was_dropped(position, start, drops[-1][0])):
            left_out = (drop for _, drop in lines if drop["stage"] in EXPORT_STAGES)
            return Entry(orjson.loads(row)["id"], row, None, tuple(left_out))
        for _, drop in drops[-1:]:
            return Entry(drop["id"], None, drop)
        return None

    def _is_settled(self) -> bool:
        """Whether no input has several rows, of which the last counts."""
        return self.journal is not None and self.journal.rows.repeats in (NOTHING, DROPS)

    def _was_dropped(self, position: int, row: int, drop: int) -> bool:
        """Whether an input that has a row and a drop was dropped last; by the places where both lines start."""
        if self.journal is None or self.journal.rows.is_newer(self.rows.name, row):
            return False
        entry = self.journal.rows.state(position)
        is_dropped = entry is not None and entry[1] not in FINISHED
        return is_dropped or self.journal.rows.is_newer(DROPPED, drop)

    def find(self, name: str) -> Entry | None:
        """What has exactly this id, as the journal knows; None also for a run without one."""
        for position in self._known(name):
            entry = self.at(position)
            if entry is not None and entry.id == name:
                return entry
        return None

    def has_begun(self, name: str) -> bool:
        """Whether the run has begun with an input of this id, whatever comes of it."""
        return any(True for _ in self._known(name))

    def beginning_with(self, text: str) -> dict[str, int]:
        """The ids that begin so with their positions, at most 1,000; reads all rows, unless their ids are hashes."""
        if self.journal is None or not self.journal.rows.are_hashes():
            return dict(islice(self._named(text), MOST_IDS))
        if not HASH.fullmatch(text):
            return {}
        least, end = (b"p" + bytes.fromhex(text.ljust(32, digit)) for digit in "0f")
        ids = {}
        for position in self.journal.rows.positions_from(least, end + b"\0", MOST_IDS):
            entry = self.at(position)
            if entry is not None and entry.id is not None:
                ids[entry.id] = position
        return ids

    def ids(self) -> Iterator[str]:
        """The ids of all rows, and of what was dropped, as they stand in the files."""
        return (name for name, _ in self._named(""))

    def _known(self, name: str) -> Iterator[int]:
        """Positions that the journal knows for an id; a hash may be that of a row which has an id of its own."""
        if self.journal is None:
            return
        keys = names_of(b"", name)[1:]
        if len(name) == 32 and HASH.fullmatch(name):
            keys.append(b"p" + bytes.fromhex(name))
        for key in keys:
            yield from self.journal.rows.positions_of(key)

    def _named(self, beginning: str) -> Iterator[tuple[str, int]]:
        """Each id that begins so, once, with its position."""
        try:
            forms = {orjson.dumps(beginning)[1:-1], json.dumps(beginning)[1:-1].encode()}  # as JSON may be written
        except TypeError:  # it is not UTF-8, as every id is
            return
        pattern = re.compile(ID % b"|".join(map(re.escape, forms)))
        names = set()
        for path in (self.drops, self.rows):  # what the journal does not know was dropped before it was played
            for block in _blocks(path, forms):
                for match in pattern.finditer(block):
                    name = orjson.loads(match[1])
                    if name in names:
                        continue
                    line = _line_around(block, match)
                    with reading(path):
                        position = position_of(line, path.name)
                        if path == self.drops and _is_left_out(line):
                            continue
                    names.add(name)
                    yield name, position


def _is_left_out(line: bytes) -> bool:
    """Whether a line of dropped.jsonl is about a row, or one of its replies."""
    return orjson.loads(line)["stage"] in EXPORT_STAGES


def last_line_at(path: Path, position: int, *, is_only: bool = False) -> tuple[int, bytes | None]:
    """Start and content of the last line of a position; None if it has none. What is torn at the end is no line.

    is_only: that no position has several, so that the first one found is it.
    """
    lines = islice(lines_at(path, position), 1 if is_only else None)
    return max(lines, default=(0, None))


def lines_at(path: Path, position: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a position, each with the place where it starts, from the likeliest part of the file on."""
    if not path.exists():
        return
    pattern = re.compile(rb'"position": ?%d[,}]' % position)
    with open(path, "rb") as file:
        for start, end in _likeliest(file, position):
            file.seek(start)
            block = file.read(end - start)
            for match in pattern.finditer(block):
                line = _line_around(block, match)
                if _own_position(line) == position:
                    yield start + block.rfind(b"\n", 0, match.start()) + 1, line


def _likeliest(file: BinaryIO, position: int) -> Iterator[tuple[int, int]]:
    """The parts of a file, each of whole lines: those in which a position is if all are in order, then by distance."""
    size = _end_of_lines(file)
    count = size // PART + 1

    def start(part: int) -> int:
        return _line_start(file, size * part // count)

    def first(part: int) -> int:
        return _position_at(file, start(part))

    middle = bisect_right(range(count), position, key=first) - 1
    near = {middle, middle - 1, middle + 1} & set(range(count))
    for part in sorted(near, key=lambda part: abs(part - middle)):
        yield start(part), start(part + 1)
    firsts = [first(part) for part in range(count)]
    distances = {}
    for part in set(range(count)) - near:
        ends = firsts[part : part + 2]
        distances[part] = max(min(ends) - position, position - max(ends), 0)
    for part in sorted(distances, key=distances.__getitem__):
        yield start(part), start(part + 1)


def _line_start(file: BinaryIO, offset: int) -> int:
    """Where the first line begins that does not begin before an offset."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    file.readline()
    return file.tell()


def _position_at(file: BinaryIO, start: int) -> int:
    file.seek(start)
    return _own_position(file.readline())


def _own_position(line: bytes) -> int:
    """The position of a row, or -1 if the line is not a row."""
    own = POSITION.search(line)
    if own is None:
        return -1
    return int(own[1])


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - PART)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0


def _blocks(path: Path, forms: Iterable[bytes] = ()) -> Iterator[bytes]:
    """A file in parts of whole lines, or those in which one of some texts is; what is torn at its end is left out."""
    if not path.exists():
        return
    buffer = bytearray(BLOCK)  # one for all: to copy each part takes as long as to search it
    start = 0
    with open(path, "rb", buffering=0) as file:
        while True:
            file.seek(start)
            size = file.readinto(buffer)
            end = buffer.rfind(b"\n", 0, size) + 1
            if end:
                if not forms or any(buffer.find(form, 0, end) >= 0 for form in forms):
                    yield bytes(memoryview(buffer)[:end])
                start += end
            elif size < len(buffer):
                return
            else:  # a longer line
                buffer = bytearray(2 * size)


def _positions(path: Path) -> Iterator[int]:
    for block in _blocks(path):
        with reading(path):
            yield from (position_of(line, path.name) for line in block.splitlines())


def _line_around(block: bytes, match: re.Match[bytes]) -> bytes:
    return block[block.rfind(b"\n", 0, match.start()) + 1 : block.index(b"\n", match.end())]
