"""Runs one command of a recipe in a process of its own, which ends with this one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from cai.recipes.play import CommandFailed
from cai.records import Values

PR_SET_PDEATHSIG = 1  # prctl(2)
INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit statuses


def run_command(words: Sequence[str], *, is_quiet: bool = False) -> Values:
    """Run `cai` with these words; what it prints with --json.

    Its progress goes to this process's stderr unless it is quiet. Raises CommandFailed, or KeyboardInterrupt if it was
    interrupted.
    """
    command = [sys.executable, "-m", "cai", *words, "--json"]
    started: Any = {"preexec_fn": _end_with_parent} if sys.platform == "linux" else {}
    if is_quiet:
        started["stderr"] = subprocess.PIPE
    with _passing_on() as running, subprocess.Popen(command, stdout=subprocess.PIPE, **started) as process:
        running.append(process)
        output, said = process.communicate()
    if process.returncode in INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise CommandFailed(
            f"cai {words[0]} was killed ({name}): if memory was short, ask for less at once; run it again"
        )
    if process.returncode != 0:
        reason = said.decode().strip().rpartition("\n")[2] if said else "for the reason above"
        raise CommandFailed(f"cai {words[0]} ended with status {process.returncode}: {reason.removeprefix('error: ')}")
    try:
        values: Values = orjson.loads(output)
    except orjson.JSONDecodeError:
        raise CommandFailed(f"cai {words[0]} did not print JSON: {output[:80]!r}") from None
    return values


def _end_with_parent() -> None:
    """In the new process: be interrupted when the one that started it is gone, also by kill -9."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Let the command that runs end by itself on Ctrl-C, which reaches it too, and pass SIGTERM on to it."""
    running: list[subprocess.Popen[bytes]] = []
    if threading.current_thread() is not threading.main_thread():
        yield running
        return

    def pass_on(number: int, frame: Any) -> None:
        for process in running:
            process.send_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN if os.isatty(0) else pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
