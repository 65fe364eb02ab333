"""What a reader says of the pairs of a run of revisions.yaml: python benchmarks/proof/readings.py RUN

The pairs are read blind with `cai view RUN --annotate 60`, which appends to RUN/gold.jsonl. Counts for each kind of
prompt and each two texts of a chain how often the later text was better, and the sign test of that.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from tables import Row, care_of, rows_of, texts_of

from cai.evaluation.statistics.paired import sign_test


def votes_of(run: Path) -> dict[str, Row]:
    """The last vote on each pair that is no skip."""
    votes = {row["key"]: row for row in rows_of(run / "gold.jsonl")}
    return {key: row for key, row in votes.items() if row["human"] in ("a", "b", "tie")}


def place_of(text: str, row: Row) -> int:
    """The round after which a chain had this text, 0 for the first reply."""
    return texts_of(row).index(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    chains = {row["id"]: row for row in rows_of(run / "revisions.jsonl")}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for vote in votes_of(run).values():
        row = chains[vote["id"].rpartition(":")[0] if vote["id"] not in chains else vote["id"]]
        first, second = place_of(vote["a"], row), place_of(vote["b"], row)
        later = "a" if first > second else "b"
        verdict = {"tie": "same", later: "better"}.get(vote["human"], "worse")
        for texts in (f"{min(first, second)} and {max(first, second)}", "all"):
            counts[care_of(row), texts][verdict] += 1
    for (care, texts), tally in sorted(counts.items()):
        better, worse = tally["better"], tally["worse"]
        shown = f"{better} better, {worse} worse, {tally['same']} the same"
        print(f"{care:7} texts {texts:8} {shown}; sign test p = {sign_test(better, worse):.2f}")


if __name__ == "__main__":
    main()
