"""What a run has read, and what became of it: for each position of the input a digest and a state, in calls.sqlite."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from cai.records import Contest, DropReason, Prompt
from cai.sources.conversations import prompt_hash

INPUTS = """
CREATE TABLE IF NOT EXISTS inputs(position INTEGER PRIMARY KEY, hash BLOB NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen(hash BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
"""
FIRST = "INSERT OR IGNORE INTO seen(hash, position) VALUES (?, ?)"
DONE = "done"  # the state of a finished row; that of a dropped one is the reason
PAIR_BITS = 16  # of the position of a pair: its number among those of its prompt; above them the place of the prompt
# Version 0.1.0 wrote a state as a number: 1 for a finished row, 100 + the place here for a dropped one. Never changes.
REASONS_OF_0_1_0: tuple[DropReason, ...] = (
    "bad_input", "invalid_vote", "order_flip", "low_confidence", "identical", "duplicate_prompt", "near_duplicate",
    "empty", "truncated", "preamble_leak", "role_mixup", "refused_benign", "length_ratio", "both_refused",
    "content_filter", "model_error", "too_long", "not_extreme", "over_target",
)  # fmt: skip


def state_of(stored: str | int) -> str:
    """A state by name, whichever version wrote it."""
    if isinstance(stored, str):
        return stored
    if stored == 1:
        return DONE
    return REASONS_OF_0_1_0[stored - 100]


def names_of(digest: bytes, row_id: str) -> list[bytes]:
    """What no second prompt of a run may share with this one: its conversation, and the id the input gives it."""
    names = [b"p" + digest]
    if row_id != digest.hex():
        names.append(b"i" + hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:16])
    return names


def digest_of(item: Prompt | Contest) -> bytes:
    """16 bytes that name the content of what is played: a conversation, or a conversation and two replies."""
    if isinstance(item, Prompt):
        return bytes.fromhex(prompt_hash(item.messages))
    return bytes.fromhex(item.key)


class Inputs:
    """The tables of a run's input; guard: what turns SQLite's errors into ours, due: has a change committed soon."""

    def __init__(self, db: sqlite3.Connection, guard: AbstractContextManager[None], due: Callable[[], None]) -> None:
        self._db, self._guard, self._due = db, guard, due
        self._positions = 0

    def prepare(self) -> None:
        """Create the tables if they are missing, and find out how far the input was read."""
        self._db.executescript(INPUTS)
        (self._positions,) = self._db.execute("SELECT COALESCE(MAX(position) + 1, 0) FROM inputs").fetchone()

    def state(self, position: int) -> tuple[bytes, str] | None:
        """Digest and state of what was read at a position; None if nothing was."""
        if position >= self._positions:
            return None
        with self._guard:
            row = self._db.execute("SELECT hash, state FROM inputs WHERE position = ?", (position,)).fetchone()
        if row is None:
            return None
        digest, state = row
        return digest, state_of(state)

    def states(self) -> Iterator[tuple[int, bytes, str]]:
        """Position, digest and state of everything that was read so far, in input order."""
        with self._guard:
            for position, digest, state in self._db.execute(
                "SELECT position, hash, state FROM inputs ORDER BY position"
            ):
                yield position, digest, state_of(state)

    def count(self) -> dict[str, int]:
        """How many inputs are in each state."""
        counts = Counter[str]()
        with self._guard:
            for state, count in self._db.execute("SELECT state, COUNT(*) FROM inputs GROUP BY state"):
                counts[state_of(state)] += count
        return dict(counts)

    def mark(self, position: int, digest: bytes, state: str) -> None:
        """Remember what became of the input at a position."""
        self.restore(position, digest, state)
        self._due()

    def restore(self, position: int, digest: bytes, state: str) -> None:
        """Like `mark`, while `Store.unseen_lines` is read, which commits by itself; needs no event loop."""
        with self._guard:
            self._positions = max(self._positions, position + 1)
            self._db.execute(
                "INSERT INTO inputs(position, hash, state) VALUES (?,?,?)"
                " ON CONFLICT(position) DO UPDATE SET hash = excluded.hash, state = excluded.state",
                (position, digest, state),
            )

    def first_position(self, digest: bytes, position: int) -> int:
        """The first position at which `digest` occurred: `position` itself, which is then remembered, if it is new."""
        with self._guard:
            if self._db.execute(FIRST, (digest, position)).rowcount:
                self._due()
                return position
            (first,) = self._db.execute("SELECT position FROM seen WHERE hash = ?", (digest,)).fetchone()
        return int(first)

    def restore_first(self, digest: bytes, position: int) -> None:
        """Remember where `digest` occurred, while `Store.unseen_lines` is read; needs no event loop."""
        with self._guard:
            self._db.execute(FIRST, (digest, position))
