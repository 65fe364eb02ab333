"""JSONL files that only grow, each with the size up to which its lines are committed.

The sizes are rows of the caller's database, so that a transaction holds them together with what the lines mean to it.
Knows lines and sizes; nothing of what is in a line.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

SIZES = "CREATE TABLE IF NOT EXISTS files(name TEXT PRIMARY KEY, size INTEGER NOT NULL);"


class Lines:
    """The JSONL files of a folder; raises OSError and sqlite3.Error as they come."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self._folder, self._db = folder, db
        self._files: dict[str, BinaryIO] = {}
        self._added: dict[str, list[bytes]] = {}

    def add(self, name: str, line: bytes) -> None:
        """Have a line written with the next `write`."""
        self._added.setdefault(name, []).append(line)

    def write(self) -> None:
        """Append what was added; the caller commits after it. A kill between the two leaves lines for `unseen`."""
        for name, lines in self._added.items():
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = open(self._folder / name, "ab", buffering=0)  # noqa: SIM115
            data = b"".join(lines)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._remember(name, file.tell())
        self._added.clear()

    def unseen(self, name: str) -> Iterator[bytes]:
        """The lines after the committed size, which is then moved to the last whole one; a torn one is cut off.

        A file that is shorter than what was committed is read from its start.
        """
        with open(self._folder / name, "ab+") as file:
            committed = self._committed(name)
            size = file.seek(0, os.SEEK_END)
            end = committed if committed <= size else 0
            file.seek(end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                yield line
            file.truncate(end)
        self._remember(name, end)
        self._db.commit()

    def is_shorter(self, name: str) -> bool:
        """Whether a file has lost committed lines."""
        path = self._folder / name
        return self._committed(name) > (path.stat().st_size if path.exists() else 0)

    def rewrite(self, name: str, lines: Iterable[bytes]) -> None:
        """Replace a file at once; `lines` may read the one it replaces, if they close it at their end (for Windows)."""
        self.write()  # the commits below must not tell of lines that are not there
        path = self._folder / name
        if (old := self._files.pop(name, None)) is not None:
            old.close()
        with open(path.with_suffix(".tmp"), "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the new name with no content
            size = file.tell()
        # A kill before the last line leaves either file with size 0, so that it is read from its start again.
        self._remember(name, 0)
        self._db.commit()
        os.replace(path.with_suffix(".tmp"), path)
        self._remember(name, size)
        self._db.commit()

    def close(self) -> None:
        """Close the files; what was added and not written is lost."""
        for file in self._files.values():
            file.close()

    def _committed(self, name: str) -> int:
        row = self._db.execute("SELECT size FROM files WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _remember(self, name: str, size: int) -> None:
        self._db.execute("INSERT INTO files VALUES (?,?) ON CONFLICT(name) DO UPDATE SET size = ?2", (name, size))
