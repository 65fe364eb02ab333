"""A run's journal: every finished call in `calls.sqlite`, each text kept once, and rows, committed in groups.

It works on the event loop's own thread: what comes within two milliseconds is one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cai.errors import RunError
from cai.folder.journal.answers import count, finish, log_probabilities, log_probability
from cai.folder.journal.durability import held_alone, is_settled, make_durable
from cai.folder.journal.guard import Guard
from cai.folder.journal.payloads import REUSED, Spent, Texts, each_varying, sound, spent, unless_none
from cai.folder.journal.rows import TABLES, Rows
from cai.folder.journal.unwritten import SEALED, Finished, Settled, Unwritten
from cai.records import Completion, Values

SCHEMA_VERSION = 2  # 1, of version 0.1.0, has states as numbers
COMMIT_AFTER = 0.002  # seconds, in which more gathers; a commit takes about as long, however much it holds
SCHEMA = """
CREATE TABLE IF NOT EXISTS parts(id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body NOT NULL);
CREATE TABLE IF NOT EXISTS calls(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, skeleton INTEGER NOT NULL, varying TEXT NOT NULL,
    reply INTEGER NOT NULL, finish TEXT NOT NULL, model INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER,
    cached_tokens INTEGER, cache_write_tokens INTEGER, reasoning INTEGER, logprobs BLOB, scores TEXT,
    cost REAL, at INTEGER NOT NULL, seal BLOB);
CREATE TABLE IF NOT EXISTS charges(cost REAL NOT NULL, at INTEGER NOT NULL);
"""
LIMITS = ("max_tokens", "max_completion_tokens")  # of a payload: the most tokens of its answer, as providers name it


class StoredCall(NamedTuple):
    """One finished call as `Store.calls` gives it back."""

    key: str  # hex, as in the `calls` column of a row
    request: Values  # provider, name and the exact payload as JSON: a tuple comes back as a list
    completion: Completion
    at: int  # unix time in seconds
    cost_usd: float | None = None  # None: the price is not known


def read_calls(folder: str | Path) -> Iterator[StoredCall]:
    """Every finished call of a run folder, in the order of finishing; changes nothing, and may look on while it runs.

    Raises RunError if there is no readable calls.sqlite.
    """
    for each in sorted(path.parent for path in Path(folder).glob("shards/*/calls.sqlite")) or [Path(folder)]:
        with closing(Store(each, read_only=True)) as store:
            yield from store.calls()


def cost_of(folder: Path) -> float | None:
    """USD that the finished calls of a folder cost, 0 if it holds none; None if the price of some call is not known."""
    if not (folder / "calls.sqlite").exists():
        return 0.0
    with closing(Store(folder, read_only=True)) as store:
        return store.spent().cost_usd


class Store:
    """The journal of one run folder; use it from one thread, under one event loop.

    briefly: reads only, and for so short a time that nobody begins to write: leaves nothing of SQLite's in the folder.
    Raises RunError if the disk is full or the file is damaged; what was committed before stays.
    """

    def __init__(self, folder: Path, *, read_only: bool = False, briefly: bool = False) -> None:
        self._group: asyncio.Event | None = None
        self._after: list[Callable[[], None]] = []  # called once the present group is on disk
        self._closed = False
        self._guard = Guard(folder)
        read_only |= briefly
        mode = "ro" if read_only else "rwc"
        if briefly and is_settled(folder):
            mode = "ro&immutable=1"
        uri = f"{(folder / 'calls.sqlite').resolve().as_uri()}?mode={mode}"
        with self._guard, ExitStack() as opened:
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            opened.callback(lambda: self._db.close())
            alone = not read_only and held_alone(self._db, folder)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if read_only and not version and self._db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                read_only = False  # its run ended before it began: nothing is there, and nothing is written
                self._db.close()
                self._db = sqlite3.connect(":memory:", check_same_thread=False)
            if version not in (1, SCHEMA_VERSION) and (version or read_only):
                raise RunError(
                    f"{folder / 'calls.sqlite'} has format {version}, this cai reads 1 to {SCHEMA_VERSION}: "
                    "use the version that wrote it, or another --out"
                )
            if not read_only:
                make_durable(self._db, alone)
                self._db.executescript(
                    f"BEGIN; {SCHEMA} {REUSED} {TABLES} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
                )
            self._seal = self._seal_column(read_only)
            opened.pop_all()
        self._texts = Texts(self._db)
        self._unwritten = Unwritten(self._db, self._texts)
        self._settled = Settled(self._guard, self._unwritten)
        self.rows = Rows(folder, self._db, self._settled, self._due)

    def _seal_column(self, read_only: bool) -> str:
        """How the seal of a call is asked for: a journal of 0.1.0 has none, and gets the column once it is written."""
        if "seal" in {name for _, name, *_ in self._db.execute("PRAGMA table_info(calls)")}:
            return "seal"
        if not read_only:
            self._db.execute("ALTER TABLE calls ADD COLUMN seal BLOB")
        return "NULL" if read_only else "seal"

    def get(self, key: bytes) -> Completion | None:
        """The finished call with this key, or None."""
        with self._settled if key in self._unwritten else self._guard:
            row = self._db.execute(f"SELECT {self._seal}, {SEALED} FROM calls WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            seal, *columns = row
            with sound(key, seal, columns):
                return self._completion(columns[2:-1])

    def put(self, key: bytes, provider: str, name: str, payload: Values, done: Completion, cost: float | None) -> None:
        """Keep a finished call; it is safe once `committed` returns. A key that is already there keeps its answer.

        cost: USD; None if the price is not known.
        """
        with self._guard:
            self._unwritten.add(key, Finished(provider, name, payload, done, cost, int(time.time())))
        self._due()

    def copy(self, key: bytes, provider: str, name: str, payload: Values, done: Completion) -> None:
        """Keep a call of another run, which cost nothing here."""
        self.put(key, provider, name, payload, done, 0.0)
        with self._guard:
            self._db.execute("INSERT OR IGNORE INTO reused VALUES (?)", (key,))

    def discard(self, key: bytes) -> None:
        """Forget the answer to a call that was asked again; what it cost stays."""
        with self._settled:
            query = "INSERT INTO charges SELECT cost, ? FROM calls WHERE key = ? AND cost IS NOT NULL"
            self._db.execute(query, (int(time.time()), key))
            for table in ("calls", "reused"):
                self._db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    def limits(self) -> list[int]:
        """The limits of tokens that its calls have, the highest first; reads every call."""
        limits = set[int]()
        with self._settled:
            for (part,) in self._db.execute("SELECT DISTINCT skeleton FROM calls").fetchall():
                payload = orjson.loads(self._texts.text(part))["payload"]
                limits.update(payload[name] for name in LIMITS if type(payload.get(name)) is int)
        return sorted(limits, reverse=True)

    def has_all(self, keys: Sequence[str]) -> bool:
        """Whether every call of a row is there; keys: in hex, as the row has them, which may be 100,000."""
        query = "SELECT 1 FROM calls WHERE key = ?"
        with self._settled:
            return all(self._db.execute(query, (bytes.fromhex(key),)).fetchone() for key in keys)

    def is_empty(self) -> bool:
        """Whether no call is there."""
        with self._settled:
            return self._db.execute("SELECT 1 FROM calls LIMIT 1").fetchone() is None

    def cut_calls(self) -> set[str]:
        """The keys of the calls whose answer was cut, in hex as a row has them."""
        with self._settled:
            return {key.hex() for (key,) in self._db.execute("SELECT key FROM calls WHERE finish = 'length'")}

    def calls(self) -> Iterator[StoredCall]:
        """Every finished call, in the order of finishing."""
        query = f"SELECT key, at, {self._seal}, {SEALED} FROM calls ORDER BY id"
        with self._settled:
            yield from map(self._stored, self._db.execute(query))

    def call(self, key: str) -> StoredCall | None:
        """The finished call with this key, in hex as a row has it; None if it is not there."""
        query = f"SELECT key, at, {self._seal}, {SEALED} FROM calls WHERE key = ?"
        with self._settled:
            row = self._db.execute(query, (bytes.fromhex(key),)).fetchone()
            return None if row is None else self._stored(row)

    def _stored(self, row: Sequence[Any]) -> StoredCall:
        key, at, seal, *columns = row
        with sound(key, seal, columns):
            request, completion = self._request(*columns[:2]), self._completion(columns[2:-1])
            return StoredCall(key.hex(), request, completion, at, columns[-1])

    def charge(self, cost: float) -> None:
        """Remember USD that were paid for an answer that cannot be used, and so is not kept."""
        with self._guard:
            self._db.execute("INSERT INTO charges VALUES (?, ?)", (cost, int(time.time())))
        self._due()

    def spent(self) -> Spent:
        """Totals of everything that was paid for."""
        with self._settled:
            return spent(self._db)

    def _request(self, skeleton: int, varying: str) -> Any:
        values = map(self._texts.value, orjson.loads(varying))
        return each_varying(orjson.loads(self._texts.text(skeleton)), lambda _: next(values))

    def _completion(self, answer: Sequence[Any]) -> Completion:
        """A completion from the columns of `ANSWER`."""
        reply, ended, model, *tokens, reasoning, logprobs, scores = answer
        more: tuple[Any, ...] = (
            *map(count, tokens),
            unless_none(self._texts.text, reasoning),
            unless_none(lambda packed: tuple(map(log_probabilities, orjson.loads(zlib.decompress(packed)))), logprobs),
            unless_none(lambda text: tuple(map(log_probability, orjson.loads(text))), scores),
        )
        return Completion(self._texts.text(reply), finish(ended), self._texts.text(model), *more)

    def _due(self) -> None:
        if self._group is None:
            self._group = asyncio.Event()
            asyncio.get_running_loop().call_later(COMMIT_AFTER, self._commit, self._group)

    async def committed(self) -> None:
        """Returns when everything put or appended so far is on disk."""
        if self._group is not None:
            await self._group.wait()
        if self._guard.failure is not None:
            raise self._guard.failure

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` called once everything put so far is on disk, or cannot be written."""
        self._after.append(call)
        self._due()

    def _commit(self, group: asyncio.Event) -> None:
        self._group = None
        after, self._after = self._after, []
        try:
            with suppress(RunError):  # which `committed` raises
                if not self._closed:
                    self._write()
        finally:
            group.set()
            for call in after:
                call()

    def _write(self) -> None:
        """The calls first, then the lines that name them; what became of their inputs is in the next transaction.

        A kill in between leaves calls that are not paid again, or lines that `Rows.unseen` finds.
        """
        with self._settled:
            self._db.commit()
            self.rows.write()

    def flush(self) -> None:
        """Write and commit what is pending."""
        self._write()
        with self._guard:
            self._db.commit()

    def close(self) -> None:
        """Commit what is pending and release the files; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._guard.failure is None:
                self.flush()
        finally:
            self.rows.close()
            self._db.close()
