"""Folders that one process has for itself: made, locked, and removed again if nothing came of them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import IO

from cai.disk.reading import exists
from cai.disk.writing import unwritable
from cai.errors import RunError

LOCK = ".lock"
TRIES, PAUSE = 5, 0.02  # seconds: whoever looks whether a folder is in use holds its lock for a moment
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # what a lock of another process leads to


def lock_file(file: IO[bytes], *, wait: bool = True, shared: bool = False) -> None:
    """Lock an open file until it is closed; OSError if another process has it and is not waited for.

    shared: together with all others who lock it so; on Windows there are none.
    """
    if os.name == "nt":
        import msvcrt

        file.seek(0)  # of a file that others append to, all lock the same byte
        mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined,unused-ignore]
        msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


def take_lock(path: Path) -> IO[bytes]:
    """Take the folder's lock, which the system lets go when the process ends, however it ends."""
    file = open(path, "ab")  # noqa: SIM115
    try:
        _lock_soon(file)
    except OSError as error:
        file.close()
        if error.errno in TAKEN:
            raise RunError(f"{path.parent} is in use by another process: wait for it, or name another --out") from None
        advice = "its file system has no locks (Lustre: mount it with -o flock): name an --out on another one"
        raise RunError(f"{path.parent} cannot be locked: {error.strerror or error}; {advice}") from None
    return file


def _lock_soon(file: IO[bytes]) -> None:
    for left in reversed(range(TRIES)):
        try:
            lock_file(file, wait=False)
            return
        except OSError as error:
            if error.errno not in TAKEN or not left:
                raise
        time.sleep(PAUSE)


def is_in_use(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    if not exists(folder / LOCK):
        return False
    try:
        file = open(folder / LOCK, "rb")  # noqa: SIM115
    except OSError:  # it may not be opened by this user
        return False
    with file:
        try:
            lock_file(file, wait=False, shared=True)
        except OSError:
            return True
    return False


def lock_folder(path: Path, check: Callable[[], object]) -> IO[bytes]:
    """Create a folder if need be, and take its lock; a folder that `check` refuses gets no lock file."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        check()
        return take_lock(path / LOCK)
    except OSError as error:
        raise unwritable(path, error, "change its permissions, or choose another folder") from error


def missing_folders(path: Path) -> list[Path]:
    """The folder and those above it that are not there yet, the innermost first."""
    return list(takewhile(lambda each: not exists(each), (path, *path.parents)))


def unmake(folders: Sequence[Path], names: Iterable[str]) -> None:
    """Remove what a start that was refused has made: files of the first folder, then the folders if they are empty."""
    with suppress(OSError):
        for name in names:
            (folders[0] / name).unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()
