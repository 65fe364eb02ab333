"""Writes a file at once, and says why one could not be written."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from cai.errors import CaiError, RunError

AGAIN = "free some space there or change its permissions, and run the same command again"


def written(path: Path, lines: Iterable[bytes]) -> int:
    """Write a file to the disk; returns its size."""
    with open(path, "wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())  # else a loss of power may leave the name of a file with no content
        return file.tell()


def append_whole(file: FileIO, line: bytes) -> None:
    """Add a line to a file, or nothing of it, so that the next line is not joined to a part; OSError if it is full."""
    start = file.seek(0, os.SEEK_END)
    if file.write(line) != len(line):
        file.truncate(start)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader or a kill sees the old content or the new, never a part."""
    part = path.with_name(path.name + ".part")
    try:
        written(part, [content])
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


def share_mode(folder: Path) -> None:
    """Give weights the permissions of their folder's config: safetensors writes them for their owner only."""
    mode = next(folder.glob("*config.json")).stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


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
