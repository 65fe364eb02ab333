"""kill -9 between two writes, and a full disk: what a folder then holds, and what it holds once it was resumed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kills
import pytest
from goldens.make import JUDGE, WRITER, write_inputs
from kept import IN_ANY_ORDER, call_keys, environment, run
from steady import Steady, steady

from cai.folder.store import Store

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
def server() -> Iterator[Steady]:
    with steady() as running:
        yield running


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, server: Steady) -> Path:
    """A folder to work in, with the inputs and a sample run."""
    folder = tmp_path_factory.mktemp("work")
    write_inputs(folder)
    run("sample", PROMPTS, *WRITER, "-n", "2", "--limit", "5", "--out", "sampled", folder=folder, server=v1(server))
    return folder


def v1(server: Steady) -> str:
    return server.url + "/v1"


def words_of(kind: str, out: str, server: Steady) -> list[str]:
    return [*COMMANDS[kind], *PRICE, "--concurrency", str(WIDTH), "--base-url", v1(server), "--out", out]


def call_of(kind: str, out: str, server: Steady) -> list[str]:
    call = CALLS[kind]
    more = {"out": out, "base_url": v1(server), "concurrency": WIDTH, "price": "1000,2000"}
    return [json.dumps(call | {"keywords": call["keywords"] | more})]


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


def kill(place: str, nth: int, door: str, words: list[str], work: Path, out: str) -> bool:
    """Whether the process came to the place; if not, it has ended by itself."""
    with kills.start(place, nth, door, words, work) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
    if (work / out).exists():
        check_rows_name_calls(work / out)
    if door == "python":
        reported = stdout.decode().split()
        [rows] = [work / out / name for name in IN_ANY_ORDER[:3] if (work / out / name).exists()]
        assert {row["id"] for row in lines_of(rows)}.issuperset(reported)
    return process.returncode != 0


def finish(door: str, words: list[str], work: Path) -> None:
    with kills.start("nowhere", 0, door, words, work) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()


def check_kills(places: list[tuple[str, int]], door: str, kind: str, work: Path, server: Steady, out: str) -> None:
    """Kill a run at places, one after the other: it ends as one that was left alone, and pays for little twice."""
    words = words_of if door == "cli" else call_of
    calm = f"calm-{door}-{kind}"
    before = server.answered
    if not (work / calm).exists():
        finish(door, words(kind, calm, server), work)
        NEEDED[calm] = server.answered - before
    before = server.answered
    killed = sum(kill(place, nth, door, words(kind, out, server), work, out) for place, nth in places)
    assert killed
    finish(door, words(kind, out, server), work)
    assert state_of(work / out) == state_of(work / calm)
    models = 2 if kind == "target" else 1
    assert server.answered - before <= NEEDED[calm] + killed * WIDTH * models


WORST = (
    "between the calls and the lines",
    "in the middle of a line",
    "between the lines and their states",
)
DOORS = [*(("cli", kind) for kind in COMMANDS), *(("python", kind) for kind in CALLS)]


@pytest.mark.parametrize(
    ("door", "kind"),
    [
        ("cli", "generate"),
        ("cli", "best-of"),
        ("cli", "gold"),
        ("cli", "target"),
        ("python", "sample"),
        ("python", "label"),
    ],
)
def test_a_run_that_is_killed_between_its_writes_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, door: str, kind: str
) -> None:
    check_kills([(place, 2) for place in WORST], door, kind, work, server, f"{door}-{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("place", kills.PLACES)
@pytest.mark.parametrize(("door", "kind"), DOORS)
def test_a_run_that_is_killed_early_and_late_at_one_place_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, door: str, kind: str, place: str
) -> None:
    places = [(place, nth) for nth in (1, 3, 10)]
    check_kills(places, door, kind, work, server, f"{door}-{kind}-{place.replace(' ', '-')}")


def test_a_cap_counts_every_call_that_is_stored_however_often_a_run_is_killed(work: Path, server: Steady) -> None:
    run(*words_of("generate", "uncapped", server), folder=work)
    whole = json.loads((work / "uncapped" / "run.json").read_bytes())["cost_usd"]
    words = [*words_of("generate", "capped", server), "--max-cost", str(whole / 2)]
    for place in (*WORST, "before an answer is stored"):
        for nth in (1, 2):
            with kills.start(place, nth, "cli", words, work) as process:
                process.communicate(timeout=120)
            check_rows_name_calls(work / "capped")
    run(*words, folder=work, status=1)
    info = json.loads((work / "capped" / "run.json").read_bytes())
    with closing(Store(work / "capped", read_only=True)) as store:
        assert info["cost_usd"] == pytest.approx(store.spent().cost_usd)
    assert whole / 4 < info["cost_usd"] <= whole / 2
    assert "--max-cost" in info["stopped"]
    run(*words_of("generate", "capped", server), folder=work)
    assert state_of(work / "capped") == state_of(work / "uncapped")


# A full disk


def limited(kind: str, server: Steady, work: Path, out: str, most: int) -> int:
    """Run a command that may write files of at most so many bytes; its status."""
    run = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); del sys.argv[1]"
    words = [sys.executable, "-c", f"{run}; from cai.cli.main import main; main()", str(most)]
    ended = subprocess.run(
        [*words, *words_of(kind, out, server)], cwd=work, env=environment(), capture_output=True, text=True, timeout=120
    )
    if ended.returncode:
        assert ended.stderr.splitlines()[-1].startswith((f"error: cannot write to {out}", f"error: {out}/calls.sqlite"))
    return ended.returncode


@pytest.mark.skipif(os.name == "nt", reason="files cannot be limited there")
@pytest.mark.parametrize("kind", ["generate", "label"])
def test_a_run_whose_disk_is_full_again_and_again_ends_as_one_that_was_left_alone(
    work: Path, server: Steady, kind: str
) -> None:
    out = f"full-{kind}"
    failures = 0
    for kilobytes in itertools.count(60, 40):
        if limited(kind, server, work, out, kilobytes << 10) == 0:
            break
        failures += 1
        if (work / out / "calls.sqlite").exists():
            check_rows_name_calls(work / out)
    assert failures > 2
    run(*words_of(kind, f"whole-{kind}", server), folder=work)
    assert state_of(work / out) == state_of(work / f"whole-{kind}")
