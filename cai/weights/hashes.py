"""Fingerprints of weights, and the cache folder that remembers them."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path

log = logging.getLogger("cai")
LARGE = 1 << 26  # bytes that take 0.05 s to read: hashes of larger files are remembered
SETTLED = 2_000_000_000  # nanoseconds; the coarsest clock of a file system, FAT's, ticks every two seconds


def cache_folder() -> Path:
    """Where downloaded and converted files are kept: $CAI_CACHE, else $XDG_CACHE_HOME/cai, else ~/.cache/cai."""
    if own := os.environ.get("CAI_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cai"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, *patterns: str) -> str:
    """12 hex digits that name a weight file or a folder of them, from all their bytes, which are read once: 1-2 GB/s.

    patterns: which of a folder's files count; none: all do.
    """
    digest = hashlib.sha256()
    if not path.is_dir():
        digest.update(f"\0{_hash(path)}\0".encode())
    else:
        files = {file for pattern in patterns or "*" for file in path.glob(pattern) if file.is_file()}
        for file in sorted(files):
            digest.update(f"{file.name}\0{_hash(file)}\0".encode())
    return digest.hexdigest()[:12]


def _hash(path: Path) -> str:
    """The SHA-256 of a file; that of a large one is remembered in the cache until the file changes."""
    path = path.resolve()
    before = path.stat()
    if before.st_size < LARGE:
        return _sha256(path)
    known = f"{before.st_size} {before.st_mtime_ns} {before.st_ino} ".encode() + os.fsencode(path)
    note = cache_folder() / "hashes" / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    if note.is_file():
        noted, _, digest = note.read_bytes().rpartition(b" ")
        if noted == known:
            return digest.decode()
    digest = _sha256(path).encode()
    after = path.stat()
    # A file that changed just now may change again within a tick of its clock, and look the same.
    if after.st_mtime_ns == before.st_mtime_ns and time.time_ns() - after.st_mtime_ns > SETTLED:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=note.parent, prefix=".making-", delete=False) as scratch:
                scratch.write(known + b" " + digest)
            os.replace(scratch.name, note)
        except OSError as error:
            log.info("%s: its hash cannot be remembered in %s (%s), so it is read each time", path, note, error)
    return digest.decode()
