"""What stands for a command in the tests writes and ends as the command does, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import command, kill
from kept import OLD_FOLDERS, environment

VIEW = ("view", OLD_FOLDERS / "generate-finished")


@pytest.fixture
def viewing(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A command that goes on until it is ended, and has said that it is there."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(*VIEW), env=environment(), cwd=tmp_path, **streams)  # type: ignore[call-overload]
    assert process.stdout.readline().startswith(b"http")
    return process  # type: ignore[no-any-return]


def test_it_writes_and_ends_as_a_process_of_its_own(tmp_path: Path) -> None:
    words = ["constitution", "check", "no-such-law"]
    both = [
        subprocess.run(line, env=environment(), cwd=tmp_path, capture_output=True)
        for line in (command(*words), [sys.executable, "-m", "cai", *words])
    ]
    ends = [(done.returncode, done.stdout, done.stderr) for done in both]
    assert ends[0] == ends[1] and ends[0][0] == 1 and b"no-such-law" in ends[0][2]


def test_ctrl_c_and_the_status_are_passed_on(viewing: subprocess.Popen[bytes]) -> None:
    viewing.send_signal(signal.SIGINT)
    viewing.communicate(timeout=60)
    assert viewing.returncode == 0


def test_once_it_is_killed_the_run_is_gone(viewing: subprocess.Popen[bytes], tmp_path: Path) -> None:
    here = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_in(pid, tmp_path)]
    assert len(here) == 2  # the run, and what stands for it
    kill(viewing)
    viewing.communicate(timeout=60)
    assert viewing.returncode == -signal.SIGKILL
    assert not [pid for pid in here if is_in(pid, tmp_path)]


def is_in(pid: str, folder: Path) -> bool:
    """Whether a process runs in a folder."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:  # it has ended, or is another user's
        return False
