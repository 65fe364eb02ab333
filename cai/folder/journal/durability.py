"""How a journal is kept safe on its file system.

On a local disk SQLite writes a log ahead (WAL), which others may read while a run writes. That needs memory which all
processes share, and so a single machine. On a file system of several machines a journal is written for one process
alone: it takes SQLite's lock once and holds it, and every commit goes to the database itself.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cai.disk.mounts import is_shared

BESIDE = ("calls.sqlite-wal", "calls.sqlite-journal")  # whoever writes has one of them


def is_settled(folder: Path) -> bool:
    """Whether nobody writes a journal, and no kill has left anything there."""
    return not any((folder / name).exists() for name in BESIDE)


def held_alone(db: sqlite3.Connection, folder: Path) -> bool:
    """Whether a journal is for one process alone; then it is made so, before anything is read."""
    if not is_shared(folder):
        return False
    db.execute("PRAGMA locking_mode=EXCLUSIVE")
    return True


def make_durable(db: sqlite3.Connection, alone: bool) -> None:
    """Have every commit on disk when it returns."""
    db.execute(f"PRAGMA journal_mode={'DELETE' if alone else 'WAL'}")
    db.execute("PRAGMA synchronous=FULL")  # 2 ms a commit: a line must not outlast its calls
