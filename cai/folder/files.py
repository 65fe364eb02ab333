"""Files of a folder: replaced at once, locked, fingerprinted, read as JSON objects."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import logging
import os
import sqlite3
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from cai.errors import CaiError, MissingExtra, RunError, UsageError
from cai.texts.wording import one_line

if TYPE_CHECKING:
    from cai.records import Object, Values

log = logging.getLogger("cai")

LOCK = ".lock"
# SQLite's names for what our own statements never lead to, unless the file has changed.
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_SCHEMA")
AGAIN = "free some space there or change its permissions, and run the same command again"
LARGE = 1 << 26  # bytes that take 0.05 s to read: hashes of larger files are remembered
SETTLED = 2_000_000_000  # nanoseconds; the coarsest clock of a file system, FAT's, ticks every two seconds


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader or a kill sees the old content or the new, never a part."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the new name with no content
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise unwritable(path, error) from error


def unwritable(path: str | Path, why: OSError | str, advice: str = AGAIN) -> RunError:
    """The error for a file or folder that cannot be written."""
    if isinstance(why, OSError):
        why = why.strerror or str(why)
    return RunError(f"cannot write to {path}: {why}; {advice}")


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
        return RunError(f"{file} cannot be used: {reason}; see to the folder and its disk, and try again")


def share_mode(folder: Path) -> None:
    """Give weights the permissions of their folder's config: safetensors writes them for their owner only."""
    mode = next(folder.glob("*config.json")).stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def lock_file(file: IO[bytes], *, wait: bool = True) -> None:
    """Lock an open file until it is closed; OSError if another process has it and is not waited for."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)  # of a file that others append to, all lock the same byte
        mode = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined,unused-ignore]
        msvcrt.locking(file.fileno(), mode, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def take_lock(path: Path) -> IO[bytes]:
    """Take the folder's lock, which the system lets go when the process ends, however it ends."""
    file = open(path, "ab")  # noqa: SIM115
    try:
        lock_file(file, wait=False)
    except OSError:
        file.close()
        raise RunError(f"{path.parent} is in use by another process: wait for it, or name another --out") from None
    return file


def check_files(folder: Path, names: Iterable[str]) -> None:
    """RunError for a name that something else than a file has, such as a pipe, which would be waited for."""
    for path in map(folder.joinpath, names):
        if exists(path) and not path.is_file():
            raise RunError(f"{path} is not a file: move it away, and run the same command again")


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


def identity_hash(identity: Object) -> str:
    """8 hex digits over everything that decides which rows a run makes; UsageError if a text cannot be written down."""
    try:
        content = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are not UTF-8 text") from None
    return hashlib.sha256(content).hexdigest()[:8]


def differences(there: Object, now: Object, prefix: str = "") -> list[str]:
    """What two identities disagree on, one short text each."""
    texts = []
    for key in sorted({*there, *now}):
        a, b = there.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            texts += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            texts.append(f"{prefix}{key} is {_shown(a)} there, {_shown(b)} now")
    return texts


def _shown(value: Any) -> str:
    """A setting in a line; of one with settings of its own only that it is there."""
    return "set" if isinstance(value, dict) else repr(value)


def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is not installed (a bare checkout)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def need(what: str, extra: str, *packages: str) -> None:
    """Raise MissingExtra if one of the packages that `what` needs is not installed; `extra` installs them."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra(what, extra)


def read_object(
    path: Path, advice: str = "put the file back as it was", loads: Callable[[bytes], Any] = json.loads
) -> Values:
    """The object in a JSON file; RunError with `advice` if it cannot be read or holds anything else.

    loads: reads the bytes; those of files of others may hold NaN, which those of ours may not.
    """
    from cai.sources.yamlfile import read_regular  # with PyYAML and pydantic, which cai --version needs not

    try:
        content = loads(read_regular(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}; {advice}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object; {advice}")
    return content


def exists(path: Path) -> bool:
    """Whether there is such a file; RunError if that cannot be seen, as in a folder that may not be entered."""
    try:
        return path.exists()
    except OSError as error:
        advice = "change the permissions of its folder, or name another one"
        raise RunError(f"{path} cannot be read: {error.strerror}; {advice}") from error


def read_if_there(path: Path) -> Values:
    """The object in a JSON file, an empty one if there is no such file."""
    return read_object(path) if exists(path) else {}


UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def unwritten(error: BaseException | None) -> str | None:
    """Why a file could not be written, if that is the cause of an error of Python, safetensors or torch.save."""
    if error is None or isinstance(error, CaiError):
        return None
    if isinstance(error, OSError) and error.errno in UNWRITTEN:
        return error.strerror or str(error)
    if type(error).__name__ == "SafetensorError" and _passed(error, "safetensors.torch", "save_file"):
        return str(error).rpartition(": ")[2]
    # torch.save's archive finds itself shorter than what it wrote. Subclasses are errors of a device.
    if type(error) is RuntimeError and _passed(error, "torch.serialization", "save"):
        return "the disk is full"
    return unwritten(error.__cause__ or error.__context__)


def _passed(error: BaseException, module: str, function: str) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals["__name__"] == module and frame.f_code.co_name == function for frame in frames)


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
