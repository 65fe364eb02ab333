"""The inputs that other shards of a run play: which contents and ids they take before the run comes to its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager

AT_ONCE = 1_000  # inputs that are entered together, which takes a third of the time
TABLE = "CREATE TEMP TABLE elsewhere(hash BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID"
FIRST = "SELECT position FROM temp.elsewhere WHERE hash = ?"
UNSEEN = "NOT EXISTS (SELECT 1 FROM main.seen WHERE hash = {})"
# An input takes its content if nothing before it has that, and only then its id.
TAKE = (
    f"INSERT OR IGNORE INTO temp.elsewhere SELECT ?2, ?1 WHERE {UNSEEN.format('?2')}",
    "INSERT OR IGNORE INTO temp.elsewhere SELECT ?3, ?1 "
    f"WHERE (SELECT position FROM temp.elsewhere WHERE hash = ?2) = ?1 AND {UNSEEN.format('?3')}",
)


class Elsewhere:
    """What is known of them lasts as long as the session, which reads the source from its start."""

    def __init__(self, db: sqlite3.Connection, guard: AbstractContextManager[None]) -> None:
        self._db, self._guard = db, guard
        self._waiting: list[tuple[int, bytes, bytes | None]] = []  # position, content, and the id if it has its own
        with guard:
            db.execute(TABLE)

    def add(self, position: int, names: Sequence[bytes]) -> None:
        """Let an input take its names, its content first, after those before it."""
        content, *ids = names
        self._waiting.append((position, content, ids[0] if ids else None))
        if len(self._waiting) >= AT_ONCE:
            self._enter()

    def first(self, name: bytes) -> int | None:
        """The position of the input that has taken a name; None if none has."""
        if self._waiting:
            self._enter()
        with self._guard:
            entry = self._db.execute(FIRST, (name,)).fetchone()
        return None if entry is None else int(entry[0])

    def _enter(self) -> None:
        waiting, self._waiting = self._waiting, []
        content, name = TAKE
        with self._guard:
            self._db.executemany(content, (each[:2] for each in waiting))
            self._db.executemany(name, [each for each in waiting if each[2] is not None])
