"""`cai run`: commands in processes of their own, which end with it, and a table of what became of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from forked import fork
from kept import command, environment, rows
from seldom import seldom
from stub import Stub, stub

MOST_IN_FLIGHT = 4
DRAWS = ("--only", "draws")  # a stage that is one command
PROMPTS = [f"Question {number}?" for number in range(4)]
RECIPE = """
name: small
vars: {model: "openai:tiny@URL/v1", prompts: prompts.jsonl, rounds: 1}
stages:
  draft:
    generate: {prompts: $prompts, model: $model, rounds: $rounds, concurrency: 4, gate: false}
    export: {split: 0.5}
  draws: {sample: {prompts: $prompts, model: $model, n: 2, concurrency: 4}}
"""


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub("--latency", "0.05") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, server: Stub) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("URL", server.url))
    lines = (json.dumps({"id": text, "prompt": text}) + "\n" for text in PROMPTS)
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    return tmp_path


def test_a_dry_run_prints_the_commands_and_runs_none(folder: Path, server: Stub) -> None:
    ended = fork(["run", "recipe.yaml", "--dry-run", "--set", "rounds=2"], folder, environment())
    first, second, *others = ended.stdout.splitlines()
    assert first.startswith("cai generate prompts.jsonl --model openai:tiny@") and "--rounds 2 " in first
    assert second == "cai export --split 0.5 runs/small/draft"
    assert len(others) == 1 and not (folder / "runs").exists() and server.stats()["requests"] == 0


def test_the_summary_has_every_stage(folder: Path) -> None:
    ended = fork(["run", "recipe.yaml", "--json"], folder, environment())
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["ran"] == ["draft", "draws"]
    again = fork(["run", "recipe.yaml"], folder, environment())
    assert again.status == 0 and "nothing was left to do: no model was asked" in again.stderr


def test_a_stage_that_fails_ends_it_with_its_own_line(folder: Path) -> None:
    ended = fork(["run", "recipe.yaml", "--set", "prompts=nothing.jsonl"], folder, environment())
    assert ended.status == 1
    assert "nothing.jsonl" in ended.stderr and "draft  failed" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "error: cai generate ended with status 1: for the reason above"


@pytest.mark.parametrize("number", seldom([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]))
def test_an_interrupted_recipe_says_so_and_is_resumed(folder: Path, server: Stub, number: signal.Signals) -> None:
    process = begin(folder, *DRAWS)
    server.wait_for_a_request()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.splitlines()[-1] == "interrupted"
    assert finish(folder, *DRAWS) == 0


@pytest.mark.slow
def test_a_command_that_is_killed_is_named_and_the_recipe_can_be_resumed(folder: Path, server: Stub) -> None:
    process = begin(folder, *DRAWS)
    server.wait_for_a_request()
    [pid] = [
        int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_in(folder, pid) and int(pid) != process.pid
    ]
    os.kill(pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith("error: cai sample was killed (SIGKILL): if memory was short")
    assert finish(folder, *DRAWS) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 10])
def test_a_recipe_that_is_killed_ends_in_the_same_report_and_pays_nothing_twice(
    folder: Path, server: Stub, kills: int
) -> None:
    chance = Random(kills)
    for _ in range(kills):
        process = begin(folder)
        try:
            process.communicate(timeout=chance.uniform(0.5, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        wait_for_the_command_to_end(folder)
    assert finish(folder) == 0
    asked = server.stats()["duplicates"]
    text = report(folder)
    kept = folder / "killed"
    (folder / "runs").rename(kept)
    assert finish(folder) == 0
    assert text == report(folder)
    twice = len(PROMPTS)  # each prompt of `draws` is asked twice alike
    assert asked <= twice + kills * MOST_IN_FLIGHT
    assert len(rows(kept / "small" / "draws" / "candidates.jsonl")) == len(PROMPTS)


def report(folder: Path) -> str:
    """The text of the report, without times."""
    page = (folder / "runs" / "small" / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\d+:\d\d(:\d\d)?|\d{4}-\d\d-\d\d", "–", page)


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    typed = command("run", "recipe.yaml", *words)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(typed, cwd=folder, env=environment(), start_new_session=True, **pipes)


def finish(folder: Path, *words: str) -> int:
    ended = fork(["run", "recipe.yaml", *words], folder, environment())
    return ended.status


def wait_for_the_command_to_end(folder: Path) -> None:
    """Until no process works in the folder: a command whose recipe was killed ends by itself."""
    end = time.monotonic() + 30
    while any(is_in(folder, pid) for pid in os.listdir("/proc") if pid.isdigit()):
        assert time.monotonic() < end, "the command goes on"
        time.sleep(0.05)


def is_in(folder: Path, pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False
