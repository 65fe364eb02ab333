"""One run, asked in different ways: the rows and exports are the same bytes, and every call is paid once.

The way over a Ray cluster is in fleet/test_ray.py. `pytest -m slow tests/runs/test_ways.py` kills each way 25 times.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from batched import Server, generated, hurry
from seldom import seldom
from sharded import calls, exports, folders, shards
from stub import stub

CONCURRENCY = 4
KILLS = 25  # of each way
PROMPTS = [{"id": f"p{number}", "prompt": f"Question number {number % 30}?"} for number in range(32)]  # two come twice
Play = Callable[[Server, Path], None]


def asked(server: Server, out: Path, **settings: Any) -> None:
    generated(server, out, prompts=PROMPTS, concurrency=CONCURRENCY, seed=7, **settings)


def sharded(server: Server, out: Path) -> None:
    for shard in shards(3):
        asked(server, out, shard=shard)


QUICK = ("online", "in shards", "in batches")
WAYS: dict[str, Play] = {
    "online": asked,
    "in batches": lambda server, out: asked(server, out, batch=True),
    "in shards": sharded,
    "by workers": lambda server, out: asked(server, out, workers=2),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with stub("--latency", "0.01") as running:
        yield Server(running)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def online(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was asked online, in one process, and left alone."""
    out = tmp_path_factory.mktemp("whole") / "online"
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        asked(server, out)
    return out


@pytest.mark.parametrize("way", seldom(WAYS, QUICK))
def test_every_way_gives_the_same_bytes_and_pays_once(server: Server, online: Path, tmp_path: Path, way: str) -> None:
    server.behave()
    before = server.stats()
    WAYS[way](server, tmp_path / "run")
    check(server, before, online, tmp_path / "run", most_twice=0)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_so_does_one_that_is_killed_again_and_again(server: Server, online: Path, tmp_path: Path, way: str) -> None:
    began = time.monotonic()
    WAYS[way](server, tmp_path / "calm")
    whole = time.monotonic() - began
    chance = Random(way)
    kills = runs = 0
    while kills < KILLS:  # a run that has come to its end is checked, and another one begins
        runs += 1
        out = tmp_path / f"run-{runs}"
        kills += killed_until_it_ends(server, online, out, WAYS[way], lambda: chance.uniform(0.3, 1.0) * whole)


def killed_until_it_ends(server: Server, online: Path, out: Path, play: Play, seconds: Callable[[], float]) -> int:
    """Kill a run after some seconds until it ends by itself, and check it; how often it was killed."""
    server.behave()
    before = server.stats()
    kills = 0
    while kills < KILLS and killed(lambda: play(server, out), seconds()):
        kills += 1
    play(server, out)
    check(server, before, online, out, most_twice=kills * CONCURRENCY)
    return kills


def check(server: Server, before: dict[str, Any], online: Path, out: Path, *, most_twice: int) -> None:
    """The exports of a run are those of another one, and so are its calls."""
    import cai

    if (out / "shards").exists():
        cai.export_run(out)
    assert exports(out) == exports(online)
    paid = calls(folders(out) or [out])
    assert paid == calls([online])
    answered = server.stats()["requests"] - before["requests"]
    assert len(paid) <= answered <= len(paid) + most_twice


def killed(play: Callable[[], object], seconds: float) -> bool:
    """Play in a process of its own, and kill it after some time; whether it had not ended by then."""
    child = os.fork()
    if not child:
        try:
            play()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
