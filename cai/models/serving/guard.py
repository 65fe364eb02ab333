"""Runs a server for the process that starts it, and ends it with that process: python guard.py STARTER GRACE COMMAND…

Needs nothing but Python, and imports nothing of this package: it is started as a file. The server is stopped once the
process STARTER is gone, however it ended, or has closed the pipe that is the guard's stdin; unless it has written "k"
into that: keep. SIGTERM stops it, too. To stop is SIGTERM to the server, SIGKILL after GRACE seconds, and
SIGKILL to all that it has left behind: its process group, and on Linux its descendants in whatever group. The exit
status is the server's, or 128 and the number of the signal that ended it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux, <linux/prctl.h>
TICK = 0.1  # seconds between two looks at what has changed


def prctl(option: int, value: int) -> None:
    """Ask something of Linux's kernel; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_guard() -> None:
    """In the server before its program is loaded: a guard that is killed takes it along."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guard:
    """A server, and what it leaves behind. starter: the process that it is run for."""

    def __init__(self, starter: int, grace: float, command: list[str]) -> None:
        self.starter, self.grace = starter, grace
        self.term = False
        self.kept = False
        self.watched = [0]  # stdin, until its other end is closed
        signal.signal(signal.SIGTERM, self._heard)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # children of a dead server become the guard's
        self.server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_guard
        )

    def _heard(self, number: int, frame: object) -> None:
        self.term = True

    def watch(self) -> int:
        """Wait until the server ends, or is to be stopped; its status."""
        while self.server.poll() is None and not self.term:
            ready, _, _ = select.select(self.watched, [], [], TICK)
            if ready:
                self._read()
            # Others may hold the pipe open: what the starter has forked.
            if not self.kept and (not self.watched or os.getppid() != self.starter):
                break
        if self.server.poll() is None:
            self._stop()
        self._clean()
        status = self.server.wait()
        return status if status >= 0 else 128 - status

    def _read(self) -> None:
        said = os.read(0, 1)
        self.kept = self.kept or said == b"k"
        if not said:
            self.watched = []

    def _stop(self) -> None:
        self.server.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.server.wait(self.grace)
        if self.server.poll() is None:
            self.server.kill()
            self.server.wait()

    def _clean(self) -> None:
        """Kill what the server has left behind, until nothing of it is there."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.server.pid, signal.SIGKILL)
        while left := descendants(os.getpid()):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(TICK)


def descendants(pid: int) -> list[int]:
    """The processes below one, as Linux lists them; elsewhere none."""
    parents: dict[int, int] = {}
    with suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def main() -> None:
    """Guard the command on the command line."""
    starter, grace, *command = sys.argv[1:]
    try:
        guard = Guard(int(starter), float(grace), command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        sys.exit(127)
    sys.exit(guard.watch())


if __name__ == "__main__":
    main()
