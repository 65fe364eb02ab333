"""Batches on the command line: Ctrl-C leaves them at the provider, the same command takes them up; list and cancel."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from batched import Server, batch_server
from kept import environment
from terminal import cai, failed


@pytest.fixture
def server() -> Iterator[Server]:
    with batch_server() as running:
        running.behave(takes=1e9)
        yield running


def command(server: Server, out: Path, *words: str) -> list[str]:
    given = ["generate", "--limit", "3", "--model", "openai:m", "--no-gate", "--rounds", "1", "--batch", *words]
    return [*given, "--base-url", server.base("openai"), "--out", str(out)]


def test_ctrl_c_leaves_the_batches_which_are_listed_cancelled_and_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    words = command(server, out)
    with subprocess.Popen(forked.command(*words), stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not server.did("create") and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)  # until the name is on disk; if not, it is found again
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 batch is in progress at the provider; the same command picks up the answers" in said

    listed = json.loads(cai("batch", "list", str(out), "--json").stdout)
    [entry] = listed["batches"]
    assert (entry["calls"], entry["waiting"], entry["state"]) == (3, 3, "in progress")

    cancelled = cai("batch", "cancel", str(out), "--base-url", server.base("openai")).stdout
    assert "1 batch cancelled" in cancelled and server.did("cancel")
    server.tell(takes=0)
    cai(*words)
    assert len((out / "sft.jsonl").read_text().splitlines()) == 3
    assert server.stats()["statuses"]["200"] == 9
    assert "taken" in cai("batch", "list", str(out)).stdout


def test_the_folder_must_be_a_run(tmp_path: Path) -> None:
    assert "is not a run folder" in failed("batch", "list", str(tmp_path))
