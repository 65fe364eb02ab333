"""A file of calls that is being gathered: what will be uploaded is on disk, and not in memory."""

from __future__ import annotations

import secrets
from pathlib import Path

from cai.calls.batches.service import BatchService
from cai.disk.writing import unwritable
from cai.records import Values

FOLDER = "batches"  # in the run folder


def spool_path(folder: Path, nonce: str) -> Path:
    """The file of a batch until it is created."""
    return folder / FOLDER / f"{nonce}.jsonl"


class Spool:
    """Calls of one endpoint on their way into a batch."""

    def __init__(self, folder: Path, service: BatchService, endpoint: str) -> None:
        self.nonce = secrets.token_hex(8)
        self.endpoint = endpoint
        self.keys: list[bytes] = []
        self._service = service
        self._path = spool_path(folder, self.nonce)
        self._size = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "wb")  # noqa: SIM115
        except OSError as error:
            raise unwritable(self._path.parent, error) from error
        self._write(service.frame.begin)

    def line(self, payload: Values) -> bytes:
        """The next line, not added yet."""
        return self._service.line(self.nonce, len(self.keys), self.endpoint, payload)

    def takes(self, line: bytes) -> bool:
        """Whether there is room for a line; an empty file takes any."""
        frame = self._service.frame
        return not self.keys or self._size + len(frame.between) + len(line) + len(frame.end) <= self._service.most_bytes

    def add(self, key: bytes, line: bytes) -> None:
        """Add the line of a call."""
        if self.keys:
            self._write(self._service.frame.between)
        self._write(line)
        self.keys.append(key)

    def finish(self) -> None:
        """Write the file to its end."""
        self._write(self._service.frame.end)
        self._file.close()

    def discard(self) -> None:
        """Remove the file, of which nothing was sent."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise unwritable(self._path.parent, error) from error
        self._size += len(data)
