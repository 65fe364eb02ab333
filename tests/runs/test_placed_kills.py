"""kill -9 between two writes, and a full disk: what a folder then holds, and what it holds once it was resumed."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from forked import Ended, fork
from goldens.make import JUDGE, WRITER, write_inputs
from kept import IN_ANY_ORDER, call_keys, environment, run
from kills import OF_MOVES, PLACES, Reaper
from seldom import seldom
from steady import Steady

from cai.folder.journal.store import Store

Play = Callable[..., Ended]
PROMPTS = "inputs/prompts.jsonl"
PRICE = ("--price", "1000,2000")
WIDTH = 4  # calls in flight
LABEL = ("label", "inputs/pairs.jsonl", *JUDGE, "-k", "2")
COMMANDS: dict[str, tuple[str, ...]] = {  # by the kind of run; without --out
    "generate": ("generate", PROMPTS, "-c", "inputs/law.yaml", *WRITER),
    "sample": ("sample", PROMPTS, *WRITER, "-n", "3"),
    "best-of": ("sample", PROMPTS, *WRITER, "--best-of", "3", *JUDGE, "-k", "1"),
    "label": LABEL,
    "gold": (*LABEL, "--gold", "inputs/gold.jsonl", "--agreement", "0.75", "-k", "1"),
    "target": ("label", "sampled", *JUDGE, "-k", "1", "--target", "12", "--max-candidates", "4"),
}
SMALL = [{"id": f"r{n}", "prompt": f"Question {n}?{mark}"} for n, mark in enumerate(["", " [truncated]", "", "", ""])]
CALLS: dict[str, dict[str, Any]] = {  # of Python
    "generate": {
        "function": "generate",
        "arguments": [SMALL, "inputs/law.yaml"],
        "keywords": {"model": "openai:writer"},
    },
    "sample": {"function": "sample", "arguments": [SMALL, "openai:writer"], "keywords": {"n": 3}},
    "label": {
        "function": "label",
        "arguments": ["inputs/pairs.jsonl", "inputs/law.yaml"],
        "keywords": {"judge": "openai:judge", "principles": 2},
    },
}
NEEDED: dict[str, int] = {}  # answers that a run which is left alone takes, by folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with the inputs."""
    folder = tmp_path_factory.mktemp("work")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def play(work: Path, server: Steady) -> Play:
    """Plays a run in that folder, in which there is a sample run."""
    run("sample", PROMPTS, *WRITER, "-n", "2", "--limit", "5", "--out", "sampled", folder=work, server=v1(server))
    return partial(fork, folder=work, environment=environment())


def v1(server: Steady) -> str:
    return server.url + "/v1"


def words_of(kind: str, out: str, server: Steady) -> list[str]:
    return [*COMMANDS[kind], *PRICE, "--concurrency", str(WIDTH), "--base-url", v1(server), "--out", out]


def call_of(kind: str, out: str, server: Steady) -> dict[str, Any]:
    call = CALLS[kind]
    more = {"out": out, "base_url": v1(server), "concurrency": WIDTH, "price": "1000,2000"}
    return call | {"keywords": call["keywords"] | more}


def lines_of(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def runs_in(folder: Path) -> list[Path]:
    """The run in a folder and those inside, such as `gold`."""
    return sorted(file.parent for file in folder.rglob("calls.sqlite"))


def check_rows_name_calls(folder: Path) -> None:
    """Every whole line names calls that are there."""
    for path in runs_in(folder):
        stored = set(call_keys(path))
        for name in IN_ANY_ORDER:
            if (path / name).exists():
                assert stored.issuperset(key for row in lines_of(path / name) for key in row.get("calls", ()))


def state_of(folder: Path) -> dict[str, Any]:
    """All that must be the same however often a run was killed: files, in input order, calls and what they cost."""
    state: dict[str, Any] = {}
    for path in runs_in(folder):
        name = str(path.relative_to(folder))
        for file in sorted(path.glob("*.jsonl")):
            rows = lines_of(file)
            if file.name in IN_ANY_ORDER:
                rows.sort(key=lambda row: (row["position"], row.get("stage", "")))
            state[f"{name}/{file.name}"] = rows
        state[f"{name} calls"] = call_keys(path)
        info = json.loads((path / "run.json").read_bytes())
        with closing(Store(path, read_only=True)) as store:
            state[f"{name} cost"] = pytest.approx(info["cost_usd"])
            costs = [cost for (cost,) in store._db.execute("SELECT cost FROM calls")]
            assert info["cost_usd"] == pytest.approx(sum(costs))
        state[f"{name} counts"] = info["rows"], info["dropped"], info["stopped"]
    return state


def kill(play: Play, run: Any, place: str, nth: int, work: Path, out: str) -> bool:
    """Whether the run came to the place; if not, it has ended by itself."""
    ended = play(run, place=place, nth=nth)
    assert ended.status in (0, -signal.SIGKILL), ended.stderr
    if (work / out).exists():
        check_rows_name_calls(work / out)
    if isinstance(run, dict):
        [rows] = [work / out / name for name in IN_ANY_ORDER[:3] if (work / out / name).exists()]
        assert {row["id"] for row in lines_of(rows)}.issuperset(ended.stdout.split())
    return ended.status != 0


def finish(play: Play, run: Any) -> None:
    ended = play(run)
    assert ended.status == 0, ended.stderr


def check_kills(
    places: list[tuple[str, int]], door: str, kind: str, work: Path, server: Steady, play: Play, out: str
) -> None:
    """Kill a run at places, one after the other: it ends as one that was left alone, and pays for little twice."""
    words = words_of if door == "cli" else call_of
    calm = f"calm-{door}-{kind}"
    before = server.answered
    if not (work / calm).exists():
        finish(play, words(kind, calm, server))
        NEEDED[calm] = server.answered - before
    before = server.answered
    killed = sum(kill(play, words(kind, out, server), place, nth, work, out) for place, nth in places)
    assert killed
    finish(play, words(kind, out, server))
    assert state_of(work / out) == state_of(work / calm)
    models = 2 if kind == "target" else 1
    assert server.answered - before <= NEEDED[calm] + killed * WIDTH * models


WORST = (
    "between the calls and the lines",
    "in the middle of a line",
    "between the lines and their states",
)
DOORS = [*(("cli", kind) for kind in COMMANDS), *(("python", kind) for kind in CALLS)]
EVERY = [  # a sample run replaces no file, since nothing is cut from it
    (door, kind, place)
    for (door, kind), place in itertools.product(DOORS, PLACES)
    if kind != "sample" or "replaced" not in place
]


@pytest.mark.parametrize("place", [*PLACES, *OF_MOVES])
def test_every_place_where_a_run_is_killed_is_in_the_code(place: str) -> None:
    Reaper(place, 1).place_in_code()


WAYS = [
    ("cli", "generate"), ("cli", "best-of"), ("cli", "gold"), ("cli", "target"), ("python", "sample"),
    ("python", "label"),
]  # fmt: skip


@pytest.mark.parametrize(("door", "kind"), seldom(WAYS, [("cli", "target"), ("python", "sample")]))
def test_a_run_that_is_killed_between_its_writes_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, play: Play, door: str, kind: str
) -> None:
    check_kills([(place, 2) for place in WORST], door, kind, work, server, play, f"{door}-{kind}")


@pytest.mark.slow
@pytest.mark.parametrize(("door", "kind", "place"), EVERY)
def test_a_run_that_is_killed_early_and_late_at_one_place_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, play: Play, door: str, kind: str, place: str
) -> None:
    places = [(place, nth) for nth in (1, 3, 10)]
    check_kills(places, door, kind, work, server, play, f"{door}-{kind}-{place.replace(' ', '-')}")


def test_a_cap_counts_every_call_that_is_stored_however_often_a_run_is_killed(
    work: Path, server: Steady, play: Play
) -> None:
    finish(play, words_of("generate", "uncapped", server))
    whole = json.loads((work / "uncapped" / "run.json").read_bytes())["cost_usd"]
    words = [*words_of("generate", "capped", server), "--max-cost", str(whole / 2)]
    for nth, place in enumerate((*WORST, "before an answer is stored"), start=1):
        assert play(words, place=place, nth=nth).status == -signal.SIGKILL
        check_rows_name_calls(work / "capped")
    assert play(words).status == 1
    info = json.loads((work / "capped" / "run.json").read_bytes())
    with closing(Store(work / "capped", read_only=True)) as store:
        assert info["cost_usd"] == pytest.approx(store.spent().cost_usd)
    assert whole / 4 < info["cost_usd"] <= whole / 2
    assert "--max-cost" in info["stopped"]
    finish(play, words_of("generate", "capped", server))
    assert state_of(work / "capped") == state_of(work / "uncapped")


# A full disk


@pytest.mark.skipif(os.name == "nt", reason="files cannot be limited there")
@pytest.mark.parametrize("kind", ["generate", "label"])
def test_a_run_whose_disk_is_full_again_and_again_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, play: Play, kind: str
) -> None:
    out = f"full-{kind}"
    failures = 0
    for kilobytes in itertools.count(60, 60):
        ended = play(words_of(kind, out, server), bytes=kilobytes << 10)
        if ended.status == 0:
            break
        message = ended.stderr.splitlines()[-1]
        assert message.startswith((f"error: cannot write to {out}", f"error: {out}/calls.sqlite"))
        failures += 1
        if (work / out / "calls.sqlite").exists():
            check_rows_name_calls(work / out)
    assert failures > 2
    finish(play, words_of(kind, f"whole-{kind}", server))
    assert state_of(work / out) == state_of(work / f"whole-{kind}")
