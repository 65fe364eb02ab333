"""A run whose workers are actors of a Ray cluster: `pytest -m slow tests/runs/fleet` where the extra `ray` is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from kept import command, environment, rows
from sharded import at, calls, exports, folders, generate, lines, written
from steady import Steady
from stub import stub

import cai
from cai.errors import BudgetReached, MissingExtra, RunError, UsageError
from cai.models.serving.guard import descendants
from cai.runs.fleet.job import Job

CONCURRENCY = 8
KEY = "sk-the-key-of-this-test-93c1"
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")


# Without Ray


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"--ray .*pip install 'cai-toolkit\[ray\]'"):
        list(cai.generate(["Why?"], "harmless", model="openai:m", ray="local", out=tmp_path / "run"))


def test_a_node_that_does_not_see_the_run_folder_says_so(tmp_path: Path) -> None:
    job = Job(lambda settings: settings, None, False, folder=str(tmp_path), mark=tmp_path / "run" / "shards" / ".mark")
    with pytest.raises(RunError, match=r"does not see what is in \S+run: name an --out on storage that all nodes"):
        job.run()


def test_a_node_without_the_folder_of_the_command_says_so(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    job = Job(lambda settings: settings, None, False, folder=str(missing), mark=missing / "run" / "shards" / ".mark")
    with pytest.raises(RunError, match=r"cannot enter .*start cai in a folder that all nodes of the cluster share"):
        job.run()


# With a cluster of its own


@needs_ray
@pytest.mark.slow
def test_actors_of_which_some_are_killed_give_what_one_process_gives(tmp_path: Path) -> None:
    file = written(tmp_path / "prompts.jsonl", [{"prompt": f"Question {number % 47}?"} for number in range(50)])
    with stub() as server:
        subprocess.run(typed(file, tmp_path / "calm", server.url), env=environment(), check=True)
    with stub("--latency", "0.1") as server, start(file, tmp_path / "run", server.url) as process:
        killed = kill_two(process, tmp_path / "run")
        _, said = process.communicate(timeout=170)
        stats = server.stats()
    assert process.returncode == 0, said
    assert exports(tmp_path / "run") == exports(tmp_path / "calm")
    assert lines([tmp_path / "run"]) == lines([tmp_path / "calm"])
    keys = calls(folders(tmp_path / "run"))
    assert keys == calls([tmp_path / "calm"]) and len(keys) == stats["unique"]
    assert stats["duplicates"] <= len(killed) * CONCURRENCY
    assert said.count(b"its worker has died (Ray has started it again)") == len(killed) == 2
    assert b"ray" not in said.replace(b"Ray", b"").replace(b"array", b"").lower().split(b"folder")[0]
    logs = Path(os.path.realpath("/tmp/ray/session_latest")) / "logs"
    assert not [log for log in logs.rglob("*") if log.is_file() and KEY.encode() in log.read_bytes()]


@needs_ray
@pytest.mark.slow
def test_no_cluster_at_an_address_is_one_line(tmp_path: Path) -> None:
    given = [
        *typed(written(tmp_path / "prompts.jsonl"), tmp_path / "run", "http://127.0.0.1:9"),
        "--ray",
        "127.0.0.1:9",
    ]
    done = subprocess.run(given, env=environment(), capture_output=True, timeout=170)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith(b"error: --ray 127.0.0.1:9: no such cluster")


# In a cluster that is there


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two CPUs, which this process has joined."""
    ray = pytest.importorskip("ray")
    for _ in range(3):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
            break
        except Exception:  # of a machine that is too busy
            ray.shutdown()
    yield ray
    ray.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_cap_holds_for_all_actors_together(cluster: Any, tmp_path: Path, server: Steady) -> None:
    file = written(tmp_path / "prompts.jsonl", [{"prompt": f"Question {number}?"} for number in range(20)])
    generate(file, tmp_path / "whole", server)
    cost = sum(call.cost_usd or 0.0 for call in cai.read_calls(tmp_path / "whole"))
    told = at(server, model="openai:writer", rounds=1, price="1000,2000", max_tokens=100, out=tmp_path / "run")
    with pytest.raises(BudgetReached, match="--max-cost"):
        list(cai.generate(file, "harmless", ray="auto", max_cost=cost / 2, **told))
    spent = sum(call.cost_usd or 0.0 for run in folders(tmp_path / "run") for call in cai.read_calls(run))
    assert cost / 8 < spent <= cost / 2
    made = list(cai.generate(file, "harmless", ray="auto", **told))
    assert 0 < len(made) < len(rows(tmp_path / "run" / "revisions.jsonl")) == 20


@needs_ray
@pytest.mark.slow
def test_more_workers_than_the_cluster_has_cpus_are_refused(cluster: Any, tmp_path: Path, server: Steady) -> None:
    told = at(server, model="openai:writer", out=tmp_path / "run")
    with pytest.raises(UsageError, match="--workers 3: the Ray cluster has 2 CPUs"):
        list(cai.generate(["Why?"], "harmless", ray="auto", workers=3, **told))


# Helpers


def typed(file: Path, out: Path, url: str) -> list[str]:
    words = ["generate", file, "--model", "openai:m", "--rounds", "1", "--concurrency", str(CONCURRENCY), "--out", out]
    return command(*words, server=url + "/v1")


def start(file: Path, out: Path, url: str) -> subprocess.Popen[bytes]:
    given = [*typed(file, out, url), "--ray", "local", "--workers", "2"]
    return subprocess.Popen(given, env=environment() | {"OPENAI_API_KEY": KEY}, stderr=subprocess.PIPE)


def kill_two(process: subprocess.Popen[bytes], out: Path) -> list[int]:
    """Kill two actors, each once there are some more rows."""
    killed: list[int] = []
    end = time.monotonic() + 120
    while len(killed) < 2 and process.poll() is None and time.monotonic() < end:
        done = sum(len(rows(file)) for file in out.glob("shards/*/revisions.jsonl"))
        for pid in descendants(process.pid):
            if done > 8 * (len(killed) + 1) and is_player(pid) and pid not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
                break
        time.sleep(0.05)
    return killed


def is_player(pid: int) -> bool:
    try:
        return b"ray::Player" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
