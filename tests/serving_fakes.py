"""The fake server command of `benchmarks/` in place of `vllm` and `sglang`, and what is left of its processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

FAKE = Path(__file__).parent.parent / "benchmarks" / "fake_server.py"
MARK = "CAI_TEST_SERVER"  # of the environment, which every process that comes of a test has


class Fake:
    """The command, how it behaves from now on, and what it was told and asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch, self.mark = folder, patch, uuid4().hex
        self.command = folder / "fake"
        self.command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(FAKE))} "$@"\n')
        self.command.chmod(0o755)
        self.log = folder / "asked.jsonl"
        patch.setenv(MARK, self.mark)
        patch.setenv("CAI_CACHE", str(folder / "cache"))
        patch.setattr(tempfile, "tempdir", str(folder))  # of the logs
        patch.setenv("TMPDIR", str(folder))  # of those that a process of its own starts
        for name in ("CAI_VLLM", "CAI_SGLANG"):
            patch.setenv(name, str(self.command))
        for name in ("VLLM_BASE_URL", "SGLANG_BASE_URL"):
            patch.delenv(name, raising=False)
        self.does()

    def does(self, **habits: Any) -> None:
        """Say how servers that are started from now on behave."""
        self._patch.setenv("FAKE_SERVER", json.dumps({"log": str(self.log), **habits}))

    def noted(self) -> list[Any]:
        if not self.log.exists():
            return []
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()]

    def starts(self) -> list[list[str]]:
        """The command lines of the servers that were started."""
        return [note for note in self.noted() if isinstance(note, list)]

    def asked(self) -> list[dict[str, Any]]:
        """The requests that came."""
        return [note for note in self.noted() if isinstance(note, dict)]

    def logs(self) -> list[Path]:
        """The logs of servers that are there."""
        return sorted(self.folder.glob("cai-*.log"))

    def processes(self) -> list[int]:
        """Whatever runs of what the test has started."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def guards(self) -> list[int]:
        """The guards among them."""
        return [pid for pid in self.processes() if b"guard.py" in self._read(pid, "cmdline")]

    def _read(self, pid: int, name: str) -> bytes:
        with suppress(OSError):  # it has just ended
            return Path(f"/proc/{pid}/{name}").read_bytes()
        return b""

    def _is_ours(self, pid: int) -> bool:
        return pid != os.getpid() and f"{MARK}={self.mark}".encode() in self._read(pid, "environ")

    def gone(self, seconds: float = 20.0) -> bool:
        """Whether no process is left, at the latest after so long."""
        end = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@contextmanager
def fake_server(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """The fake in a folder of its own; it is an error if anything of it is left at the end."""
    from cai.models.serving.pool import POOL

    fake = Fake(folder, patch)
    try:
        yield fake
        POOL.stop()
        assert fake.gone(), f"processes are left: {fake.processes()}"
    finally:
        POOL.stop()
        for pid in fake.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
