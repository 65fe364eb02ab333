"""A run that is looked at while it is written by a process of its own, killed, and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import forked
import pytest
from seldom import seldom
from stub import Stub, stub
from viewed_runs import opened, read, rows

from cai.viewer.index import Index
from cai.viewer.sources import find_sources

ROOT = Path(__file__).parents[2]
COUNT = 24
COMMANDS = {
    "generate": ("revisions.jsonl", "--model", "openai:m"),
    "label": ("labels.jsonl", "--judge", "openai:m", "-k", "2", "--min-confidence", "0.6"),
    "sample": ("candidates.jsonl", "--model", "openai:m", "-n", "3"),
}


def prompts(file: Path) -> Path:
    pairs = [{"prompt": f"Question {at}?", "chosen": f"It is {at}.", "rejected": "No answer."} for at in range(COUNT)]
    file.write_text("{this is no JSON\n" + "".join(json.dumps(pair) + "\n" for pair in pairs))
    return file


def start(command: str, file: Path, out: Path, server: Stub, *more: str) -> subprocess.Popen[bytes]:
    words = [
        str(file),
        *COMMANDS[command][1:],
        *more,
        "--base-url",
        f"{server.url}/v1",
        "--out",
        str(out),
        "--concurrency",
        "4",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
    return subprocess.Popen(
        forked.command(command, *words), env=environment, stderr=subprocess.DEVNULL, cwd=file.parent
    )


def watch(index: Index, entries: int, process: subprocess.Popen[bytes]) -> None:
    """Until as many entries are listed, or the process has ended; what is said of them adds up all the while."""
    listed = 0
    while listed < entries and process.poll() is None:
        state = index.state()[0]
        listed = state["entries"]
        assert state["problem"] is None
        assert sum(state["facets"].get("status", {}).values()) == listed
        page = index.page(0)
        assert len(page["rows"]) <= page["total"]
        time.sleep(0.01)


def as_if_whole(index: Index, out: Path) -> dict[str, Any]:
    """What an index of a finished run comes to, once it lists what one does that has seen it whole."""
    with opened(out) as whole:
        end: dict[str, Any] = read(whole).state()[0]
        while index.state()[0] != end:
            time.sleep(0.01)
        assert rows(index) == rows(whole)
    return end


@pytest.mark.parametrize("command", seldom(COMMANDS, ["generate"]))
def test_a_run_that_is_killed_and_resumed_is_listed_as_if_it_had_been_whole(tmp_path: Path, command: str) -> None:
    file, out = prompts(tmp_path / "prompts.jsonl"), tmp_path / "run"
    with stub("--latency", "0.02") as server, start(command, file, out, server) as process:
        while not (out / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        with closing(Index(find_sources([out]))) as index:
            index.start()
            watch(index, 6, process)
            forked.kill(process)
            process.wait()
            with start(command, file, out, server) as again:
                watch(index, 10**9, again)
                assert again.wait() == 0
            end = as_if_whole(index, out)
    assert (end["facets"]["reason"]["dropped: bad_input"], end["entries"]) == (1, COUNT + 1)


@pytest.mark.parametrize("command", ["generate", pytest.param("label", marks=pytest.mark.slow)])
def test_a_run_that_grows_is_listed_as_if_it_had_been_so_long_from_the_start(tmp_path: Path, command: str) -> None:
    file, out = prompts(tmp_path / "prompts.jsonl"), tmp_path / "run"
    raised = {"generate": ("--rounds", "3"), "label": ("-k", "3")}[command]
    with stub("--latency", "0.01") as server, start(command, file, out, server) as process:
        assert process.wait() == 0
        with closing(Index(find_sources([out]))) as index:
            index.start()
            with start(command, file, out, server, *raised) as longer:
                while (out / COMMANDS[command][0]).read_bytes().count(b"\n") < COUNT + 6:
                    assert longer.poll() is None
                    watch(index, COUNT + 1, longer)
                forked.kill(longer)
            with start(command, file, out, server, *raised) as again:
                watch(index, 10**9, again)
                assert again.wait() == 0
            end = as_if_whole(index, out)
    assert end["entries"] == COUNT + 1
    assert (out / COMMANDS[command][0]).read_bytes().count(b"\n") == COUNT
