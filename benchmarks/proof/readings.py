"""What a reader says of the pairs of a run of revisions.yaml: python benchmarks/proof/readings.py RUN

The pairs are read blind with `cai view RUN --annotate 60`, which appends to RUN/gold.jsonl. Counts for each kind of
prompt how often the text after a round was better than the first reply, by round and by the principle of the first
round, with the sign test, and the mean (a tie is a half) with its interval over prompts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tables import Row, care_of, rows_of, shown, texts_of

from cai.evaluation.statistics.paired import sign_test
from cai.evaluation.statistics.winrate import win_rate

FEWEST = 8  # prompts for an interval


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


def counts_of(values: dict[str, list[float]]) -> str:
    """Counts, and the mean with its interval over prompts."""
    every = [value for some in values.values() for value in some]
    better, worse = every.count(1.0), every.count(0.0)
    counts = f"{better:3} better {worse:3} worse {every.count(0.5):3} the same; p = {sign_test(better, worse):.3f}"
    if len(values) < FEWEST:
        return counts
    rate = win_rate(values)
    return f"{counts}; {shown(rate)} %, {rate.n} prompts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    tables: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row, number, value in outcomes_of(run):
        care = care_of(row)
        tables["", care, "all"][row["id"]].append(value)
        tables["", care, f"round {number}"][row["id"]].append(value)
        if number == 1:
            tables["by principle of round 1", care, row["rounds"][0]["principle"]][row["id"]].append(value)
    for (_, care, name), values in sorted(tables.items()):
        print(f"{care:7} {name:20} {counts_of(values)}")


if __name__ == "__main__":
    main()
