"""Reads regular files, and no pipe, device or socket, which may never end."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MOST = 1 << 26  # bytes
KINDS_OF_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_regular(path: Path, most: int = MOST) -> bytes:
    """The first bytes of a file; OSError for what is no file."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {KINDS_OF_FILE.get(stat.S_IFMT(mode), 'not a file')}; name a file")
    with path.open("rb") as file:
        return file.read(most)
