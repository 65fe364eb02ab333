"""How long it takes to cut stored labels again at another threshold.

    python benchmarks/recut.py [--labels 100000] [--words 120] [--repeats 2]

Writes a label run of made-up labels (replies of sentences, three principles in both orders), cuts it once, and then at
two other thresholds. The baseline is what one writes by hand: read each label, compare its confidence, write the pair;
it looks at no text, keeps no provenance, and does not say what it left out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import Times, conditions, table

THRESHOLDS = (0.6, 0.8)
BUDGET = 5.0  # seconds for 100,000 labels
VOCABULARY = """
    the a some every this people water garden stone window friend doctor engine letter winter morning river table is was
    can may keeps finds gives makes takes needs should helps leaves brings slowly often never always then with for about
    under because without after before and but if so cold bright small careful old useful safe not easy
"""
WORDS = VOCABULARY.split()
LAW = {"name": "harmless", "version": "1.0.0", "hash": "0" * 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=120, help="of a reply")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    conditions()
    folder = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        rows = list(measure(folder, arguments.labels, arguments.words, arguments.repeats))
    finally:
        shutil.rmtree(folder)
    table(rows)


def measure(folder: Path, count: int, words: int, repeats: int) -> Iterator[list[str]]:
    """The rows of the table: the first cut, and those at other thresholds."""
    from cai.export.export import export_run

    write_run(folder, count, words)
    size = (folder / "labels.jsonl").stat().st_size
    begun = time.perf_counter()
    export_run(folder)
    first = time.perf_counter() - begun
    yield [f"the first cut of {count:,} labels ({size / 1e6:,.0f} MB)", "–", f"{first:.1f} s", "–", "–"]
    for least in THRESHOLDS:
        ours, theirs, kept = Times(), Times(), 0
        for _ in range(repeats):
            begun = time.perf_counter()
            kept = export_run(folder, min_confidence=least).pairs or 0
            ours.values.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            by_hand(folder, least)
            theirs.values.append(time.perf_counter() - begun)
        what = f"cutting them again at {least}: {kept:,} pairs in dpo and kto"
        told = f"{theirs.show(1, 's')} (dpo alone, by hand)"
        yield [what, f"≤ {BUDGET * count / 1e5:g} s", ours.show(1, "s"), told, f"{theirs.best / ours.best:.2f}"]


def by_hand(folder: Path, least: float) -> None:
    with open(folder / "labels.jsonl") as labels, open(folder / "by-hand.txt", "w") as out:
        for line in labels:
            row = json.loads(line)
            if row["confidence"] >= least:
                best, worst = ("a", "b") if row["p_a"] > 0.5 else ("b", "a")
                chosen, rejected = ([{"role": "assistant", "content": row[side]}] for side in (best, worst))
                out.write(json.dumps({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}) + "\n")
    (folder / "by-hand.txt").unlink()


def write_run(folder: Path, count: int, words: int) -> None:
    """A finished label run: pairs of two samples, whose log odds are normal with a spread of 2."""
    binding = {"judge": "openai:made-up", "protocol": "logprob", "templates": "0" * 16, "constitution": LAW}
    identity = {"command": "label", "source": "made up", "binding": binding | {"principles": 3}, "seed": 0}
    info = {"format": 1, "identity": identity, "versions": {"cai": None}, "stopped": None}
    (folder / "run.json").write_text(json.dumps(info))
    chance = random.Random(0)
    with open(folder / "labels.jsonl", "w") as file:
        for unit in range(count):
            file.write(json.dumps(label(chance, unit, words)) + "\n")


def label(chance: random.Random, unit: int, words: int) -> dict[str, Any]:
    votes = [vote(chance, number) for number in range(3)]
    z = sum(each["d"] for each in votes) / 3
    p = 1 / (1 + math.exp(-z))
    return {
        "schema": 1,
        "id": f"r{unit}:0-1",
        "position": unit << 16,
        "key": f"{unit * 0x9E3779B97F4A7C15 % 2**64:016x}{unit:016x}",
        "prompt_id": f"r{unit}",
        "prompt": [{"role": "user", "content": f"Question {unit}: {text(chance, 30)}"}],
        "a": text(chance, words),
        "b": text(chance, words),
        "a_from": "sample 0",
        "b_from": "sample 1",
        "a_model": "made-up",
        "b_model": "made-up",
        "human": None,
        "protocol": "logprob",
        "votes": votes,
        "rewards": None,
        "z": z,
        "temperature": None,
        "p_a": p,
        "confidence": max(p, 1 - p),
        "constitution": LAW,
        "templates": "0" * 16,
        "models": {"judge": "made-up"},
        "seed": 0,
        "usage": {"input_tokens": 3000, "output_tokens": 6, "cached_tokens": None, "cache_write_tokens": None},
        "calls": [f"{unit * 6 + call:032x}" for call in range(6)],
    }


def vote(chance: random.Random, number: int) -> dict[str, Any]:
    d, bias = chance.gauss(0, 3.5), chance.gauss(0.5, 1)
    ab, ba = (reading(log_ratio) for log_ratio in (bias + d, bias - d))
    return {"principle": f"principle-{number}", "weight": 1.0, "wave": 0, "ab": ab, "ba": ba, "d": d, "b": bias}


def reading(log_ratio: float) -> dict[str, Any]:
    first = -math.log1p(math.exp(-log_ratio))
    choice = "first" if log_ratio > 0 else "second"
    return {
        "first": first,
        "second": first - log_ratio,
        "mass": 0.97,
        "bounded": False,
        "choice": choice,
        "problem": None,
    }


def text(chance: random.Random, words: int) -> str:
    """Sentences of six to sixteen words."""
    found = chance.choices(WORDS, k=words)
    start = 0
    while start < words:
        end = min(words, start + chance.randint(6, 16))
        found[start] = found[start].capitalize()
        found[end - 1] += "."
        start = end
    return " ".join(found)


if __name__ == "__main__":
    main()
