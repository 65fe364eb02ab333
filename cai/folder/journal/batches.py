"""The batches of a run at providers, in its calls.sqlite: what was sent in each, and how far it has come.

Whoever changes something commits it (`Store.flush`) before the step that depends on it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

TABLES = (
    """CREATE TABLE IF NOT EXISTS batch(
    id INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, model TEXT NOT NULL, endpoint TEXT NOT NULL,
    calls INTEGER NOT NULL, wave INTEGER NOT NULL, created_at REAL NOT NULL, file TEXT, name TEXT,
    state TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS batch_item(
    batch INTEGER NOT NULL, place INTEGER NOT NULL, key BLOB NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (batch, place)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS batch_of_key ON batch_item(key)",
)
OPEN, COLLECTED, CLEARED = "open", "collected", "cleared"  # cleared: its files at the provider are deleted, too
COLUMNS = "id, nonce, model, endpoint, calls, wave, created_at, file, name, state"
# Items whose answer is neither kept nor known to be a failure.
UNSETTLED = "batch = ? AND NOT failed AND NOT EXISTS (SELECT 1 FROM calls WHERE calls.key = batch_item.key)"


@dataclass(slots=True)
class Batch:
    """One batch, which is the intent to make it until it has a name."""

    id: int
    nonce: str  # in its file's name and its metadata: by it a batch is found whose name was never heard
    model: str
    endpoint: str
    calls: int
    wave: int
    created_at: float  # unix time of the intent
    file: str | None = None  # the provider's id of the file with the calls; "" if it needs none
    name: str | None = None  # the provider's id of the batch
    state: str = OPEN


class BatchJournal:
    """The tables of batches; they are made by the first batch, so that other runs have none."""

    def __init__(self, db: sqlite3.Connection, guard: AbstractContextManager[None]) -> None:
        self._db, self._guard = db, guard

    def batches(self) -> list[Batch]:
        """All batches, in the order of their intents."""
        with self._guard:
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'batch'").fetchone():
                return []
            return [Batch(*row) for row in self._db.execute(f"SELECT {COLUMNS} FROM batch ORDER BY id")]

    def intend(self, nonce: str, model: str, endpoint: str, keys: Iterable[bytes], wave: int) -> Batch:
        """Note that calls are about to be sent as a batch."""
        keys = list(keys)
        with self._guard:
            for table in TABLES:
                self._db.execute(table)
            query = "INSERT INTO batch(nonce, model, endpoint, calls, wave, created_at, state) VALUES (?,?,?,?,?,?,?)"
            created_at = time.time()
            added = self._db.execute(query, (nonce, model, endpoint, len(keys), wave, created_at, OPEN)).lastrowid
            assert added is not None
            items = ((added, place, key) for place, key in enumerate(keys))
            self._db.executemany("INSERT INTO batch_item VALUES (?, ?, ?, 0)", items)
        return Batch(added, nonce, model, endpoint, len(keys), wave, created_at)

    def note(self, batch: Batch) -> None:
        """Keep what has become known of a batch: its file, its name, its state."""
        with self._guard:
            query = "UPDATE batch SET file = ?, name = ?, state = ? WHERE id = ?"
            self._db.execute(query, (batch.file, batch.name, batch.state, batch.id))

    def keys(self, batch: Batch) -> list[bytes]:
        """The keys of its calls by place."""
        with self._guard:
            query = "SELECT key FROM batch_item WHERE batch = ? ORDER BY place"
            return [key for (key,) in self._db.execute(query, (batch.id,))]

    def unsettled(self, batch: Batch) -> list[bytes]:
        """The keys of its calls whose answer is still there for the taking."""
        with self._guard:
            query = f"SELECT key FROM batch_item WHERE {UNSETTLED}"
            return [key for (key,) in self._db.execute(query, (batch.id,))]

    def fail(self, batch: Batch, keys: Iterable[bytes]) -> None:
        """Note calls to which the batch has no answer that can be kept, if none is kept."""
        with self._guard:
            query = f"UPDATE batch_item SET failed = 1 WHERE {UNSETTLED} AND key = ?"
            self._db.executemany(query, ((batch.id, key) for key in keys))
