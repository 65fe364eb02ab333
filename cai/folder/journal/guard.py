"""Turns what SQLite and the file system raise about a journal into one line the user can act on."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import orjson

from cai.disk.writing import unwritable
from cai.errors import RunError
from cai.texts.wording import one_line

# SQLite's names for what our own statements never lead to, unless the file has changed.
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_SCHEMA")


class Guard:
    """Turns what SQLite and the file system raise into one line the user can act on.

    After a first failure all that is guarded fails: SQLite may have rolled back what was put before it, so that nothing
    counts as committed any more. (A class, because every statement passes here: a generator costs 2 µs.)
    """

    def __init__(self, folder: Path) -> None:
        self.failure: RunError | None = None
        self._folder = folder

    def __enter__(self) -> None:
        if self.failure is not None:
            raise self.failure

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            self.failure = unwritable(self._folder, error)
        elif isinstance(error, sqlite3.Error | zlib.error | orjson.JSONDecodeError | UnicodeDecodeError):
            self.failure = self._broken(error)
        else:
            return
        raise self.failure from error

    def _broken(self, error: Exception) -> RunError:
        reason = one_line(error)[:80]  # SQLite quotes whole texts
        file, name = self._folder / "calls.sqlite", getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        if name == "SQLITE_FULL":
            return unwritable(self._folder, "the disk is full")
        if name.startswith(DAMAGED):
            advice = "move it away and run the same command again: finished rows are kept, other calls asked again"
            return RunError(f"{file} is damaged: {reason}; {advice}")
        if name.startswith("SQLITE_BUSY"):
            return RunError(f"{file} is in use: on a network file system a run keeps it for itself; wait for the run")
        if name == "SQLITE_READONLY_ROLLBACK":
            return RunError(f"{file} was left in the middle of a write: run the same command again, which mends it")
        return RunError(f"{file} cannot be used: {reason}; see to the folder and its disk, and try again")
