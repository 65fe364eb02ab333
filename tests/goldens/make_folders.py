"""Makes whole run folders with the code at hand: PYTHONPATH=CHECKOUT python tests/goldens/make_folders.py FOLDER

Of every command a folder that is finished and one whose process was killed; of a training one that is finished and one
that was interrupted. Those in tests/folders-0.1.0 were made by version 0.1.0 and stay as they are:
tests/test_old_folders.py goes on in copies of them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from goldens.make import gold_pairs
from kept import OLD_FOLDERS, TINY, command, environment, lines, run
from steady import Steady, steady
from trainings import chats, ctrl_c

import cai

LAW = ("-c", "inputs/law.yaml")
JUDGE = ("--judge", "openai:judge", *LAW)
PROMPTS = "inputs/prompts.jsonl"
SOURCE = "sample-finished"  # of the label runs
COMMANDS: dict[str, tuple[str, ...]] = {  # without --out and --base-url
    "generate": ("generate", PROMPTS, *LAW, "--model", "openai:writer"),
    "ungated": ("generate", PROMPTS, *LAW, "--model", "openai:writer", "--no-gate"),
    "sample": ("sample", PROMPTS, "--model", "openai:writer", "-n", "2"),
    "best-of": ("sample", PROMPTS, "--model", "openai:writer", "--best-of", "3", *JUDGE, "-k", "1"),
    "label": ("label", SOURCE, *JUDGE, "-k", "2", "--min-confidence", "0.6"),
    "label-gold": ("label", SOURCE, *JUDGE, "-k", "1", "--gold", "inputs/gold.jsonl", "--limit", "4"),
}
HALVES = ("generate", "ungated", "sample", "best-of", "label")
# Files whose last line a kill tore.
TORN = {"generate-half": "revisions.jsonl", "ungated-half": "revisions.jsonl", "sample-half": "dropped.jsonl"}
QUIET = 1.0  # seconds without a new request, after which a run waits for what is held
TRAINING: dict[str, Any] = {
    "split": 0.75, "batch_size": 4, "rows_at_once": 4, "dtype": "float32", "learning_rate": 1e-2, "max_length": 64,
    "lora.rank": 2, "seed": 3,
}  # fmt: skip


def main() -> None:
    """Write the folders into the folder that is named, which trainings mention: a new one such as /tmp/cai."""
    work = Path(sys.argv[1])
    shutil.copytree(OLD_FOLDERS / "inputs", work / "inputs")
    shutil.copytree(TINY, work / "tiny")
    (work / "inputs" / "gold.jsonl").write_bytes(lines(gold_pairs(50)))
    with steady() as server:
        for name, words in COMMANDS.items():
            run(*words, "--out", f"{name}-finished", folder=work, server=server.url + "/v1")
    for name in HALVES:
        with steady() as server:
            kill_half_way(work, name, server)
    train(work)
    settle(work)
    shutil.rmtree(work / "tiny")


def kill_half_way(work: Path, name: str, server: Steady) -> None:
    """Kill the command when all that it still waits for is held."""
    server.rough = True
    words = (*COMMANDS[name], "--out", f"{name}-half")
    whole = command(*words, server=server.url + "/v1")
    with subprocess.Popen(whole, cwd=work, env=environment(), stderr=subprocess.DEVNULL) as process:
        count, since = 0, time.monotonic()
        while count == 0 or time.monotonic() - since < QUIET:
            assert process.poll() is None, f"{name} ended by itself"
            if len(server.asked) != count:
                count, since = len(server.asked), time.monotonic()
            time.sleep(0.02)
        process.kill()


def train(work: Path) -> None:
    """A training that is finished, and one that was interrupted after its second step."""
    data = work / "inputs" / "chats.jsonl"
    data.write_bytes(lines(chats(16)))
    more: dict[str, Any] = {"model": str(work / "tiny"), "flags": TRAINING, "tell": lambda text: None}
    cai.train("sft", data, out=work / "train-finished", **more)
    try:
        cai.train("sft", data, out=work / "train-half", progress=ctrl_c(1), **more)
    except KeyboardInterrupt:
        return
    raise AssertionError("the training was not interrupted")


def settle(work: Path) -> None:
    """Put what SQLite holds beside its files into them, tear lines, and leave out what is large and not needed."""
    for path in work.rglob("calls.sqlite"):
        with sqlite3.connect(path) as journal:
            journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal.close()
    for path in work.rglob(".lock"):
        path.unlink()
    for path in (*work.glob("train-finished/checkpoints"), *work.glob("train-half/checkpoints/checkpoint-1")):
        shutil.rmtree(path)
    for path in work.rglob("*.png"):
        path.unlink()
    for name, file in TORN.items():
        with (work / name / file).open("ab") as torn:
            torn.write(b'{"schema":1,"id":"to')


if __name__ == "__main__":
    main()
