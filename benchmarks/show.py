"""How long `cai show` takes on a run of many rows, from the start of the process. No model is asked.

    python benchmarks/show.py [--rows 1000000] [--folder FOLDER] [--repeats 5]

The run is made first, as chains of two rounds of about 3 KB a row with five calls. A million rows take some minutes and
4 GB; with --folder it is kept there, and found there the next time. Rows are in the order in which 64
prompts at once would finish; the last one in a hundred was tried again, and comes at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _common import HERE, Times, conditions, table

from cai.folder.journal.inputs import names_of
from cai.folder.journal.payloads import seal_of
from cai.folder.journal.store import Store
from cai.sources.conversations import prompt_hash

BUDGET = 0.5  # seconds
WIDTH = 64  # prompts at once
CALLS = 5  # of a row
LUMP = 20_000  # rows in a transaction
WORDS = ("river", "bread", "answer", "quiet", "window", "honest", "paper", "seven", "light", "kind", "stone", "field")
LAW = {"name": "kind", "version": "1.0.0", "hash": "c0ffee"}
MODELS = dict.fromkeys(("assistant", "critic", "reviser"), "openai:small")
CLI = "import sys; from cai.cli.main import main; sys.argv[0] = 'cai'; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    conditions()
    with tempfile.TemporaryDirectory() as scratch:
        run = arguments.folder or Path(scratch) / "run"
        if not (run / "run.json").exists():
            make_run(run, arguments.rows)
        size = (run / "revisions.jsonl").stat().st_size / 1e9
        rows = arguments.rows
        cases = {
            "the first row": [],
            "a row in the middle": [f"row-{rows // 2}"],
            "a row that was tried again": [f"row-{rows - rows // 100 + 7}"],
            "the same with --calls": [f"row-{rows // 2}", "--calls"],
            "the beginning of every id": ["row"],
            "an id that is not there": ["nothing"],
        }
        lines = []
        for what, words in cases.items():
            times, cpu = measured(run, words, arguments.repeats)
            budget = "–" if what.startswith("an id") else f"≤ {BUDGET} s"
            lines.append(
                [
                    f"{what}, {rows:,} rows of {size:.1f} GB",
                    budget,
                    f"{times.show(2, 's')}; CPU {cpu.show(2, 's')}",
                    "–",
                    "–",
                ]
            )
        times, cpu = measured(run, ["--help"], arguments.repeats)
        lines.append(["`cai show --help`", "–", f"{times.show(2, 's')}; CPU {cpu.show(2, 's')}", "–", "–"])
        table(lines)


def measured(run: Path, words: list[str], repeats: int) -> tuple[Times, Times]:
    """Wall time and CPU of processes that show a row."""
    wall, cpu = Times(), Times()
    command = [sys.executable, "-c", CLI, "show", str(run), *words]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    for _ in range(repeats):
        begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        wall.values.append(time.perf_counter() - begun)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.values.append(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime)
    return wall, cpu


def prompt(at: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Question {at} about {WORDS[at % len(WORDS)]}?"}]


def order(count: int) -> Iterator[int]:
    """Positions as rows finish: a few in flight at once, and at the end those that were tried again."""
    draw = random.Random(0)
    again = range(count - count // 100, count)
    waiting: list[int] = []
    for at in range(again.start):
        waiting.append(at)
        if len(waiting) == WIDTH:
            yield waiting.pop(draw.randrange(WIDTH))
    yield from waiting
    yield from again


def make_run(folder: Path, count: int) -> None:
    """A generate run with its journal."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    Store(folder).close()  # its tables
    db = sqlite3.connect(folder / "calls.sqlite")
    skeleton = '{"payload":{}}'
    digest = hashlib.sha256(skeleton.encode()).digest()[:12]
    text = db.execute("INSERT INTO parts(hash, body) VALUES (?, ?)", (digest, skeleton)).lastrowid
    begun = time.perf_counter()
    with open(folder / "revisions.jsonl", "w") as rows:
        for number, at in enumerate(order(count)):
            rows.write(json.dumps(row_of(at, draw), separators=(",", ":")) + "\n")
            digest = bytes.fromhex(prompt_hash(prompt(at)))
            db.execute("INSERT INTO inputs VALUES (?, ?, 'done')", (at, digest))
            names = ((name, at) for name in names_of(digest, f"row-{at}"))
            db.executemany("INSERT INTO seen VALUES (?, ?)", names)
            for key in keys_of(at):
                columns = (text, "[]", text, "stop", text, 100, 60, None, None, None, None, None, 0.0001)
                db.execute(
                    "INSERT INTO calls(key, skeleton, varying, reply, finish, model, input_tokens, output_tokens, "
                    "cached_tokens, cache_write_tokens, reasoning, logprobs, scores, cost, at, seal) "
                    f"VALUES (?{',?' * 15})",
                    (key, *columns, 1, seal_of(key, columns)),
                )
            if number % LUMP == 0:
                db.commit()
                print(f"\rmaking rows: {number:,} of {count:,}", end="", file=sys.stderr, flush=True)
    size = (folder / "revisions.jsonl").stat().st_size
    db.execute("INSERT OR REPLACE INTO files VALUES ('revisions.jsonl', ?)", (size,))
    db.commit()
    db.close()
    identity = {"command": "generate", "constitution": LAW, "models": MODELS, "seed": 0}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity, "rows": count}))
    print(f"\rmade in {time.perf_counter() - begun:.0f} s", file=sys.stderr)


def keys_of(at: int) -> list[bytes]:
    return [(at * CALLS + number).to_bytes(16, "big") for number in range(CALLS)]


def row_of(at: int, draw: random.Random) -> dict[str, object]:
    def words(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    texts = [words(90) for _ in range(3)]
    rounds = [
        {"principle": draw.choice(WORDS), "critique": words(40), "verdict": "revise", "p_revise": 0.8,
         "revision": after, "changed": True}
        for after in texts[1:]
    ]  # fmt: skip
    return {
        "schema": 1, "id": f"row-{at}", "position": at, "prompt": prompt(at), "initial": texts[0], "rounds": rounds,
        "final": texts[2], "constitution": LAW, "templates": "7e57", "models": MODELS, "seed": 0, "usage": {},
        "calls": [key.hex() for key in keys_of(at)],
    }  # fmt: skip


if __name__ == "__main__":
    main()
