"""kill -9 at random moments: nothing that was finished is lost, and nothing is paid twice but what was in flight."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import forked
import pytest
from kept import call_keys
from stub import Stub, stub

ROOT = Path(__file__).parents[2]
CONCURRENCY = 8
EXPORTS = ("sft.jsonl", "dpo.jsonl", "dropped.jsonl", "README.md")
COMMANDS = {  # by the file of their rows
    "revisions.jsonl": ("generate", "--model", "openai:m"),
    "labels.jsonl": ("label", "--judge", "openai:m", "-k", "2", "--min-confidence", "0.6"),
    "candidates.jsonl": ("sample", "--model", "openai:m", "-n", "5"),
}


def prompts(file: Path, count: int) -> Path:
    """Many conversations, each with two replies to judge, some of which are no prompt or come twice."""
    lines = []
    for n in range(count):
        number = n % (count - 3)
        prompt = f"Question number {number}, asked plainly?"
        lines.append(json.dumps({"prompt": prompt, "chosen": f"The answer is {number}.", "rejected": "No answer."}))
        if n % 20 == 7:
            lines.append("{this is no JSON")
    file.write_text("\n".join(lines) + "\n")
    return file


def start(rows: str, file: Path, out: Path, server: Stub) -> subprocess.Popen[bytes]:
    name, *options = COMMANDS[rows]
    given = [str(file), *options, "--base-url", server.url + "/v1", "--out", str(out)]
    command = forked.command(name, *given, "--concurrency", str(CONCURRENCY))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def asked(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def kill_until_done(
    rows: str, file: Path, out: Path, server: Stub, log: Path, chance: random.Random, kills: int
) -> int:
    """Run the command again and again, killed `kills` times: after some requests, or some time after its start."""
    killed = 0
    while True:
        with start(rows, file, out, server) as process:
            if killed < kills:
                wanted = len(asked(log)) + chance.randint(1, 60)
                end = time.monotonic() + (60 if chance.random() < 0.7 else chance.uniform(0, 1.5))
                while process.poll() is None and len(asked(log)) < wanted and time.monotonic() < end:
                    time.sleep(0.002)
                forked.kill(process)
            code = process.wait(120)
        if code == 0:
            return killed
        if code != forked.TOO_EARLY:
            assert code == -signal.SIGKILL
            killed += 1


def kills_that_changed_nothing(tmp_path: Path, rows: str, count: int, kills: int, seed: int) -> int:
    """How often a run was killed that ended as one that was left alone; fails where it did not."""
    file, log, calm_log = prompts(tmp_path / "prompts.jsonl", count), tmp_path / "log", tmp_path / "calm.log"
    with stub("--log", str(calm_log)) as server, start(rows, file, tmp_path / "calm", server) as process:
        assert process.wait(120) == 0
    with stub("--log", str(log), "--latency", "0.02") as server:
        killed = kill_until_done(rows, file, tmp_path / "killed", server, log, random.Random(seed), kills)
    for name in EXPORTS:
        if (tmp_path / "calm" / name).exists():
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    calm, requests = asked(calm_log), asked(log)
    assert set(requests) == set(calm) and len(calm) == len(set(calm))
    assert len(requests) <= len(calm) + killed * CONCURRENCY
    made = [json.loads(line) for line in (tmp_path / "killed" / rows).read_text().splitlines()]
    ids = [row["id"] for row in made]
    assert len(ids) == len(set(ids)) == count - 3
    keys = call_keys(tmp_path / "killed")
    assert keys == call_keys(tmp_path / "calm") and len(keys) == len(calm)
    assert {key for row in made for key in row["calls"]} == set(keys)
    return killed


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ("revisions.jsonl", 40),
        pytest.param("labels.jsonl", 60, marks=pytest.mark.slow),
        pytest.param("candidates.jsonl", 50, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    tmp_path: Path, rows: str, count: int
) -> None:
    assert kills_that_changed_nothing(tmp_path, rows, count, kills=5, seed=0) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("rows", COMMANDS)
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_long_run_that_is_killed_thirty_times_ends_as_if_nothing_had_happened(
    tmp_path: Path, rows: str, seed: int
) -> None:
    assert kills_that_changed_nothing(tmp_path, rows, count=300, kills=30, seed=seed) >= 15
