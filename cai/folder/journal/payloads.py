"""What a journal keeps of a call: each text once, a payload as a skeleton and what varies, a seal; and their totals."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson

from cai.folder.journal.answers import MOST_TOKENS
from cai.records import Usage, Values

# The values of a payload that differ from call to call; the rest, the skeleton, is shared by thousands of calls.
VARYING = frozenset({"content", "text", "prompt", "system", "seed", "id", "index", "sample"})
COMPRESS_FROM = 160  # bytes; zlib makes shorter English texts longer, or saves less than it costs
PIECES_FROM = 1_000  # characters; a longer text is stored by paragraph, which the next turn of its chain repeats
REMEMBERED_PARTS = 8_192
# Calls that were copied from other runs, and took nothing here.
REUSED = "CREATE TABLE IF NOT EXISTS reused(key BLOB PRIMARY KEY) WITHOUT ROWID;"
KNOWN = "COALESCE(SUM({0}) FILTER (WHERE {0} BETWEEN 0 AND {1} AND {0} = CAST({0} AS INTEGER)), 0)"
COST = "CASE WHEN COUNT(cost) = COUNT(*) THEN TOTAL(cost) + (SELECT TOTAL(cost) FROM charges) END"
# What changed bytes of a call lead to.
BROKEN = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError)


def each_varying(value: Any, change: Callable[[Any], Any]) -> Any:
    """A payload with every varying value changed, in order; with all of them None it is its own skeleton."""
    if isinstance(value, list | tuple):
        return [each_varying(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    changed = dict(value)
    for key, item in value.items():
        if isinstance(item, (dict, list, tuple)):
            changed[key] = each_varying(item, change)
        elif key in VARYING:
            changed[key] = change(item)
    return changed


def seal_of(key: bytes, columns: Sequence[Any]) -> bytes:
    """8 bytes by which a call is known to be as it was written; none of the calls of earlier versions has them."""
    return hashlib.blake2b(repr((key, *columns)).encode(), digest_size=8).digest()


@contextmanager
def sound(key: bytes, seal: bytes | None, columns: Sequence[Any]) -> Iterator[None]:
    """Turn what a changed call leads to into an error of its database."""
    try:
        if seal is not None and seal != seal_of(key, columns):
            raise ValueError("it is not as it was written")
        yield
    except BROKEN as error:
        raise sqlite3.DatabaseError(f"call {key!r:.60}: {error}") from error


class Texts:
    """The texts of a journal by id, each kept once: the later calls of a chain repeat its earlier turns."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._parts: dict[bytes, int] = {}  # ids by hash: texts can be megabytes

    def add(self, text: str) -> int:
        """The id of a text, which is stored if it is new."""
        raw = text.encode()
        digest = hashlib.sha256(raw).digest()[:12]
        if digest in self._parts:
            return self._parts[digest]
        body = zlib.compress(raw, 6) if len(raw) >= COMPRESS_FROM else text
        # Most texts are new: to insert at once saves the search. (RETURNING would double the time.)
        inserted = self._db.execute("INSERT OR IGNORE INTO parts(hash, body) VALUES (?, ?)", (digest, body))
        part = inserted.lastrowid
        if not inserted.rowcount:
            (part,) = self._db.execute("SELECT id FROM parts WHERE hash = ?", (digest,)).fetchone()
        assert part is not None
        if len(self._parts) >= REMEMBERED_PARTS:
            self._parts.clear()
        self._parts[digest] = part
        return part

    def text(self, part: int) -> str:
        """The text with this id."""
        digest, body = self._db.execute("SELECT hash, body FROM parts WHERE id = ?", (part,)).fetchone()
        raw = zlib.decompress(body) if isinstance(body, bytes) else str(body).encode()
        if hashlib.sha256(raw).digest()[:12] != digest:
            raise ValueError("a text has changed")
        return raw.decode()

    def refer(self, value: str | float | None) -> Any:
        """A varying value as a call holds it: a part id, a list of part ids, or the value itself in an object."""
        if not isinstance(value, str):
            return {"is": value}
        if len(value) < PIECES_FROM:
            return self.add(value)
        return list(map(self.add, value.split("\n\n")))

    def value(self, reference: Any) -> Any:
        """The varying value that `refer` was given."""
        if isinstance(reference, dict):
            return reference["is"]
        if isinstance(reference, list):
            return "\n\n".join(map(self.text, reference))
        return self.text(reference)


class Spent(NamedTuple):
    """What the finished calls of a folder took."""

    calls: int
    ended_unknown: int  # those whose server did not say why the reply ended
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cost_usd: float | None  # None: the price of some call is not known
    reused: int  # calls that were copied from other runs, and are not counted above


def spent(db: sqlite3.Connection) -> Spent:
    """Totals of everything that was paid for."""
    tokens = ", ".join(KNOWN.format(name, MOST_TOKENS) for name in Usage.model_fields)
    query = f"SELECT COUNT(*), COUNT(NULLIF(finish = 'unknown', 0)), {tokens}, {COST} FROM calls"
    reused = 0
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reused'").fetchone():  # not in journals of 0.1.0
        (reused,) = db.execute("SELECT COUNT(*) FROM reused").fetchone()
        query += " WHERE key NOT IN (SELECT key FROM reused)"
    return Spent(*(*db.execute(query).fetchone(), reused))


def canonical_call(provider: str, name: str, payload: Values, sample: int) -> bytes:
    """The text that a call's key is the hash of: provider, model, exact payload and sample index; never the URL."""
    return orjson.dumps([provider, name, payload, sample], option=orjson.OPT_SORT_KEYS)


def call_key(canonical: bytes) -> bytes:
    """The 16 bytes that name a call: a prefix of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical).digest()[:16]


def unless_none(convert: Callable[[Any], Any], value: Any) -> Any:
    """What `convert` makes of a value; None for None."""
    return None if value is None else convert(value)
