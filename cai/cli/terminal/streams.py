"""The standard streams of a command, which continues if one is closed or its reader has gone."""

from __future__ import annotations

import io
import os
import sys


class Output(io.FileIO):
    """Standard output or error whose reader may go: what comes after that is dropped."""

    def write(self, data: object) -> int:
        """Write, or drop; a full disk is an error of standard output, and nothing can be said of one of stderr."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            _point_nowhere(self.fileno())  # the interpreter writes again what is left, as it ends
            if not isinstance(error, BrokenPipeError) and self.fileno() == 1:
                raise
            return memoryview(data).nbytes  # type: ignore[arg-type]


def keep_streams() -> None:
    """Let a command outlive the readers of its output.

    A number that is free, because the stream was closed, would go to the next file that is opened: then a library's
    messages would land among the rows.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _point_nowhere(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stdout, sys.stderr = _kept(sys.stdout, 1), _kept(sys.stderr, 2)


def _kept(stream: object, number: int) -> io.TextIOWrapper:
    if stream is not None and stream not in (sys.__stdout__, sys.__stderr__):
        return stream  # type: ignore[return-value] # that of a test
    out = Output(number, "wb", closefd=False)
    encoding, lines = getattr(stream, "encoding", "utf-8"), number == 2 or out.isatty()
    # A locale without a character is no reason to stop.
    return io.TextIOWrapper(io.BufferedWriter(out), encoding, "backslashreplace", line_buffering=lines)


def _point_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
