"""How a call's payload is named and stored: its key, its skeleton, and texts kept once, by content.

A payload is JSON, so a tuple in it comes back as a list.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson

# The values of a payload that differ from call to call; the rest, the skeleton, is shared by thousands of calls.
VARYING = frozenset({"content", "text", "prompt", "system", "seed", "id", "index", "sample"})
COMPRESS_FROM = 160  # bytes; zlib makes shorter English texts longer, or saves less than it costs
PIECES_FROM = 1_000  # characters; a longer text is stored by paragraph, which the next turn of its chain repeats
REMEMBERED_PARTS = 8_192
PARTS = "CREATE TABLE IF NOT EXISTS parts(id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, body NOT NULL);"


def canonical_call(provider: str, name: str, payload: dict[str, Any], sample: int) -> bytes:
    """The text that a call's key is the hash of: provider, model, exact payload and sample index; never the URL."""
    return orjson.dumps([provider, name, payload, sample], option=orjson.OPT_SORT_KEYS)


def call_key(canonical: bytes) -> bytes:
    """The 16 bytes that name a call: a prefix of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical).digest()[:16]


def split(value: Any, varying: list[Any]) -> Any:
    """The skeleton of a payload: null stands for each varying value, which is appended to `varying` in order."""
    if isinstance(value, dict):
        skeleton: dict[str, Any] = {}
        for key, item in value.items():
            if key in VARYING and (item is None or isinstance(item, str | int | float)):
                varying.append(item)
                skeleton[key] = None
            else:
                skeleton[key] = split(item, varying)
        return skeleton
    if isinstance(value, list | tuple):
        return [split(item, varying) for item in value]
    return value


def join(skeleton: Any, varying: Iterator[Any]) -> Any:
    """The payload that `split` took apart."""
    if isinstance(skeleton, list):
        return [join(item, varying) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    payload = {}
    for key, item in skeleton.items():
        if item is None and key in VARYING:
            payload[key] = next(varying)
        else:
            payload[key] = join(item, varying)
    return payload


def unless_none(convert: Callable[[Any], Any], value: Any) -> Any:
    """What `convert` makes of a value; None for None."""
    if value is None:
        return None
    return convert(value)


class Parts:
    """The table of texts, each kept once: the later calls of a chain repeat its earlier turns."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[bytes, int] = {}  # by hash: texts can be megabytes

    def add(self, text: str) -> int:
        """The id of a text, which is stored if it is new."""
        raw = text.encode()
        digest = hashlib.sha256(raw).digest()[:12]
        part = self._known.get(digest)
        if part is not None:
            return part
        body: str | bytes = text
        if len(raw) >= COMPRESS_FROM:
            body = zlib.compress(raw, 6)
        # Most texts are new: to insert at once saves the search.
        query = "INSERT OR IGNORE INTO parts(hash, body) VALUES (?, ?) RETURNING id"
        row = self._db.execute(query, (digest, body)).fetchone()
        if row is None:
            row = self._db.execute("SELECT id FROM parts WHERE hash = ?", (digest,)).fetchone()
        if len(self._known) >= REMEMBERED_PARTS:
            self._known.clear()
        part = self._known[digest] = int(row[0])
        return part

    def text(self, part: int) -> str:
        """The text with this id."""
        body: str | bytes
        (body,) = self._db.execute("SELECT body FROM parts WHERE id = ?", (part,)).fetchone()
        if isinstance(body, str):
            return body
        return zlib.decompress(body).decode()

    def refer(self, value: str | float | None) -> Any:
        """A varying value as a call holds it: a part id, a list of part ids, or the value itself in an object."""
        if not isinstance(value, str):
            return {"is": value}
        if len(value) < PIECES_FROM:
            return self.add(value)
        return [self.add(piece) for piece in value.split("\n\n")]

    def value(self, reference: Any) -> str | float | None:
        """The varying value that `refer` was given."""
        if isinstance(reference, dict):
            literal: float | None = reference["is"]
            return literal
        if isinstance(reference, list):
            return "\n\n".join(map(self.text, reference))
        return self.text(reference)
