"""A run's journal: every finished call in `calls.sqlite`, and rows appended to JSONL files, committed in groups.

It works on the event loop's own thread: what comes within two milliseconds is one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cai.errors import RunError
from cai.folder.files import unwritable
from cai.folder.payloads import PARTS, Parts, join, split, unless_none
from cai.folder.rows import SIZES, Inputs, Lines
from cai.records import Completion, Finish

SCHEMA_VERSION = 2  # 1, of version 0.1.0, has states as numbers
COMMIT_AFTER = 0.002  # seconds, in which more gathers; a commit takes about 0.3 ms of CPU however much it holds
SCHEMA = """
CREATE TABLE IF NOT EXISTS calls(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, skeleton INTEGER NOT NULL, varying TEXT NOT NULL,
    reply INTEGER NOT NULL, finish TEXT NOT NULL, model INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER,
    cached_tokens INTEGER, cache_write_tokens INTEGER, reasoning INTEGER, logprobs BLOB, scores TEXT,
    cost REAL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS charges(cost REAL NOT NULL, at INTEGER NOT NULL);
"""
# The columns of an answer, in the order of the fields of `Completion`; numbers for texts are ids of parts.
ANSWER = (
    "reply, finish, model, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning, logprobs, scores"
)


class StoredCall(NamedTuple):
    """One finished call as `Store.calls` gives it back."""

    key: str  # hex, as in the `calls` column of a row
    request: dict[str, Any]  # provider, name and the exact payload
    completion: Completion
    at: int  # unix time in seconds


class Spent(NamedTuple):
    """What the finished calls of a folder took."""

    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cost_usd: float | None  # None: the price of some call is not known


def read_calls(folder: str | Path) -> Iterator[StoredCall]:
    """Every finished call of a run folder, in the order of finishing; changes nothing, and may look on while it runs.

    Raises RunError if there is no readable calls.sqlite.
    """
    store = Store(Path(folder), read_only=True)
    try:
        yield from store.calls()
    finally:
        store.close()


class _Guard:
    """Turns what SQLite and the file system raise into one line the user can act on.

    After a first failure all calls fail: SQLite may have rolled back what was put before it, so that nothing counts as
    committed any more. (A class, because every statement passes here: a generator costs 2 µs.)
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        if self._store._failure is not None:
            raise self._store._failure

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        store = self._store
        if isinstance(error, (sqlite3.Error, zlib.error, orjson.JSONDecodeError, UnicodeDecodeError)):
            store._failure = store._broken(error)
            raise store._failure from error
        if isinstance(error, OSError):
            store._failure = unwritable(store.folder, error)
            raise store._failure from error


class Store:
    """The journal of one run folder; use it from one thread, under one event loop.

    Raises RunError if the disk is full or the file is damaged; what was committed before stays.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._group: asyncio.Event | None = None
        self._failure: RunError | None = None
        self._closed = False
        self._guard = _Guard(self)
        uri = (folder / "calls.sqlite").resolve().as_uri() + ("?mode=ro" if read_only else "?mode=rwc")
        with self._guard:
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        self._parts = Parts(self._db)
        self._lines = Lines(folder, self._db)
        self.inputs = Inputs(self._db, self._guard, self._due)
        try:
            with self._guard:
                self._prepare(read_only)
        except RunError:
            self._db.close()
            raise

    def _prepare(self, read_only: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (1, SCHEMA_VERSION) and (version or read_only):
            raise RunError(
                f"{self.folder / 'calls.sqlite'} has format {version}, this cai reads 1 to {SCHEMA_VERSION}: "
                "use the version that wrote it, or another --out"
            )
        if not read_only:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(PARTS + SIZES + SCHEMA)
            self.inputs.prepare()
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.commit()

    def _broken(self, error: Exception) -> RunError:
        file, name = self.folder / "calls.sqlite", getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        if name == "SQLITE_FULL":
            return unwritable(self.folder, "the disk is full")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            advice = "move it away and run the same command again: finished rows are kept, other calls asked again"
            return RunError(f"{file} is damaged: {error}; {advice}")
        return RunError(f"{file} cannot be used: {error}; see to the folder and its disk, and try again")

    # Calls

    def get(self, key: bytes) -> Completion | None:
        """The finished call with this key, or None."""
        with self._guard:
            row = self._db.execute(f"SELECT {ANSWER} FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        return self._completion(*row)

    def put(
        self, key: bytes, provider: str, name: str, payload: dict[str, Any], done: Completion, cost: float | None
    ) -> None:
        """Keep a finished call; it is safe once `committed` returns. A key that is already there keeps its answer.

        cost: USD; None if the price is not known.
        """
        varying: list[Any] = []
        skeleton = split({"provider": provider, "name": name, "payload": payload}, varying)
        with self._guard:
            self._db.execute(
                f"INSERT OR IGNORE INTO calls(key, skeleton, varying, {ANSWER}, cost, at)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    key,
                    self._parts.add(orjson.dumps(skeleton).decode()),
                    orjson.dumps([self._parts.refer(value) for value in varying]).decode(),
                    self._parts.add(done.text),
                    done.finish,
                    self._parts.add(done.model),
                    done.input_tokens,
                    done.output_tokens,
                    done.cached_tokens,
                    done.cache_write_tokens,
                    unless_none(self._parts.add, done.reasoning),
                    unless_none(lambda tokens: zlib.compress(orjson.dumps(tokens)), done.logprobs),
                    unless_none(lambda scores: orjson.dumps(scores).decode(), done.scores),
                    cost,
                    int(time.time()),
                ),
            )
        self._due()

    def calls(self) -> Iterator[StoredCall]:
        """Every finished call, in the order of finishing."""
        query = f"SELECT key, skeleton, varying, at, {ANSWER} FROM calls ORDER BY id"
        with self._guard:
            for key, skeleton, varying, at, *answer in self._db.execute(query):
                values = [self._parts.value(value) for value in orjson.loads(varying)]
                request = join(orjson.loads(self._parts.text(skeleton)), iter(values))
                yield StoredCall(key.hex(), request, self._completion(*answer), at)

    def charge(self, cost: float) -> None:
        """Remember USD that went for an answer which cannot be used, and so is not kept."""
        with self._guard:
            self._db.execute("INSERT INTO charges VALUES (?, ?)", (cost, int(time.time())))
        self._due()

    def spent(self) -> Spent:
        """Totals of everything that was paid for."""
        query = (
            "SELECT COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),"
            " COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(cache_write_tokens), 0),"
            " COALESCE(SUM(cost), 0.0), COUNT(cost) FROM calls"
        )
        with self._guard:
            calls, given, made, cached, written, cost, priced = self._db.execute(query).fetchone()
            (lost,) = self._db.execute("SELECT COALESCE(SUM(cost), 0.0) FROM charges").fetchone()
        return Spent(calls, given, made, cached, written, cost + lost if priced == calls else None)

    def _completion(self, reply: int, finish: Finish, model: int, *rest: Any) -> Completion:
        """A completion from the columns of `ANSWER`."""
        given, made, cached, written, reasoning, logprobs, scores = rest
        return Completion(
            self._parts.text(reply),
            finish,
            self._parts.text(model),
            given,
            made,
            cached,
            written,
            unless_none(self._parts.text, reasoning),
            unless_none(lambda packed: tuple(orjson.loads(zlib.decompress(packed))), logprobs),
            unless_none(lambda scores: tuple(orjson.loads(scores)), scores),
        )

    # Rows

    def forget_inputs(self) -> None:
        """Forget what was read, and which lines are committed; calls stay."""
        with self._guard:
            for table in ("inputs", "seen", "files"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.commit()

    def append(self, name: str, line: bytes) -> None:
        """Add a line to a JSONL file of the folder; it is safe once `committed` returns."""
        self._lines.add(name, line)
        self._due()

    def unseen_lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file that were written but not committed (a kill between the two): see `Lines.unseen`."""
        with self._guard:
            yield from self._lines.unseen(name)

    def is_shorter(self, name: str) -> bool:
        """Whether a file has lost committed lines."""
        with self._guard:
            return self._lines.is_shorter(name)

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file at once; `lines` may read the one it replaces."""
        with self._guard:
            self._lines.rewrite(name, lines)

    def _due(self) -> None:
        if self._group is None:
            self._group = asyncio.Event()
            asyncio.get_running_loop().call_later(COMMIT_AFTER, self._commit)

    async def committed(self) -> None:
        """Returns when everything put or appended so far is on disk."""
        if self._group is not None:
            await self._group.wait()
        if self._failure is not None:
            raise self._failure

    def _commit(self) -> None:
        group, self._group = self._group, None
        try:
            if self._failure is None and not self._closed:
                self._write()
        except RunError as error:
            self._failure = error
        finally:
            if group is not None:
                group.set()

    def _write(self) -> None:
        """Lines first, then the transaction: a kill between the two leaves lines that `unseen_lines` finds."""
        with self._guard:
            self._lines.write()
            self._db.commit()

    def close(self) -> None:
        """Commit what is pending and release the files; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failure is None:
                self._write()
        finally:
            self._lines.close()
            self._db.close()
