"""A run's journal: every finished call in `calls.sqlite`, each text kept once, and rows, committed in groups.

It works on the event loop's own thread: what comes within two milliseconds is one transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cai.errors import RunError
from cai.folder.answers import count, finish, log_probabilities, log_probability
from cai.folder.files import Guard
from cai.folder.rows import TABLES, Rows
from cai.records import Completion, Values

# The values of a payload that differ from call to call; the rest, the skeleton, is shared by thousands of calls.
VARYING = frozenset({"content", "text", "prompt", "system", "seed", "id", "index", "sample"})
COMPRESS_FROM = 160  # bytes; zlib makes shorter English texts longer, or saves less than it costs
PIECES_FROM = 1_000  # characters; a longer text is stored by paragraph, which the next turn of its chain repeats
REMEMBERED_PARTS = 8_192
SCHEMA_VERSION = 2  # 1, of version 0.1.0, has states as numbers
COMMIT_AFTER = 0.002  # seconds, in which more gathers; a commit takes about 0.3 ms of CPU however much it holds
SCHEMA = """
CREATE TABLE IF NOT EXISTS parts(id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body NOT NULL);
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


def canonical_call(provider: str, name: str, payload: Values, sample: int) -> bytes:
    """The text that a call's key is the hash of: provider, model, exact payload and sample index; never the URL."""
    return orjson.dumps([provider, name, payload, sample], option=orjson.OPT_SORT_KEYS)


def call_key(canonical: bytes) -> bytes:
    """The 16 bytes that name a call: a prefix of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical).digest()[:16]


def each_varying(value: Any, change: Callable[[Any], Any]) -> Any:
    """A payload with every varying value changed, in order; with all of them None it is its own skeleton."""
    if isinstance(value, list | tuple):
        return [each_varying(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {}
    for key, item in value.items():
        if key in VARYING and isinstance(item, str | int | float | None):
            changed[key] = change(item)
        else:
            changed[key] = each_varying(item, change)
    return changed


def unless_none(convert: Callable[[Any], Any], value: Any) -> Any:
    """What `convert` makes of a value; None for None."""
    return None if value is None else convert(value)


class StoredCall(NamedTuple):
    """One finished call as `Store.calls` gives it back."""

    key: str  # hex, as in the `calls` column of a row
    request: Values  # provider, name and the exact payload as JSON: a tuple comes back as a list
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
    with closing(Store(Path(folder), read_only=True)) as store:
        yield from store.calls()


def cost_of(folder: Path) -> float | None:
    """USD that the finished calls of a folder cost, 0 if it holds none; None if the price of some call is not known."""
    if not (folder / "calls.sqlite").exists():
        return 0.0
    with closing(Store(folder, read_only=True)) as store:
        return store.spent().cost_usd


class Store:
    """The journal of one run folder; use it from one thread, under one event loop.

    Raises RunError if the disk is full or the file is damaged; what was committed before stays.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._group: asyncio.Event | None = None
        self._closed = False
        self._guard = Guard(folder)
        mode = "ro" if read_only else "rwc"
        uri = f"{(folder / 'calls.sqlite').resolve().as_uri()}?mode={mode}"
        with self._guard, ExitStack() as opened:
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            opened.callback(self._db.close)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (1, SCHEMA_VERSION) and (version or read_only):
                raise RunError(
                    f"{folder / 'calls.sqlite'} has format {version}, this cai reads 1 to {SCHEMA_VERSION}: "
                    "use the version that wrote it, or another --out"
                )
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(SCHEMA + TABLES)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                self._db.commit()
            opened.pop_all()
        self._parts: dict[bytes, int] = {}  # ids by hash: texts can be megabytes
        self.rows = Rows(folder, self._db, self._guard, self._due)

    def get(self, key: bytes) -> Completion | None:
        """The finished call with this key, or None."""
        with self._guard:
            row = self._db.execute(f"SELECT {ANSWER} FROM calls WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            return self._completion(row)

    def put(self, key: bytes, provider: str, name: str, payload: Values, done: Completion, cost: float | None) -> None:
        """Keep a finished call; it is safe once `committed` returns. A key that is already there keeps its answer.

        cost: USD; None if the price is not known.
        """
        varying: list[Any] = []  # `append` returns None, which stands for the value in the skeleton
        skeleton = each_varying({"provider": provider, "name": name, "payload": payload}, varying.append)
        with self._guard:
            self._db.execute(
                f"INSERT OR IGNORE INTO calls(key, skeleton, varying, {ANSWER}, cost, at) VALUES (?{',?' * 14})",
                (
                    key,
                    self._part(orjson.dumps(skeleton).decode()),
                    orjson.dumps(list(map(self._refer, varying))).decode(),
                    self._part(done.text),
                    done.finish,
                    self._part(done.model),
                    done.input_tokens,
                    done.output_tokens,
                    done.cached_tokens,
                    done.cache_write_tokens,
                    unless_none(self._part, done.reasoning),
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
                yield StoredCall(key.hex(), self._request(skeleton, varying), self._completion(answer), at)

    def charge(self, cost: float) -> None:
        """Remember USD that were paid for an answer that cannot be used, and so is not kept."""
        with self._guard:
            self._db.execute("INSERT INTO charges VALUES (?, ?)", (cost, int(time.time())))
        self._due()

    def spent(self) -> Spent:
        """Totals of everything that was paid for."""
        query = (
            "SELECT COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),"
            " COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(cache_write_tokens), 0),"
            " CASE WHEN COUNT(cost) = COUNT(*) THEN TOTAL(cost) + (SELECT TOTAL(cost) FROM charges) END FROM calls"
        )
        with self._guard:
            return Spent(*self._db.execute(query).fetchone())

    # Texts, each kept once: the later calls of a chain repeat its earlier turns

    def _part(self, text: str) -> int:
        """The id of a text, which is stored if it is new."""
        raw = text.encode()
        digest = hashlib.sha256(raw).digest()[:12]
        if digest in self._parts:
            return self._parts[digest]
        body = zlib.compress(raw, 6) if len(raw) >= COMPRESS_FROM else text
        # Most texts are new: to insert at once saves the search.
        query = "INSERT INTO parts(hash, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET hash = hash RETURNING id"
        (added,) = self._db.execute(query, (digest, body)).fetchone()
        if len(self._parts) >= REMEMBERED_PARTS:
            self._parts.clear()
        self._parts[digest] = added
        return int(added)

    def _text(self, part: int) -> str:
        """The text with this id."""
        (body,) = self._db.execute("SELECT body FROM parts WHERE id = ?", (part,)).fetchone()
        if isinstance(body, bytes):
            return zlib.decompress(body).decode()
        return str(body)

    def _refer(self, value: str | float | None) -> Any:
        """A varying value as a call holds it: a part id, a list of part ids, or the value itself in an object."""
        if not isinstance(value, str):
            return {"is": value}
        if len(value) < PIECES_FROM:
            return self._part(value)
        return list(map(self._part, value.split("\n\n")))

    def _value(self, reference: Any) -> Any:
        """The varying value that `_refer` was given."""
        if isinstance(reference, dict):
            return reference["is"]
        if isinstance(reference, list):
            return "\n\n".join(map(self._text, reference))
        return self._text(reference)

    def _request(self, skeleton: int, varying: str) -> Any:
        values = map(self._value, orjson.loads(varying))
        return each_varying(orjson.loads(self._text(skeleton)), lambda _: next(values))

    def _completion(self, answer: Sequence[Any]) -> Completion:
        """A completion from the columns of `ANSWER`."""
        reply, ended, model, *tokens, reasoning, logprobs, scores = answer
        more: tuple[Any, ...] = (
            *map(count, tokens),
            unless_none(self._text, reasoning),
            unless_none(lambda packed: tuple(map(log_probabilities, orjson.loads(zlib.decompress(packed)))), logprobs),
            unless_none(lambda text: tuple(map(log_probability, orjson.loads(text))), scores),
        )
        return Completion(self._text(reply), finish(ended), self._text(model), *more)

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

    def _commit(self, group: asyncio.Event) -> None:
        self._group = None
        try:
            with suppress(RunError):  # which `committed` raises
                if not self._closed:
                    self._write()
        finally:
            group.set()

    def _write(self) -> None:
        """Lines first, then the transaction: a kill between the two leaves lines that `Rows.unseen` finds."""
        with self._guard:
            self.rows.write()
            self._db.commit()

    def close(self) -> None:
        """Commit what is pending and release the files; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._guard.failure is None:
                self._write()
        finally:
            self.rows.close()
            self._db.close()
