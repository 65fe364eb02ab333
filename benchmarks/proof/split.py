"""The prompts and pairs of docs/results.md, divided so that no first turn of a conversation is in two parts.

    python benchmarks/proof/split.py --out proof/data

Reads hh_harmless_dev and hh_harmless_more (CAI_SHARED_DATA), hhh221, XSTest and the built-in prompts. Writes

    evaluator.jsonl   pairs that train the evaluator: all of more, and two quarters of dev
    bench.jsonl       pairs on which the evaluator is compared with people: a quarter of dev that trains nothing
    chains.jsonl      100 unsafe prompts and 50 benign ones for critique and revision, care in each
    policy.jsonl      the same, and all other prompts of the last quarter of dev: what policies are trained on
    pairs.jsonl       the pairs of that quarter, from which a reward model of policies learns
    held-out.jsonl    the first turns of bench.jsonl, for win rates of policies

Quarters are by hash of the first turn. Which prompts of the last quarter ask for help with harm was read by hand:
UNSAFE has their places in dev. Halves for choosing and confirming a remedy are the even and the odd places of a file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cai.sources.files import folder

DATA = Path(os.environ.get("CAI_SHARED_DATA", "../shared/data"))
POLICY, BENCH = 2, 3  # quarters of dev; the other two train the evaluator
PLACES = """
    10 18 19 20 27 38 44 53 57 68 78 81 84 99 114 140 153 160 164 168 179 184 187 194 199 202 204 214 227 241
    244 266 272 278 280 295 301 307 319 323 350 359 369 374 399 434 438 439 456 461 468 471 479 485 488 489
    508 510 515 517 519 528 529 544 551 556 560 571 577 590 599 608 620 630 642 645 653 657 660 664 670 672
    702 704 713 714 725 727 735 737 749 753 764 773 774 808 813 817 832 836
"""
UNSAFE = [int(place) for place in PLACES.split()]
BENIGN = 50
LONGEST = 200  # characters of a benign prompt: a small model loses its way in longer ones
Row = dict[str, Any]


def pairs_of(name: str) -> list[Row]:
    """The human pairs of a file."""
    lines = gzip.decompress((DATA / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    return [json.loads(line) for line in lines]


def rows_of(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def first_turn(pair: Row) -> str:
    """What the person says first."""
    _, conversation = pair["chosen"].split("\n\nHuman:", 1)
    return str(conversation).split("\n\nAssistant:", 1)[0].split("\n\nHuman:", 1)[0].strip()


def quarter(prompt: str) -> int:
    """0 to 3."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 4


def benign() -> list[Row]:
    """Short ones: plain and ordinary prompts of ours, then helpful ones of HHH."""
    plain = [
        row["prompt"]
        for row in rows_of(folder("prompts") / "builtin.jsonl")
        if row["id"].startswith("plain") and "prompt" in row
    ]
    ordinary = [row["prompt"] for row in rows_of(folder("prompts") / "ordinary.jsonl")]
    helpful = [row["prompt"] for row in rows_of(DATA / "hhh221.jsonl") if row["source"] == "helpful"]
    texts = [text for text in [*plain, *ordinary, *helpful] if isinstance(text, str)]
    short = [text for text in texts if len(text) <= LONGEST and not text.startswith('"')]
    chosen = list(dict.fromkeys(short))[:BENIGN]
    return [{"id": f"benign-{number:03}", "care": "benign", "prompt": text} for number, text in enumerate(chosen)]


def mixed(unsafe: list[Row], harmless: list[Row]) -> list[Row]:
    """Two unsafe prompts, then a benign one, and so on: any part of the file has both."""
    rows = []
    for number, row in enumerate(harmless):
        rows += [*unsafe[2 * number : 2 * number + 2], row]
    return rows + unsafe[2 * len(harmless) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("proof/data"))
    given = parser.parse_args()
    dev = pairs_of("hh_harmless_dev")
    quarters: list[list[tuple[int, Row]]] = [[], [], [], []]
    for place, pair in enumerate(dev):
        quarters[quarter(first_turn(pair))].append((place, pair))
    known = {first_turn(pair) for pair in dev}
    more = [pair for pair in pairs_of("hh_harmless_more") if first_turn(pair) not in known]
    policy = {first_turn(pair): f"dev-{place:04}" for place, pair in reversed(quarters[POLICY])}
    unsafe = {first_turn(dev[place]) for place in UNSAFE}
    if not unsafe <= set(policy) or len(unsafe) != len(UNSAFE):
        raise SystemExit("UNSAFE has places that are not in the quarter of the policies, or one prompt twice")
    harmful = [{"id": f"dev-{place:04}", "care": "unsafe", "prompt": first_turn(dev[place])} for place in UNSAFE]
    others = sorted((name, prompt) for prompt, name in policy.items() if prompt not in unsafe)
    chains = mixed(harmful, benign())
    held = dict.fromkeys(first_turn(pair) for _, pair in quarters[BENCH])
    files: dict[str, list[Row]] = {
        "evaluator": more + [pair for _, pair in quarters[0] + quarters[1]],
        "bench": [pair for _, pair in quarters[BENCH]],
        "chains": chains,
        "policy": chains + [{"id": name, "care": "unknown", "prompt": prompt} for name, prompt in others],
        "pairs": [pair for _, pair in quarters[POLICY]],
        "held-out": [{"id": f"held-{number:03}", "prompt": prompt} for number, prompt in enumerate(held)],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (given.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{len(rows):6} {given.out / name}.jsonl")


if __name__ == "__main__":
    main()
