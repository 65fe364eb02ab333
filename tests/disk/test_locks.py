"""Locks of folders, and file systems that have none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cai.disk import locks
from cai.disk.locks import LOCK, take_lock
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
