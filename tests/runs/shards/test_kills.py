"""Shards, and what joins them, that are killed between two writes: they end as those that were left alone."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
from forked import Ended, fork
from goldens.make import WRITER, write_inputs
from kept import environment
from kills import OF_MOVES
from seldom import seldom
from sharded import calls, exports, folders, lines, shards
from steady import Steady

COUNT = 3
ONE = "between two replaced files"  # of the places where a second join is killed; all others are slow tests
WORST = (
    "between the calls and the lines",
    "in the middle of a line",
    "between the lines and their states",
)
WORDS = ("generate", "inputs/prompts.jsonl", "-c", "inputs/law.yaml", *WRITER, "--price", "1000,2000")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_inputs(folder)
    return folder


def play(work: Path, server: Steady, *words: str, **end: object) -> Ended:
    """A command in that folder, whose models the server answers."""
    more = ["--base-url", server.url + "/v1", "--concurrency", "4"] if words[0] == "generate" else []
    return partial(fork, folder=work, environment=environment())([*words, *more], **end)


def finish(work: Path, server: Steady, *words: str) -> None:
    ended = play(work, server, *words)
    assert ended.status == 0, ended.stderr


def test_shards_that_are_killed_and_joined_under_kills_are_one_run(work: Path, server: Steady) -> None:
    finish(work, server, *WORDS, "--out", "whole")
    before = server.answered
    killed = 0
    for shard, place in zip(shards(COUNT), WORST, strict=True):
        ended = play(work, server, *WORDS, "--shard", shard, "--out", "parts", place=place, nth=2)
        assert ended.status in (0, -signal.SIGKILL), ended.stderr
        killed += ended.status != 0
        finish(work, server, *WORDS, "--shard", shard, "--out", "parts")
    assert killed > 1
    runs = folders(work / "parts")
    assert lines(runs) == lines([work / "whole"])
    assert calls(runs) == calls([work / "whole"])
    assert server.answered - before <= len(calls([work / "whole"])) + 4 * killed
    for place in OF_MOVES:
        ended = play(work, server, "export", "parts", place=place)
        assert ended.status == -signal.SIGKILL, (place, ended.stderr)
    finish(work, server, "export", "parts")
    finish(work, server, "export", "whole")
    assert exports(work / "parts") == exports(work / "whole")


@pytest.mark.parametrize("place", seldom(OF_MOVES, [ONE]))
def test_a_join_that_is_killed_after_another_is_done_anew(work: Path, server: Steady, place: str) -> None:
    out = f"twice-{place.replace(' ', '-')}"
    for limit in ("5", "9"):
        for shard in shards(2):
            finish(work, server, *WORDS, "--limit", limit, "--shard", shard, "--out", out)
        if limit == "5":
            finish(work, server, "export", out)
    assert play(work, server, "export", out, place=place).status == -signal.SIGKILL
    finish(work, server, "export", out)
    finish(work, server, *WORDS, "--limit", "9", "--out", "short")
    assert exports(work / out) == exports(work / "short")
