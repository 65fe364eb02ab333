"""What a reader says of the pairs of runs of revisions.yaml: python benchmarks/proof/readings.py RUN… [--figure FILE]

The pairs are read blind with `cai view RUN --annotate 60`, which appends to RUN/gold.jsonl. For each kind of prompt it
prints how often the text after a round was better than the first reply, by round and by the principle of the first
round, with the sign test, and the mean (a tie is a half) with its interval over prompts. "all chains after round 2"
counts those that were not revised, too: they are the same. --only NAMES: of prompts whose ids this file has. --figure:
draws the means of all chains after the last round, one row a run.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from tables import CARES, Row, care_of, rows_of, shown, texts_of

from cai.evaluation.statistics.estimates import Estimate
from cai.evaluation.statistics.paired import sign_test
from cai.evaluation.statistics.winrate import win_rate

FEWEST = 8  # prompts for an interval
Values = dict[str, list[float]]  # by prompt


def votes_of(run: Path) -> dict[str, Row]:
    """The last vote on each pair that is no skip."""
    votes = {row["key"]: row for row in rows_of(run / "gold.jsonl")}
    return {key: row for key, row in votes.items() if row["human"] in ("a", "b", "tie")}


def place_of(text: str, row: Row) -> int:
    """The round after which a chain had this text, 0 for the first reply."""
    return texts_of(row).index(text)


def outcomes_of(run: Path) -> Iterator[tuple[Row, int, float]]:
    """For each pair that holds a first reply: its chain, the round of the other text, and 1 if that is better.

    0 if it is worse, ½ if neither is.
    """
    chains = {row["id"]: row for row in rows_of(run / "revisions.jsonl")}
    for vote in votes_of(run).values():
        row = chains[vote["id"].rpartition(":")[0] if vote["id"] not in chains else vote["id"]]
        first, second = place_of(vote["a"], row), place_of(vote["b"], row)
        if min(first, second) == 0:
            later = "a" if first > second else "b"
            value = 0.5 if vote["human"] == "tie" else float(vote["human"] == later)
            yield row, max(first, second), value


def of_all_chains(run: Path, care: str, number: int, only: Collection[str] = ()) -> Values:
    """The value of each chain after a round, ½ if its text is the first reply; without those whose text is not read."""
    values: Values = {}
    read = {(row["id"], texts_of(row)[place]): value for row, place, value in outcomes_of(run)}
    for row in rows_of(run / "revisions.jsonl"):
        texts = texts_of(row)
        if care_of(row) != care or number >= len(texts) or (only and row["id"] not in only):
            continue
        value = 0.5 if texts[number] == texts[0] else read.get((row["id"], texts[number]))
        if value is not None:
            values[row["id"]] = [value]
    return values


def counts_of(values: Values) -> str:
    """Counts, and the mean with its interval over prompts."""
    every = [value for some in values.values() for value in some]
    better, worse = every.count(1.0), every.count(0.0)
    counts = f"{better:3} better {worse:3} worse {every.count(0.5):3} the same; p = {sign_test(better, worse):.3f}"
    if len(values) < FEWEST:
        return counts
    rate = win_rate(values)
    return f"{counts}; {shown(rate)} %, {rate.n} prompts"


def tell(run: Path, only: Collection[str]) -> None:
    """Print what was read of one run."""
    tables: dict[tuple[str, str], Values] = defaultdict(lambda: defaultdict(list))
    for row, number, value in outcomes_of(run):
        if not only or row["id"] in only:
            care = care_of(row)
            tables[care, f"round {number}"][row["id"]].append(value)
            if number == 1:
                tables[care, row["rounds"][0]["principle"]][row["id"]].append(value)
    for care in CARES:
        for number in (1, 2):
            tables[care, f"all chains after round {number}"] = of_all_chains(run, care, number, only)
    print(f"\n{run}")
    for (care, name), values in sorted(tables.items()):
        print(f"{care:7} {name:25} {counts_of(values)}")


def draw(runs: dict[str, Path], file: Path) -> None:
    """The means of all chains after the last round, with their intervals; the line is the first reply."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(runs)), layout="constrained", dpi=120)
    all_axes = figure.subplots(1, len(CARES), sharey=True)
    for axes, care, colour in zip(all_axes, CARES, ("#bc4749", "#386641"), strict=True):
        for place, run in enumerate(runs.values()):
            rate: Estimate = win_rate(of_all_chains(run, care, 2))
            if rate.value is None or rate.low is None or rate.high is None:
                continue
            value, low, high = (100 * number for number in (rate.value, rate.low, rate.high))
            axes.errorbar(value, -place, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
        axes.axvline(50, color="#888888", linewidth=1, linestyle="--")
        axes.set_xlim(0, 100)
        axes.set_title(f"{care} prompts")
        axes.set_xlabel("preferred to the first reply, % (95 %)")
    all_axes[0].set_yticks([-place for place in range(len(runs))], list(runs))
    all_axes[0].set_ylim(0.5 - len(runs), 0.5)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN")
    parser.add_argument("--only", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    only = {row["id"] for row in rows_of(given.only)} if given.only else ()
    runs = {text.rpartition("=")[0] or Path(text).name: Path(text.rpartition("=")[2]) for text in given.runs}
    for run in runs.values():
        tell(run, only)
    if given.figure:
        draw(runs, given.figure)


if __name__ == "__main__":
    main()
