"""The rows of a run folder: which is in which file, and what became of each input; repairs a line torn by a kill."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path

from cai.disk.writing import append_whole, written
from cai.folder.journal.elsewhere import Elsewhere
from cai.folder.journal.inputs import DONE, FINISHED, GROWS, state_of
from cai.folder.journal.unwritten import Settled

MOVED = ".moved"  # what a file ends in that is to take the place of another
REPEATS = "repeats"  # stands among the files, and says in place of a size:
NOTHING, DROPS, ROWS = range(3)  # which inputs may have several lines: none, what was dropped, or rows, too
AHEAD = 1_000  # inputs whose states are read at once: a query for each takes 5 µs, seven times as long
TABLES = """
CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS inputs(position INTEGER PRIMARY KEY, hash BLOB NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen(hash BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
"""


class Rows:
    """The rows of a run, in JSONL files that only grow, and what became of each of its inputs.

    A transaction of `db` holds the sizes of the files together with the states. guard: turns the errors of SQLite and
    of the file system into ours. due: has changes committed soon.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection, guard: Settled, due: Callable[[], None]) -> None:
        self._folder, self._db, self._guard, self._due = folder, db, guard.bare, due
        self.db, self.guard = db, guard  # for those who look at all inputs at once, or at the calls of batches
        self._files: dict[str, FileIO] = {}
        self._added: dict[str, list[bytes]] = {}
        self._marks: dict[int, tuple[bytes, str]] = {}  # of inputs whose lines are among those added
        self._ahead = range(0)  # positions whose states have been read
        self._states: dict[int, tuple[bytes, str]] = {}
        self._elsewhere: Elsewhere | None = None  # if other shards play some of the inputs

    # Lines

    def append(self, name: str, line: bytes, position: int, digest: bytes, state: str) -> None:
        """Add a line to a JSONL file of the folder, and say what became of the input at a position.

        It is safe once `Store.committed` returns.
        """
        self._added.setdefault(name, []).append(line)
        self._marks[position] = digest, state
        self._due()

    def write(self) -> None:
        """Write what was appended, after a commit of what the lines depend on; their states are committed later."""
        for name, lines in self._added.items():
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = open(self._folder / name, "ab", buffering=0)  # noqa: SIM115
            append_whole(file, b"".join(lines))
            self._remember(name, file.tell())
        self._added.clear()
        for position, (digest, state) in self._marks.items():
            self.mark(position, digest, state)
        self._marks.clear()

    def unseen(self, name: str) -> Iterator[tuple[int, bytes]]:
        """The lines after the committed size, each with the place where it starts; a torn last one is cut off.

        The size is then that of the file; the caller commits it together with what the lines say.
        """
        with self._guard, open(self._folder / name, "ab+") as file:
            end = self._committed(name)
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield end, line
                end += len(line)
            file.truncate(end)
            self._remember(name, end)

    @property
    def repeats(self) -> int | None:
        """What may have several lines in the files, of which the last counts: NOTHING, DROPS, ROWS; None: not known."""
        with self._guard:
            entry = self._db.execute("SELECT size FROM files WHERE name = ?", (REPEATS,)).fetchone()
        return None if entry is None else int(entry[0])

    def expect_repeats(self, what: int) -> None:
        """Note that inputs which have a line get another one, or with NOTHING that each has a single line again."""
        with self._guard:
            self._remember(REPEATS, what)

    def is_unknown(self, name: str) -> bool:
        """Whether nothing in a file is known to be committed: it is new, was being replaced, or has lost lines."""
        with self._guard, open(self._folder / name, "ab") as file:
            committed = self._committed(name)
            return file.tell() < committed or (committed == 0 < file.tell())

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file at once; `lines` may read the one it replaces, if they close it at their end (for Windows)."""
        path = self._folder / name
        part = path.with_suffix(".tmp")
        with self.guard:
            self._db.commit()
            self.write()  # the commits below must not tell of lines that are not there
            if (old := self._files.pop(name, None)) is not None:
                old.close()
            size = written(part, lines)
            # A kill before the last line leaves either file with size 0, so that it is read from its start again.
            self._remember(name, 0)
            self._db.commit()
            os.replace(part, path)
            self._remember(name, size)
            self._db.commit()

    def rewrite_all(self, files: Mapping[str, Iterable[bytes]], change: Callable[[], None]) -> None:
        """Replace files together with what the journal says: after a kill all are as they were, or all are new.

        change: what is changed in the journal, in one transaction.
        """
        with self.guard:
            self._db.commit()
            self.write()
            for name, lines in files.items():
                if (old := self._files.pop(name, None)) is not None:
                    old.close()
                size = written(self._folder / f"{name}{MOVED}", lines)
                self._remember(name, size)
                self._remember(f"{name}{MOVED}", size)
            change()
            self._db.commit()  # from here on the files are these, wherever they lie
            self.put_in_place()

    def put_in_place(self) -> None:
        """Finish what a kill has interrupted in `rewrite_all`."""
        with self._guard:
            query = "SELECT name FROM files WHERE name LIKE ?"
            for (name,) in self._db.execute(query, (f"%{MOVED}",)).fetchall():
                part = self._folder / name
                if part.exists():
                    os.replace(part, self._folder / name.removesuffix(MOVED))
                self._db.execute("DELETE FROM files WHERE name = ?", (name,))
            self._db.commit()
        self.look_again()

    def close(self) -> None:
        """Close the files; what was appended and not written is lost."""
        for file in self._files.values():
            file.close()

    def is_newer(self, name: str, start: int) -> bool:
        """Whether a line that starts there is newer than the states of the inputs."""
        with self._guard:
            return start >= self._committed(name)

    def _committed(self, name: str) -> int:
        size: int
        (size,) = self._db.execute("SELECT COALESCE(MAX(size), 0) FROM files WHERE name = ?", (name,)).fetchone()
        return size

    def _remember(self, name: str, size: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?,?)", (name, size))

    # Inputs

    def state(self, position: int) -> tuple[bytes, str] | None:
        """Digest and state of what was read at a position; None if nothing was."""
        if position in self._marks:
            return self._marks[position]
        if position not in self._ahead:
            self._ahead = range(position, position + AHEAD)
            query = "SELECT position, hash, state FROM inputs WHERE position >= ? AND position < ?"
            with self._guard:
                entries = self._db.execute(query, (position, position + AHEAD))
                self._states = {at: (digest, state_of(state)) for at, digest, state in entries}
        return self._states.get(position)

    def states(self) -> Iterator[tuple[int, bytes, str]]:
        """Position, digest and state of everything that was read so far, in input order."""
        with self._guard:
            for position, digest, state in self._db.execute("SELECT * FROM inputs ORDER BY position"):
                yield position, digest, state_of(state)

    def count(self, end: int = 2**63 - 1) -> Counter[str]:
        """How many inputs, up to a position, are in each state; a row that is still to grow is a finished one."""
        counts = Counter[str]()
        query = "SELECT state, COUNT(*) FROM inputs WHERE position < ? GROUP BY state"
        with self._guard:
            for state, count in self._db.execute(query, (end,)):
                name = state_of(state)
                counts[DONE if name == GROWS else name] += count
        return counts

    def is_new(self) -> bool:
        """Whether nothing was read yet."""
        with self._guard:
            return self._db.execute("SELECT 1 FROM seen UNION ALL SELECT 1 FROM inputs LIMIT 1").fetchone() is None

    def is_growing(self) -> bool:
        """Whether a finished row is still to be played again."""
        with self._guard:
            return self._db.execute("SELECT 1 FROM inputs WHERE state = ? LIMIT 1", (GROWS,)).fetchone() is not None

    def mark(self, position: int, digest: bytes, state: str) -> None:
        """State what became of the input at a position, of which a line is in a file."""
        with self._guard:
            self._db.execute(
                "INSERT OR REPLACE INTO inputs(position, hash, state) VALUES (?,?,?)", (position, digest, state)
            )
        if position in self._ahead:
            self._states[position] = digest, state

    def first_position(self, digest: bytes, position: int) -> int:
        """The first position at which `digest` occurred: `position` itself, which is then remembered, if it is new."""
        first = None if self._elsewhere is None else self._elsewhere.first(digest)
        if first is not None:
            return first
        with self._guard:
            self._db.execute("INSERT OR IGNORE INTO seen(hash, position) VALUES (?, ?)", (digest, position))
            (first,) = self._db.execute("SELECT position FROM seen WHERE hash = ?", (digest,)).fetchone()
        return int(first)

    def pass_by(self, names: Sequence[bytes], position: int) -> None:
        """Let an input that another shard plays take its names, as it would in one run."""
        if self._elsewhere is None:
            self._elsewhere = Elsewhere(self._db, self._guard)
        self._elsewhere.add(position, names)

    def positions_of(self, name: bytes) -> list[int]:
        """The first position at which one of `names_of` occurred; none if it did not."""
        with self._guard:
            return [
                int(position) for (position,) in self._db.execute("SELECT position FROM seen WHERE hash = ?", (name,))
            ]

    def names(self) -> Iterator[tuple[bytes, int]]:
        """What no second input may share with those that were played, each with its position."""
        with self._guard:
            yield from self._db.execute("SELECT hash, position FROM seen")

    def positions_from(self, name: bytes, end: bytes, most: int) -> list[int]:
        """The positions of the names from `name` up to `end`, which is not among them."""
        query = "SELECT position FROM seen WHERE hash >= ? AND hash < ? ORDER BY hash LIMIT ?"
        with self._guard:
            return [int(position) for (position,) in self._db.execute(query, (name, end, most))]

    def are_hashes(self) -> bool:
        """Whether the input named none of what was played, so that every id is a hash of its content."""
        return not self.positions_from(b"i", b"j", 1) and bool(self.positions_from(b"p", b"q", 1))

    def first_row(self) -> list[int]:
        """The position of the first finished row; none if there is none."""
        query = "SELECT position FROM inputs WHERE state IN (?, ?, 1) ORDER BY position LIMIT 1"
        with self._guard:
            return [int(position) for (position,) in self._db.execute(query, FINISHED)]

    def let_grow(self, positions: Iterable[int] | None = None) -> None:
        """Have finished rows played again: all, or those at some positions."""
        with self._guard:
            if positions is None:
                self._db.execute("UPDATE inputs SET state = ? WHERE state IN (?, 1)", (GROWS, DONE))
            else:
                query = "UPDATE inputs SET state = ? WHERE position = ? AND state IN (?, 1)"
                self._db.executemany(query, ((GROWS, position, DONE) for position in positions))
            self._db.commit()
        self.look_again()

    def take_out(self, positions: Iterable[tuple[int]]) -> None:
        """Forget what became of the inputs at some positions."""
        self._db.executemany("DELETE FROM inputs WHERE position = ?", positions)

    def look_again(self) -> None:
        """Forget the states that have been read: what is in the journal has changed."""
        self._ahead = range(0)
        self._states.clear()

    def forget(self) -> None:
        """Forget all inputs, and which lines are committed."""
        with self._guard:
            for table in ("inputs", "seen"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("DELETE FROM files WHERE name != ?", (REPEATS,))
            self._db.commit()
        self.look_again()
