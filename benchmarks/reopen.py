"""What it takes to open a large finished run again: with nothing new, with ten prompts more, and after a kill.

    python benchmarks/reopen.py [--rows 100000] [--kinds sample,generate]
    python benchmarks/reopen.py --rows 1000000 --kinds sample    # the size of the budget: minutes, and 2 GB of disk

Makes a run with a model object in the process, and plays it again, each time in a process of its own. CPU is counted,
of all threads, since others may use the machine. A sample run cuts no training rows; of a generate run the cut is
counted by itself. The baseline is the least that a script could do which asks nothing twice: read every prompt, and
look it up among the ids of the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import child, conditions, cpu_seconds, table
from memory import WIDTH, InProcess, peak
from recut import text

SETTINGS: dict[str, dict[str, Any]] = {
    "sample": {"n": 1},
    "generate": {"constitution": "harmless", "rounds": 1, "gate": False},
}
ROWS = {"sample": "candidates.jsonl", "generate": "revisions.jsonl"}
CALLS = {"sample": 1, "generate": 3}  # of a row
BUDGET = 20e-6  # seconds a call
MORE = 10


def write_prompts(path: Path, count: int, *, first: bool = False) -> None:
    """Prompts of 30 words; first: `MORE` new ones before the others."""
    import random

    chance = random.Random(0)
    numbers = [*range(count), *range(count, count + MORE)] if first else range(count)
    lines = [json.dumps({"id": f"r{number}", "prompt": f"Question {number}: {text(chance, 30)}"}) for number in numbers]
    if first:
        lines = lines[-MORE:] + lines[:-MORE]
    path.write_text("".join(f"{line}\n" for line in lines))


def played(kind: str, prompts: Path, folder: Path, *, cuts: bool) -> dict[str, Any]:
    """Play a run to its end with the model of this process; what that took."""
    from importlib import import_module

    module = import_module(f"cai.runs.kinds.{kind}")
    made, settings_class = getattr(module, f"{kind.title()}Run"), getattr(module, f"{kind.title()}Settings")
    model = InProcess()
    begun, cpu = time.perf_counter(), cpu_seconds()
    spec = f"{model.provider}:{model.name}"
    run = made(prompts, settings_class(model=spec, out=folder, concurrency=WIDTH, **SETTINGS[kind]))
    for player in run.players:
        run.players[player] = model
    run.models = [model]
    run.cuts = cuts
    run.finish()
    return {
        "cpu": cpu_seconds() - cpu,
        "seconds": time.perf_counter() - begun,
        "peak": peak(),
        "finished": run.finished,
        "skipped": run.skipped,
    }


def by_hand(kind: str, prompts: Path, folder: Path) -> dict[str, Any]:
    """Read every prompt, and look it up among the ids of the rows."""
    begun = cpu_seconds()
    with open(folder / ROWS[kind]) as rows:
        there = {json.loads(line)["id"] for line in rows}
    with open(prompts) as lines:
        new = [record for record in map(json.loads, lines) if record["id"] not in there]
    return {"cpu": cpu_seconds() - begun, "new": len(new), "peak": peak()}


def forget_end(folder: Path, kind: str) -> None:
    """Have the journal know nothing of the last tenth of the lines, as after a loss of power."""
    import sqlite3

    with sqlite3.connect(folder / "calls.sqlite") as db:
        path = folder / ROWS[kind]
        with open(path, "rb") as file:
            file.seek(path.stat().st_size * 9 // 10)
            file.readline()
            size = file.tell()
            positions = [(json.loads(line)["position"],) for line in file]
        db.execute("UPDATE files SET size = ? WHERE name = ?", (size, path.name))
        db.executemany("DELETE FROM inputs WHERE position = ?", positions)
    db.close()


def measure(kind: str, count: int) -> Iterator[list[str]]:
    """The rows of the table for one kind of run."""
    place = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        prompts, folder = place / "prompts.jsonl", place / "run"
        task = {"kind": kind, "prompts": str(prompts), "folder": str(folder), "cuts": False}
        write_prompts(prompts, count)
        made = child(__file__, task)
        assert made["finished"] == count, made
        hand = child(__file__, task | {"hand": True})
        assert not hand["new"], hand
        calls = count * CALLS[kind]
        yield told(f"{kind}: {calls:,} finished calls in {count:,} rows, opened again with nothing new", calls,
                   child(__file__, task), hand, 0)  # fmt: skip
        if kind == "generate":
            cut = child(__file__, task | {"cuts": True})
            yield told(f"{kind}: the same with the cut at its end, and the same cut as before", None, cut, hand, 0)
        forget_end(folder, kind)
        yield told(f"{kind}: opened after a loss of the journal's last tenth", calls, child(__file__, task), hand, 0)
        write_prompts(prompts, count, first=True)
        yield told(f"{kind}: opened with {MORE} new prompts before the others", None, child(__file__, task), hand, MORE)
    finally:
        shutil.rmtree(place)


def told(what: str, calls: int | None, found: dict[str, Any], hand: dict[str, Any], new: int) -> list[str]:
    assert found["finished"] == new, found
    budget = "–" if calls is None else f"≤ {BUDGET * calls:.3g} s"
    ours = f"{found['cpu']:.1f} s of CPU ({found['seconds']:.1f} s), {found['peak'] / 1e6:.0f} MB"
    return [
        what,
        budget,
        ours,
        f"{hand['cpu']:.1f} s, {hand['peak'] / 1e6:.0f} MB",
        f"{hand['cpu'] / found['cpu']:.2f}",
    ]


def run_child(task: dict[str, Any]) -> dict[str, Any]:
    prompts, folder = Path(task["prompts"]), Path(task["folder"])
    if task.get("hand"):
        return by_hand(task["kind"], prompts, folder)
    return played(task["kind"], prompts, folder, cuts=task["cuts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", default="sample,generate")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(json.loads(arguments.child))))
        return
    conditions()
    table(row for kind in arguments.kinds.split(",") for row in measure(kind, arguments.rows))


if __name__ == "__main__":
    main()
