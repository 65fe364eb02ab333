"""Locks of folders, and file systems that have none."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.disk import locks
from cai.disk.locks import LOCK, is_in_use, take_lock
from cai.errors import RunError


def test_a_folder_that_is_locked_is_in_use(tmp_path: Path) -> None:
    with take_lock(tmp_path / LOCK), pytest.raises(RunError, match="is in use by another process"):
        take_lock(tmp_path / LOCK)
    take_lock(tmp_path / LOCK).close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_taken_for_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "lock_file", fail)
    with pytest.raises(RunError, match=r"cannot be locked: .*: name an --out on another one"):
        take_lock(tmp_path / LOCK)


def test_those_who_look_are_in_nobodys_way(tmp_path: Path) -> None:
    """Neither in each other's, nor in that of a process that begins to play."""
    take_lock(tmp_path / LOCK).close()
    ended = threading.Event()
    found: list[bool] = []

    def look() -> None:
        while not ended.is_set():
            found.append(is_in_use(tmp_path))

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look) for _ in range(4)]
        while len(found) < 2_000:
            time.sleep(0.001)
        was_in_use = any(found)
        ended.set()
    for each in looking:
        each.result()
    assert not was_in_use


def test_a_look_does_not_keep_a_process_from_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_lock(tmp_path / LOCK).close()
    with open(tmp_path / LOCK, "rb") as file:
        locks.lock_file(file, wait=False, shared=True)
        monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=lambda seconds: file.close()))
        take_lock(tmp_path / LOCK).close()
