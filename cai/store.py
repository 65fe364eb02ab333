"""A run's journal: every finished call in `calls.sqlite`, and rows appended to JSONL files, committed in groups.

Texts are stored once, by content: the later calls of a chain repeat its earlier turns. Knows calls, positions and
lines; nothing of what a row means. It works on the event loop's own thread: whatever has queued when the loop comes
round is one transaction.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from cai.errors import RunError
from cai.records import Completion, Finish

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS parts(id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body NOT NULL);
CREATE TABLE IF NOT EXISTS calls(
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, skeleton INTEGER NOT NULL, varying TEXT NOT NULL,
    reply INTEGER NOT NULL, finish TEXT NOT NULL, model INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER,
    cached_tokens INTEGER, cache_write_tokens INTEGER, reasoning INTEGER, logprobs BLOB, scores TEXT,
    at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS inputs(position INTEGER PRIMARY KEY, hash BLOB NOT NULL, state INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen(hash BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, size INTEGER NOT NULL);
"""
# The columns of an answer, in the order of the fields of `Completion`; numbers for texts are ids of parts.
ANSWER = (
    "reply, finish, model, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning, logprobs, scores"
)
# The values of a payload that differ from call to call; the rest, the skeleton, is shared by thousands of calls.
VARYING = frozenset({"content", "text", "prompt", "system", "seed", "id", "index", "sample"})
COMPRESS_FROM = 160  # bytes; zlib makes shorter English texts longer, or saves less than it costs
PIECES_FROM = 1_000  # characters; a longer completion prompt is stored by paragraph, which its next turn repeats
REMEMBERED_PARTS = 8_192


def canonical_call(provider: str, name: str, payload: dict[str, Any], sample: int) -> bytes:
    """The text that a call's key is the hash of: provider, model, exact payload and sample index; never the URL."""
    return orjson.dumps([provider, name, payload, sample], option=orjson.OPT_SORT_KEYS)


def call_key(canonical: bytes) -> bytes:
    """The 16 bytes that name a call: a prefix of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical).digest()[:16]


def _split(value: Any, varying: list[Any]) -> Any:
    """The skeleton of a payload: null stands for each varying value, which is appended to `varying` in order."""
    if isinstance(value, dict):
        skeleton: dict[str, Any] = {}
        for key, item in value.items():
            if key in VARYING and (item is None or isinstance(item, str | int)):
                varying.append(item)
                skeleton[key] = None
            else:
                skeleton[key] = _split(item, varying)
        return skeleton
    if isinstance(value, list | tuple):
        return [_split(item, varying) for item in value]
    return value


def _join(skeleton: Any, varying: Iterator[Any]) -> Any:
    """The payload that `_split` took apart."""
    if isinstance(skeleton, dict):
        return {
            key: next(varying) if item is None and key in VARYING else _join(item, varying)
            for key, item in skeleton.items()
        }
    return [_join(item, varying) for item in skeleton] if isinstance(skeleton, list) else skeleton


def _pack(text: str) -> str | bytes:
    """A text as SQLite keeps it: plain TEXT when short, a compressed BLOB when long."""
    raw = text.encode()
    return zlib.compress(raw, 6) if len(raw) >= COMPRESS_FROM else text


def _unpack(body: str | bytes) -> str:
    return body if isinstance(body, str) else zlib.decompress(body).decode()


class StoredCall(NamedTuple):
    """One finished call as `Store.calls` gives it back."""

    key: str  # hex, as in the `calls` column of a row
    request: dict[str, Any]  # provider, name and the exact payload
    completion: Completion
    at: int  # unix time in seconds


class Spent(NamedTuple):
    """What the finished calls to one model took."""

    provider: str
    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int


def read_calls(folder: str | Path) -> Iterator[StoredCall]:
    """Every finished call of a run folder, in the order of finishing; changes nothing, and may look on while it runs.

    Raises RunError where there is no readable calls.sqlite.
    """
    store = Store(Path(folder), read_only=True)
    try:
        yield from store.calls()
    finally:
        store.close()


class Store:
    """The journal of one run folder; use it from one thread, under one event loop.

    Raises RunError where the disk is full or the file is damaged; what was committed before stays.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._parts: dict[str, int] = {}
        self._files: dict[str, BinaryIO] = {}
        self._lines: dict[str, list[bytes]] = {}
        self._group: asyncio.Event | None = None
        self._failure: RunError | None = None
        self._closed = False
        place = f"{(folder / 'calls.sqlite').resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        with self._guard():
            self._db = sqlite3.connect(place, uri=True, check_same_thread=False)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise RunError(
                    f"{folder / 'calls.sqlite'} has format {version}, this cai reads {SCHEMA_VERSION}: "
                    "use the version that wrote it, or another --out"
                )
            if read_only:
                return
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            self._db.commit()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turns what SQLite and the file system raise into one line the user can act on."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                raise RunError(f"disk full: {self.folder}; free some space and run the same command again") from error
            raise RunError(f"{self.folder / 'calls.sqlite'} cannot be used: {error}") from error
        except OSError as error:
            hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
            raise RunError(f"cannot write to {self.folder}: {error.strerror or error}{hint}") from error

    # Calls

    def get(self, key: bytes) -> Completion | None:
        """The finished call with this key, or None."""
        with self._guard():
            row = self._db.execute(f"SELECT {ANSWER} FROM calls WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._completion(*row)

    def put(self, key: bytes, provider: str, name: str, payload: dict[str, Any], done: Completion) -> None:
        """Keep a finished call; it is safe once `committed` returns. A key that is already there keeps its answer."""
        varying: list[Any] = []
        skeleton = _split({"provider": provider, "name": name, "payload": payload}, varying)
        with self._guard():
            self._db.execute(
                f"INSERT OR IGNORE INTO calls(key, skeleton, varying, {ANSWER}, at)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    key,
                    self._part(orjson.dumps(skeleton).decode()),
                    orjson.dumps([self._refer(value) for value in varying]).decode(),
                    self._part(done.text),
                    done.finish,
                    self._part(done.model),
                    done.input_tokens,
                    done.output_tokens,
                    done.cached_tokens,
                    done.cache_write_tokens,
                    None if done.reasoning is None else self._part(done.reasoning),
                    None if done.logprobs is None else zlib.compress(orjson.dumps(done.logprobs)),
                    None if done.scores is None else orjson.dumps(done.scores).decode(),
                    int(time.time()),
                ),
            )
        self._due()

    def calls(self) -> Iterator[StoredCall]:
        """Every finished call, in the order of finishing."""
        query = f"SELECT key, skeleton, varying, at, {ANSWER} FROM calls ORDER BY id"
        with self._guard():
            for key, skeleton, varying, at, *answer in self._db.execute(query):
                values = [self._deref(value) for value in orjson.loads(varying)]
                request = _join(orjson.loads(self._text(skeleton)), iter(values))
                yield StoredCall(key.hex(), request, self._completion(*answer), at)

    def spent(self) -> list[Spent]:
        """Totals of all finished calls, by provider and model name."""
        totals: dict[tuple[str, str], Spent] = {}
        query = (
            "SELECT skeleton, COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),"
            " COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(cache_write_tokens), 0) FROM calls GROUP BY skeleton"
        )
        with self._guard():
            for skeleton, *sums in self._db.execute(query).fetchall():
                request = orjson.loads(self._text(skeleton))
                key = (request["provider"], request["name"])
                before = totals.get(key, Spent(*key, 0, 0, 0, 0, 0))
                totals[key] = Spent(*key, *(a + b for a, b in zip(before[2:], sums, strict=True)))
        return list(totals.values())

    def _completion(self, reply: int, finish: Finish, model: int, *rest: Any) -> Completion:
        """A completion from the columns of `ANSWER`."""
        given, made, cached, written, reasoning, logprobs, scores = rest
        return Completion(
            self._text(reply),
            finish,
            self._text(model),
            given,
            made,
            cached,
            written,
            None if reasoning is None else self._text(reasoning),
            None if logprobs is None else tuple(orjson.loads(zlib.decompress(logprobs))),
            None if scores is None else tuple(orjson.loads(scores)),
        )

    def _part(self, text: str) -> int:
        """The id of a text, which is stored if it is new."""
        known = self._parts.get(text)
        if known is not None:
            return known
        digest = hashlib.sha256(text.encode()).digest()[:12]
        row = self._db.execute("SELECT id FROM parts WHERE hash = ?", (digest,)).fetchone()
        if row is None:
            made = self._db.execute("INSERT INTO parts(hash, body) VALUES (?, ?)", (digest, _pack(text))).lastrowid
            assert made is not None
            row = (made,)
        if len(self._parts) >= REMEMBERED_PARTS:
            self._parts.clear()
        part: int = row[0]
        self._parts[text] = part
        return part

    def _text(self, part: int) -> str:
        (body,) = self._db.execute("SELECT body FROM parts WHERE id = ?", (part,)).fetchone()
        return _unpack(body)

    def _refer(self, value: str | int | None) -> Any:
        """A varying value as its column holds it: a part id, a list of part ids, or the value in an object."""
        if not isinstance(value, str):
            return {"is": value}
        if len(value) < PIECES_FROM:
            return self._part(value)
        return [self._part(piece) for piece in value.split("\n\n")]

    def _deref(self, value: Any) -> str | int | None:
        if isinstance(value, dict):
            literal: int | None = value["is"]
            return literal
        return "\n\n".join(map(self._text, value)) if isinstance(value, list) else self._text(value)

    # Inputs: which prompts were seen, and what became of them

    def state(self, position: int) -> tuple[bytes, int] | None:
        """Hash and state of the prompt at a position, or None if it was never read."""
        with self._guard():
            row = self._db.execute("SELECT hash, state FROM inputs WHERE position = ?", (position,)).fetchone()
        return None if row is None else (row[0], row[1])

    def states(self) -> Iterator[tuple[int, bytes, int]]:
        """Position, hash and state of every prompt read so far, in input order."""
        with self._guard():
            yield from self._db.execute("SELECT position, hash, state FROM inputs ORDER BY position")

    def first_position(self, digest: bytes, position: int) -> int:
        """The first position at which `digest` occurred: `position` itself, which is then remembered, if it is new."""
        self.restore_first(digest, position)
        with self._guard():
            (first,) = self._db.execute("SELECT position FROM seen WHERE hash = ?", (digest,)).fetchone()
        self._due()
        return int(first)

    def restore_first(self, digest: bytes, position: int) -> None:
        """Remember where `digest` occurred, while `unseen_lines` is read; needs no event loop."""
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO seen(hash, position) VALUES (?, ?)", (digest, position))

    def mark(self, position: int, digest: bytes, state: int) -> None:
        """Remember what became of the prompt at a position."""
        self.restore(position, digest, state)
        self._due()

    def restore(self, position: int, digest: bytes, state: int) -> None:
        """Like `mark`, while `unseen_lines` is read, which commits by itself; needs no event loop."""
        with self._guard():
            self._db.execute(
                "INSERT INTO inputs(position, hash, state) VALUES (?,?,?)"
                " ON CONFLICT(position) DO UPDATE SET hash = excluded.hash, state = excluded.state",
                (position, digest, state),
            )

    def forget_inputs(self) -> None:
        """Forget what became of every prompt; calls stay."""
        with self._guard():
            for table in ("inputs", "seen", "files"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.commit()

    def count(self) -> dict[int, int]:
        """How many prompts are in each state."""
        with self._guard():
            return dict(self._db.execute("SELECT state, COUNT(*) FROM inputs GROUP BY state"))

    # Rows

    def append(self, name: str, line: bytes) -> None:
        """Add a line to a JSONL file of the folder; it is safe once `committed` returns."""
        self._lines.setdefault(name, []).append(line)
        self._due()

    def unseen_lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file that were written but not committed (a kill between the two); a torn last one is cut.

        A file shorter than what was committed (lost power, edited by hand) is read from its start.
        """
        path = self.folder / name
        row = self._db.execute("SELECT size FROM files WHERE name = ?", (name,)).fetchone()
        with self._guard(), open(path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            start = row[0] if row is not None and row[0] <= size else 0
            file.seek(start)
            end = start
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                yield line
            file.truncate(end)
            self._remember_size(name, end)
            self._db.commit()

    def is_shorter(self, name: str) -> bool:
        """Whether a file has lost committed lines."""
        row = self._db.execute("SELECT size FROM files WHERE name = ?", (name,)).fetchone()
        path = self.folder / name
        return row is not None and row[0] > (path.stat().st_size if path.exists() else 0)

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file at once."""
        path = self.folder / name
        with self._guard():
            with open(path.with_suffix(".tmp"), "wb") as file:
                file.writelines(lines)
                size = file.tell()
            # A kill before the last line leaves either file with size 0, so that it is read from its start again.
            self._remember_size(name, 0)
            self._db.commit()
            os.replace(path.with_suffix(".tmp"), path)
            self._remember_size(name, size)
            self._db.commit()

    def _remember_size(self, name: str, size: int) -> None:
        self._db.execute("INSERT INTO files VALUES (?,?) ON CONFLICT(name) DO UPDATE SET size = ?2", (name, size))

    # Groups

    def _due(self) -> None:
        if self._group is None:
            self._group = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._commit)

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
        with self._guard():
            for name, lines in self._lines.items():
                file = self._files.get(name)
                if file is None:
                    file = self._files[name] = open(self.folder / name, "ab", buffering=0)  # noqa: SIM115
                data = b"".join(lines)
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._remember_size(name, file.tell())
            self._lines.clear()
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
            for file in self._files.values():
                file.close()
            self._db.close()
