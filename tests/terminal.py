"""Runs the command line, in this process or in one of its own, and gives back what it wrote."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from cai.cli.main import main


@dataclass
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def cai(*words: str) -> Done:
    """Run a command in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["cai", *words])
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            logging.getLogger("cai").handlers.clear()
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return Done(int(end.value.code or 0), *texts)


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "cai", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **options)


def failed(*words: str) -> str:
    """The one line that a command which cannot be done writes."""
    done = cai(*words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def on_terminal(words: list[str], **environment: str) -> tuple[int, str]:
    """Exit status and all that a command writes to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "cai", *words], stdin=follower, stdout=follower, stderr=follower, env=environ
    )
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 65536):
            written += chunk
    except OSError:  # how Linux says that the other side has gone
        pass
    os.close(leader)
    return process.wait(), written.decode()
