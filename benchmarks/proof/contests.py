"""Pairs of an evaluation, to be read blind: a reply of a trained model, and the one of the model that it began with.

    python benchmarks/proof/contests.py draw EVALUATION… --out FOLDER    one pair for each prompt, at most
    cai view FOLDER/NAME --annotate 200                                  read, by evaluation
    python benchmarks/proof/contests.py tell FOLDER/NAME…                how often each model's reply was preferred

If a prompt came twice, the reply that comes twice would be known for that of the start. So each prompt is drawn once
for all models of all evaluations together, which take turns; --skip leaves out prompts that have been read (a file of
their ids).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path

from readings import Values, counts_of, votes_of
from tables import Row, rows_of

START = "sample 0"  # of the replies to each prompt: the model that the others are compared with


def contests_of(labels: Path) -> dict[str, dict[str, Row]]:
    """The pairs with a reply of the start, by prompt and by the other model."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows_of(labels / "labels.jsonl"):
        if START in (row["a_from"], row["b_from"]):
            found[row["prompt_id"]][other_of(row)] = row
    return found


def other_of(row: Row) -> str:
    """The name of the model that is compared with the start."""
    side = "b" if row["a_from"] == START else "a"
    return str(row[f"{side}_model"]).partition("@")[0]


def draw(evaluations: list[Path], out: Path, seed: int, skipped: set[str]) -> None:
    """Write label runs with the pairs that were drawn."""
    every = [contests_of(path / "labels") for path in evaluations]
    places = [(number, name) for number, found in enumerate(every) for name in sorted(set().union(*found.values()))]
    prompts = sorted(set().union(*every) - skipped)
    random.Random(seed).shuffle(prompts)
    drawn: list[list[Row]] = [[] for _ in evaluations]
    counts = dict.fromkeys(places, 0)
    for prompt in prompts:
        offered = [place for place in places if place[1] in every[place[0]].get(prompt, {})]
        if offered:
            number, name = min(offered, key=counts.__getitem__)
            counts[number, name] += 1
            drawn[number].append(every[number][prompt][name])
    for path, rows in zip(evaluations, drawn, strict=True):
        folder = out / path.name
        shutil.copytree(path / "labels", folder, ignore=shutil.ignore_patterns("gold.jsonl", "labels.jsonl"))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in sorted(rows, key=lambda row: row["position"]))
        (folder / "labels.jsonl").write_text("".join(lines), encoding="utf-8")
    for (number, name), count in counts.items():
        print(f"{count} pairs of {name} in {out / evaluations[number].name}")


def tell(runs: list[Path]) -> None:
    """Print how often the replies of each model were preferred to those of the start."""
    tables: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        votes = votes_of(run)
        for row in rows_of(run / "labels.jsonl"):
            if row["key"] in votes:
                vote = votes[row["key"]]
                start = row["a"] if row["a_from"] == START else row["b"]
                value = 0.5 if vote["human"] == "tie" else float(vote[vote["human"]] != start)
                for name in (other_of(row), "all of them"):
                    tables[name][row["prompt_id"]].append(value)
    for name, values in tables.items():
        print(f"{name:20} {counts_of(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["draw", "tell"])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=Path)
    given = parser.parse_args()
    if given.act == "tell":
        tell(given.folders)
    else:
        skipped = set(given.skip.read_text().split()) if given.skip else set()
        draw(given.folders, given.out, given.seed, skipped)


if __name__ == "__main__":
    main()
