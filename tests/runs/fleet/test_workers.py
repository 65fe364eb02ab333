"""A run that several processes play: the rows, exports and calls of one process, whatever dies on the way."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kept import command, environment, rows, run
from serving_fakes import Fake, fake_server
from sharded import at, calls, exports, folders, generate, lines, written
from steady import Steady
from stub import Stub, http, scripted, stub

import cai
from cai.disk.locks import is_in_use
from cai.errors import AuthenticationFailed, BudgetReached, RunError, UsageError

CONCURRENCY = 8
PRICE = "1000,2000"  # USD per million tokens: a call costs cents


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Steady) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    generate(written(folder / "prompts.jsonl"), folder / "run", server)
    return folder / "run"


# What comes out


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_give_the_rows_exports_and_calls_of_one_process(
    tmp_path: Path, server: Steady, whole: Path, workers: int
) -> None:
    before = server.answered
    file = written(tmp_path / "prompts.jsonl")
    made = list(cai.generate(file, "harmless", **settings_of(server, tmp_path / "run", workers=workers)))
    assert len(folders(tmp_path / "run")) == workers
    assert lines([tmp_path / "run"]) == lines([whole])
    assert exports(tmp_path / "run") == exports(whole)
    assert calls(folders(tmp_path / "run")) == calls([whole])
    assert server.answered - before == len(calls([whole]))
    assert sorted(row.id for row in made) == sorted(row["id"] for row in rows(whole / "revisions.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("label", "--judge", "openai:m", "-k", "2", "--min-confidence", "0.6"),
        ("label", "--judge", "openai:m", "-k", "2", "--gold", "gold.jsonl"),
        ("sample", "--model", "openai:m", "-n", "3"),
        ("sample", "--model", "openai:m", "--best-of", "3", "--judge", "openai:m"),
    ],
)
def test_every_kind_of_run_is_what_one_process_makes_of_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = many_prompts(tmp_path / "prompts.jsonl", 20)
    gold = [{"prompt": f"Gold {number}?", "chosen": f"It is {number}", "rejected": "No."} for number in range(60)]
    written(tmp_path / "gold.jsonl", gold)
    with stub() as server:
        for out, workers in (("one", "1"), ("two", "2")):
            run(
                *words[:1],
                file,
                *words[1:],
                "--workers",
                workers,
                "--out",
                out,
                folder=tmp_path,
                server=server.url + "/v1",
            )
        assert server.stats()["duplicates"] * 2 == server.stats()["requests"]
    for name in ("", "labels"):
        if (tmp_path / "one" / name / "README.md").exists():
            assert exports(tmp_path / "two" / name) == exports(tmp_path / "one" / name)


@pytest.mark.slow
def test_a_run_of_workers_grows_like_any_other(tmp_path: Path, server: Steady) -> None:
    file = written(tmp_path / "prompts.jsonl", [{"prompt": f"Question {number}?"} for number in range(6)])
    before = server.answered
    generate(file, tmp_path / "run", server, workers=2, limit=3)
    generate(file, tmp_path / "run", server, workers=3)  # which play the two shards that are there
    generate(file, tmp_path / "whole", server)
    assert len(folders(tmp_path / "run")) == 2
    assert exports(tmp_path / "run") == exports(tmp_path / "whole")
    assert server.answered - before == 2 * len(calls([tmp_path / "whole"]))


def test_one_worker_is_a_run_without_shards(tmp_path: Path, server: Steady) -> None:
    generate(["Why?"], tmp_path, server, workers=1)
    assert not folders(tmp_path) and len(rows(tmp_path / "revisions.jsonl")) == 1


# Money


@pytest.mark.slow
def test_a_cap_holds_for_all_workers_together(tmp_path: Path, server: Steady) -> None:
    file = written(tmp_path / "prompts.jsonl", [{"prompt": f"Question {number}?"} for number in range(40)])
    generate(file, tmp_path / "whole", server, price=PRICE)
    cost = cost_of([tmp_path / "whole"])
    with pytest.raises(BudgetReached, match=r"--max-cost \S+ USD: \S+ spent"):
        generate(file, tmp_path / "run", server, price=PRICE, workers=2, max_cost=cost / 2, max_tokens=100)
    spent = cost_of(folders(tmp_path / "run"))
    assert cost / 4 < spent <= cost / 2
    generate(file, tmp_path / "run", server, price=PRICE, workers=2, max_cost=cost * 1.5, max_tokens=100)
    assert len(rows(tmp_path / "run" / "revisions.jsonl")) == 40


# What goes wrong


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"batch": True, "model": "openai:gpt-4.1"}, "--batch gathers"),
        ({"shard": "0/2"}, "--workers plays all shards"),
        ({"concurrency": 1}, "--concurrency 1 cannot be divided among 2 workers"),
        ({"rpm": 1}, "--rpm 1 cannot be divided"),
    ],
)
def test_what_workers_cannot_play_is_refused_at_once(tmp_path: Path, more: dict[str, Any], problem: str) -> None:
    told = {"model": "openai:m", "base_url": "http://127.0.0.1:9/v1", "workers": 2, "out": tmp_path / "run", **more}
    with pytest.raises(UsageError, match=problem):
        list(cai.generate(["Why?"], "harmless", **told))
    assert not (tmp_path / "run").exists()


def test_a_source_that_can_be_read_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can be read once: write it to a file"):
        list(cai.generate(iter(["Why?"]), "harmless", model="openai:m", workers=2, out=tmp_path / "run"))


def test_a_folder_of_a_run_without_shards_is_not_divided(tmp_path: Path, server: Steady) -> None:
    generate(["Why?"], tmp_path, server)
    with pytest.raises(RunError, match="holds a run without shards: leave out --workers"):
        generate(["Why?"], tmp_path, server, workers=2)


def test_an_error_of_one_worker_ends_all_with_one_line(tmp_path: Path) -> None:
    file = many_prompts(tmp_path / "prompts.jsonl", 8)

    async def fail() -> str:
        async with scripted(http(401, {"error": {"message": "Incorrect API key provided"}})) as server:
            told: dict[str, Any] = {"model": "openai:m", "base_url": server.url, "workers": 2, "out": tmp_path / "run"}
            with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY") as wrong:
                async for _ in cai.agenerate(file, "harmless", **told):
                    pass
        return str(wrong.value)

    assert "\n" not in asyncio.run(fail())
    assert not any(map(is_in_use, folders(tmp_path / "run")))


# Ends


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_stop_with_who_started_them_and_go_on_later(tmp_path: Path, number: int) -> None:
    file, out = many_prompts(tmp_path / "prompts.jsonl", 30), tmp_path / "run"
    with stub("--latency", "0.1") as server:
        process = start(file, out, server, 2, stderr=subprocess.PIPE)
        wait_for_rows(out)
        workers = workers_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said.rstrip().endswith(b"interrupted") and b"not finished: run the same command again" in said
        assert len(workers) == 2 and gone(workers.values())
        assert start(file, out, server, 2).wait(120) == 0
        assert server.stats()["duplicates"] <= CONCURRENCY
    assert len(rows(out / "revisions.jsonl")) == 27


@pytest.mark.slow
def test_workers_end_with_who_started_them_however_that_ended(tmp_path: Path) -> None:
    file, out = many_prompts(tmp_path / "prompts.jsonl", 30), tmp_path / "run"
    with stub("--latency", "0.1") as server:
        process = start(file, out, server, 2)
        wait_for_rows(out)
        workers = workers_of(process.pid)
        process.kill()
        process.wait(60)
        assert len(workers) == 2 and gone(workers.values())


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 20])
def test_whoever_is_killed_the_run_ends_as_if_nothing_had_happened(tmp_path: Path, kills: int) -> None:
    file, chance = many_prompts(tmp_path / "prompts.jsonl", 20 * kills), random.Random(0)
    with stub() as server:
        run("generate", file, "--model", "openai:m", "--out", "calm", folder=tmp_path, server=server.url + "/v1")
    with stub("--latency", "0.03") as server:
        killed = kill_until_done(file, tmp_path / "killed", server, chance, kills)
        stats = server.stats()
    assert killed >= kills / 2
    assert exports(tmp_path / "killed") == exports(tmp_path / "calm")
    assert lines([tmp_path / "killed"]) == lines([tmp_path / "calm"])
    keys = calls(folders(tmp_path / "killed"))
    assert keys == calls([tmp_path / "calm"]) and len(keys) == stats["unique"]
    assert stats["duplicates"] <= killed * CONCURRENCY


@pytest.mark.slow
def test_rows_of_a_worker_that_was_killed_are_all_handed_over(tmp_path: Path, server: Steady) -> None:
    file = written(tmp_path / "prompts.jsonl", [{"prompt": f"Question {number}?"} for number in range(40)])
    made: list[str] = []
    for row in cai.generate(file, "harmless", **settings_of(server, tmp_path / "run", workers=2)):
        made.append(row.id)
        if len(made) in (3, 12):
            os.kill(workers_of(os.getpid())["0/2"], signal.SIGKILL)
    assert sorted(made) == sorted(row["id"] for row in rows(tmp_path / "run" / "revisions.jsonl"))


# Servers of their own


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with fake_server(tmp_path, monkeypatch) as server:
        yield server


def test_all_workers_ask_the_one_server_that_is_started_for_them(fake: Fake, tmp_path: Path) -> None:
    told: dict[str, Any] = {"model": "vllm:tiny", "rounds": 1, "workers": 2, "out": tmp_path / "run"}
    assert len(list(cai.generate(["How do bees fly?", "Why is the sky blue?"], "harmless", **told))) == 2
    assert len(fake.starts()) == 1
    assert fake.gone(), "the server goes with the run"


# Helpers


def settings_of(server: Steady, out: Path, **more: Any) -> dict[str, Any]:
    return at(server, model="openai:writer", rounds=1, price=PRICE, out=out, **more)


def many_prompts(file: Path, count: int) -> Path:
    """Conversations with two replies to judge, some of which are no prompt or come twice."""
    prompts: list[Any] = []
    for number in range(count):
        text = f"Question number {number % (count - 3)}, asked plainly?"
        prompts.append({"prompt": text, "chosen": f"The answer is {number}.", "rejected": "No answer."})
        if number % 20 == 7:
            prompts.append("{this is no JSON")
    return written(file, prompts)


def start(file: Path, out: Path, server: Stub, workers: int, *words: str, **more: Any) -> subprocess.Popen[bytes]:
    name, *options = words or ("generate", "--model", "openai:m")
    given = [name, file, *options, "--concurrency", str(CONCURRENCY), "--workers", str(workers), "--out", out]
    told = {"stderr": subprocess.DEVNULL, **more}
    return subprocess.Popen(command(*given, server=server.url + "/v1"), env=environment(), **told)


def kill_until_done(file: Path, out: Path, server: Stub, chance: random.Random, kills: int) -> int:
    """Run the command until it is through, while its workers and itself are killed; how often that was.

    A worker is killed once its shard has some more rows: of those that die without an answer only two are replaced.
    """
    killed = 0
    while True:
        with start(file, out, server, 2) as process:
            sizes = sizes_in(out)
            while process.poll() is None and killed < kills:
                time.sleep(chance.uniform(0, 0.5))
                now = sizes_in(out)
                grown = [pid for shard, pid in workers_of(process.pid).items() if now[shard] > sizes[shard]]
                if grown and process.poll() is None:
                    killed += 1
                    os.kill(chance.choice([*grown, process.pid]), signal.SIGKILL)
                    sizes = sizes_in(out)
            code = process.wait(120)
        if code == 0:
            return killed
        assert code == -signal.SIGKILL


def sizes_in(out: Path) -> dict[str, int]:
    """The size of the rows of each of two shards."""
    files = {f"{n}/2": out / "shards" / f"{n:05}-of-00002" / "revisions.jsonl" for n in range(2)}
    return {shard: file.stat().st_size if file.exists() else 0 for shard, file in files.items()}


def workers_of(pid: int) -> dict[str, int]:
    """The workers that a process has started, by their shards."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if any(b"cai.runs.fleet" in word for word in words):
                found[words[-2].decode()] = child
    return found


def gone(pids: Iterable[int]) -> bool:
    """Whether processes end within a while."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def wait_for_rows(out: Path) -> None:
    """Return once every shard of a run of two has a row."""
    end = time.monotonic() + 60
    while sum(bool(rows(file)) for file in out.glob("shards/*/revisions.jsonl")) < 2:
        assert time.monotonic() < end, "no rows came"
        time.sleep(0.02)


def cost_of(runs: list[Path]) -> float:
    """USD that the calls of runs cost."""
    return sum(call.cost_usd or 0.0 for run in runs for call in cai.read_calls(run))
