"""A JSONL file that another process may append to, or replace, while it is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MOST_LINE = 1 << 23  # bytes of a line that is read: a row of 16 replies of 100,000 tokens has less
TAIL = 256  # bytes before the end of what was read, by which a file is known again


class Line(NamedTuple):
    """A whole line. number: from 1. content: None if it is longer than `MOST_LINE`."""

    number: int
    start: int
    size: int
    content: bytes | None


class Growing:
    """What was read of a file so far; a torn last line is not read, since the rest of it may come.

    size: bytes in all, as they were seen last; 0 for a file that is not there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restart()

    def restart(self) -> None:
        """Forget what was read."""
        self.end = self.lines = self.size = 0
        self._tail = b""
        self._is_torn = False  # whether what is there after `end` is no whole line
        self._seen: tuple[int, int, int] | None = None  # device, inode and time of change, at `size`

    def read(self, most: int) -> list[Line] | None:
        """The next whole lines: one, and further ones while all have less than so many bytes together.

        None if what was read is no longer there: the file is gone, another one, has lost lines or was edited.
        """
        status = self._status()
        if status is None:
            return [] if self._seen is None else None
        is_as_before = (_identity(status), status.st_size) == (self._seen, self.size)
        if is_as_before and (self._is_torn or self.end >= self.size):
            return []
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if not self._is_known(file, status):
                return None
            self._seen, self.size = _identity(status), status.st_size
            return list(self._lines(file, self.end + most))

    def _is_known(self, file: BinaryIO, status: os.stat_result) -> bool:
        """Whether a file still begins with what was read."""
        if self._seen is None:
            return True
        if _identity(status)[:2] != self._seen[:2] or status.st_size < self.end:
            return False
        if status.st_size == self.size and _identity(status) != self._seen:
            return False
        file.seek(self.end - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _lines(self, file: BinaryIO, stop: int) -> Iterator[Line]:
        file.seek(self.end)
        while self.end < min(stop, self.size):
            content, size = _whole_line(file)
            self._is_torn = size == 0
            if self._is_torn:
                return
            self.lines += 1
            yield Line(self.lines, self.end, size, content)
            self._tail = (self._tail + (content or b"\n"))[-TAIL:]
            self.end += size

    def _status(self) -> os.stat_result | None:
        """None for what is not a file, such as a pipe, which would be waited for."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _whole_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """The content of a line, None if it is too long, and its bytes: none if it is torn."""
    content = file.readline(MOST_LINE)
    size = len(content)
    if content.endswith(b"\n"):
        return content, size
    while size >= MOST_LINE and (content := file.readline(1 << 20)):
        size += len(content)
        if content.endswith(b"\n"):
            return None, size
    return None, 0
