"""The entries of a source: where each is, and its values; a table in a file of SQLite that goes with the process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from cai.viewer.facets import DROPPED, GROUPS, KEPT, LEFT_OUT, UNREADABLE, Facet, Facets
from cai.viewer.growing import Line

ROWS, DROPS = 0, 1  # the files of a source
START_BITS = 48  # of a number: where the line starts; above them its file
MOST_REASONS = 20  # why a row is not in files
CACHE = 16_000  # KiB of the tables that are kept in memory
SETTINGS = f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE}"
BITS = ", ".join(GROUPS)
# The order of lists is looked up with all values beside it: a filter then passes over entries four times as fast.
TABLES = (
    "CREATE TABLE entries{0}("
    "number INTEGER PRIMARY KEY, position INTEGER NOT NULL, line INTEGER NOT NULL, size INTEGER NOT NULL, {1})",
    "CREATE INDEX in_order{0} ON entries{0}(position, number, {2})",
    "CREATE TABLE left_out{0}(position INTEGER, reason TEXT, PRIMARY KEY(position, reason)) WITHOUT ROWID",
    "CREATE TABLE superseded{0}(number INTEGER PRIMARY KEY, position INTEGER NOT NULL)",
)
OF_FILE = "number BETWEEN ? AND ?"


def open_tables() -> sqlite3.Connection:
    """A database without a name, for one thread at a time; it is one transaction, since all of it goes at the end."""
    db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    db.executescript(SETTINGS)
    db.execute("BEGIN")  # to commit every word takes twice as long
    return db


def numbers_of(file: int, start: int = 0) -> tuple[int, int]:
    """The lowest and the highest number of the lines of a file from some byte on."""
    return file << START_BITS | start, (file + 1 << START_BITS) - 1


class Place(NamedTuple):
    """Where an entry is."""

    number: int  # names it in its source: file and start of its line
    position: int
    line: int  # from 1
    size: int
    bits: tuple[int, ...]  # of its values, by group

    @property
    def file(self) -> int:
        """ROWS or DROPS."""
        return self.number >> START_BITS

    @property
    def start(self) -> int:
        """Where its line starts."""
        return self.number & (1 << START_BITS) - 1


class Condition(NamedTuple):
    """A condition on entries in SQL."""

    sql: str
    parameters: Sequence[object] = ()

    def and_(self, other: Condition) -> Condition:
        """That both hold."""
        return Condition(f"{self.sql} AND {other.sql}", (*self.parameters, *other.parameters))

    def in_order(self) -> Condition:
        """The same, not to be looked for by an index: the first that fit come soon if most do."""
        return Condition(f"+{self.sql}", self.parameters)


class Entries:
    """The entries of one source. table: the number of the source. hidden: drops and rows that were entries before."""

    def __init__(self, db: sqlite3.Connection, table: int) -> None:
        self.facets = Facets()
        self.hidden = 0
        self._db, self._table, self._left_out = db, f"entries{table}", f"left_out{table}"
        self._superseded = f"superseded{table}"
        self._highest = -1  # position of a row
        columns = ", ".join(f"{group} INTEGER NOT NULL" for group in GROUPS)
        for statement in TABLES:
            db.execute(statement.format(table, columns, BITS))
        self._insertion = f"INSERT INTO {self._table} VALUES (?,?,?,?{',?' * len(GROUPS)})"

    # What comes and goes

    def add_row(self, line: Line, position: int, facets: Iterable[Facet]) -> None:
        """A row; what was dropped at its position was tried again, and no longer counts."""
        if self.facets.total("status", DROPPED):
            dropped = self.having({"status": DROPPED})
            self.hidden += self._remove(dropped.and_(Condition("position = ?", [position])))
        self._highest = max(self._highest, position)
        self._insert(ROWS, line, position, [*self._standing(position), *facets])

    def supersede(self, position: int) -> list[Place]:
        """The rows so far at a position, to which a longer one has come: they are no entries any more."""
        if position > self._highest:  # as of most rows, which come about in order
            return []
        places = list(self._rows_at(position))
        for place in places:
            self.hidden += self._remove(Condition("number = ?", [place.number]))
            self._db.execute(f"INSERT INTO {self._superseded} VALUES (?,?)", (place.number, position))
        return places

    def latest(self, number: int) -> int:
        """The number of an entry; of a row that has been superseded since, that of the row in its place."""
        query = f"SELECT position FROM {self._superseded} WHERE number = ?"
        for (position,) in self._db.execute(query, (number,)).fetchall():
            for place in self._rows_at(position):
                return place.number
        return number

    def add_drop(self, line: Line, position: int, facets: Iterable[Facet]) -> None:
        """What became no row, unless it has become one since."""
        if not any(self._rows_at(position)):
            self._insert(DROPS, line, position, [("status", DROPPED), *facets])

    def add_unreadable(self, file: int, line: Line, position: int) -> None:
        """A line that is not a row; it is listed behind the row before it, whose position it has."""
        self._insert(file, line, position, [("status", UNREADABLE)])

    def leave_out(self, position: int, reason: str) -> None:
        """A row, which may be yet to come, is not in a training file."""
        reasons = self.reasons(position)
        if reason in reasons or len(reasons) >= MOST_REASONS:  # kto.jsonl leaves out replies, of which a pair has two
            return
        self._db.execute(f"INSERT INTO {self._left_out} VALUES (?,?)", (position, reason))
        standing = self._standing(position)
        for place in list(self._rows_at(position)):
            self.change(place, ("status", "reason"), standing)

    def change(self, place: Place, groups: Sequence[str], facets: Iterable[Facet]) -> None:
        """An entry has these values, and no others, in some groups."""
        fresh = self.facets.bits(facets)
        bits = [new if group in groups else old for group, new, old in zip(GROUPS, fresh, place.bits, strict=True)]
        self.facets.count(place.bits, -1)
        self.facets.count(bits)
        columns = f"({BITS}) = (?{',?' * (len(GROUPS) - 1)})"
        self._db.execute(f"UPDATE {self._table} SET {columns} WHERE number = ?", (*bits, place.number))

    def forget(self) -> None:
        """The files are no longer those that were read."""
        self.facets = Facets()
        self.hidden, self._highest = 0, -1
        for table in (self._table, self._left_out, self._superseded):
            self._db.execute(f"DELETE FROM {table}")

    def forget_drops(self) -> None:
        """The file of drops is no longer the one that was read."""
        self._remove(Condition(OF_FILE, numbers_of(DROPS)))
        self.hidden = 0
        self._db.execute(f"DELETE FROM {self._left_out}")
        kept, left_out = self.facets.keep_all()
        self._db.execute(f"UPDATE {self._table} SET status = ?, reason = 0 WHERE status = ?", (kept, left_out))

    def _insert(self, file: int, line: Line, position: int, facets: Iterable[Facet]) -> None:
        bits = self.facets.bits(facets)
        self._db.execute(self._insertion, (numbers_of(file, line.start)[0], position, line.number, line.size, *bits))
        self.facets.count(bits)

    def _remove(self, condition: Condition) -> int:
        for place in self.select(condition):
            self.facets.count(place.bits, -1)
        return self._db.execute(f"DELETE FROM {self._table} WHERE {condition.sql}", condition.parameters).rowcount

    def _standing(self, position: int) -> list[Facet]:
        """Whether the row at a position is in all training files, and why not."""
        reasons = self.reasons(position)
        return [("status", LEFT_OUT if reasons else KEPT), *(("reason", reason) for reason in reasons)]

    # What is asked for

    def reasons(self, position: int) -> list[str]:
        """Why the row at a position is not in training files."""
        query = f"SELECT reason FROM {self._left_out} WHERE position = ?"
        return [reason for (reason,) in self._db.execute(query, (position,))]

    def select(
        self, condition: Condition, order: str = "position, number", limit: Sequence[int] = (-1, 0)
    ) -> Iterator[Place]:
        """The entries of which a condition holds; limit: how many, after how many others."""
        query = f"SELECT * FROM {self._table} WHERE {condition.sql} ORDER BY {order} LIMIT ? OFFSET ?"
        for number, position, line, size, *bits in self._db.execute(query, (*condition.parameters, *limit)):
            yield Place(number, position, line, size, tuple(bits))

    def count(self, condition: Condition) -> int:
        """How many there are of which a condition holds."""
        query = f"SELECT COUNT(*) FROM {self._table} NOT INDEXED WHERE {condition.sql}"
        (number,) = self._db.execute(query, condition.parameters).fetchone()
        return int(number)

    def total(self, values: Mapping[str, str]) -> int:
        """How many have these values, by group."""
        if not values:
            return sum(self.facets.counts().get("status", {}).values())
        if len(values) == 1:
            return self.facets.total(*next(iter(values.items())))
        return self.count(self.having(values))

    def having(self, values: Mapping[str, str]) -> Condition:
        """The condition that entries have these values, by group; of one that none has, it never holds."""
        conditions, bits = [], []
        for group, value in values.items():
            bit = self.facets.bit(group, value)
            conditions.append(f"{group} & ?" if bit else "0")  # an unknown group has no bit, so that SQL names none
            bits += [bit] * bool(bit)
        return Condition(" AND ".join(conditions) or "1", bits)

    def _rows_at(self, position: int) -> Iterator[Place]:
        """The rows at a position, which are several if several people wrote lines of one."""
        unreadable = self.facets.bit("status", UNREADABLE)
        where = Condition(f"position = ? AND {OF_FILE} AND status != ?", (position, *numbers_of(ROWS), unreadable))
        return self.select(where)
