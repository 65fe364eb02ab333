"""Hashes of files by their content, remembered in the cache folder; and where that folder is."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

log = logging.getLogger("cai")
LARGE = 1 << 26  # bytes that take 0.05 s to read: hashes of larger files are remembered
SETTLED = 2_000_000_000  # nanoseconds; the coarsest clock of a file system, FAT's, ticks every two seconds


def cache_folder() -> Path:
    """Where downloaded and converted files are kept: $CAI_CACHE, else $XDG_CACHE_HOME/cai, else ~/.cache/cai."""
    if own := os.environ.get("CAI_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cai"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, *patterns: str) -> str:
    """12 hex digits that name a weight file or a folder of them, from all their bytes, which are read once: 1-2 GB/s.

    patterns: which of a folder's files count; none: all do.
    """
    digest = hashlib.sha256()
    if not path.is_dir():
        digest.update(f"\0{remembered_sha256(path)}\0".encode())
    else:
        files = {file for pattern in patterns or "*" for file in path.glob(pattern) if file.is_file()}
        for file in sorted(files):
            digest.update(f"{file.name}\0{remembered_sha256(file)}\0".encode())
    return digest.hexdigest()[:12]


def remembered_sha256(path: Path) -> str:
    """The SHA-256 of a file; that of a large one is remembered in the cache until the file changes."""
    path = path.resolve()
    before = path.stat()
    if before.st_size < LARGE:
        return sha256_of(path)
    now = f"{before.st_size} {before.st_mtime_ns} {before.st_ino} ".encode() + os.fsencode(path)
    note = cache_folder() / "hashes" / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    with suppress(OSError):  # it is not there, or not for us to read
        then, _, digest = note.read_bytes().rpartition(b" ")
        if then == now:
            return digest.decode()
    digest = sha256_of(path).encode()
    after = path.stat()
    # A file that changed just now may change again within a tick of its clock, and look the same.
    if after.st_mtime_ns == before.st_mtime_ns and time.time_ns() - after.st_mtime_ns > SETTLED:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            part = note.with_name(f"{note.name}.{uuid4()}")  # for this process alone: others may write the same note
            part.write_bytes(now + b" " + digest)
            os.replace(part, note)
        except OSError as error:
            log.info("%s: its hash cannot be remembered in %s (%s), so it is read each time", path, note, error)
    return digest.decode()
