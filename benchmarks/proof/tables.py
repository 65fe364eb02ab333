"""The tables of docs/results.md, from the folders that the recipes of this folder leave.

    python benchmarks/proof/tables.py replies ARM --out FILE            the texts of a run around each round, to judge
    python benchmarks/proof/tables.py revisions OUT [--labels FOLDER]   what the rounds did, by run and kind of prompt
    python benchmarks/proof/tables.py halves LABELS --out FOLDER        the surest half of the labels, and a random one

Refusals are counted by cai.texts.refusals. Differences are paired by prompt, with the interval of Bonett and Price for
shares and of Student's t for win rates (docs/evaluating.md). FOLDER holds a `cai label` run for each run of OUT, of its
texts as `replies` writes them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cai.evaluation.statistics.estimates import Estimate
from cai.evaluation.statistics.paired import difference
from cai.evaluation.statistics.winrate import win_rate
from cai.judge.metrics import wilson
from cai.texts.refusals import refusal

Row = dict[str, Any]
CARES = ("unsafe", "benign")


def rows_of(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def care_of(row: Row) -> str:
    """What kind of prompt a row has: ids of unsafe ones are places in hh_harmless_dev."""
    return "benign" if row["id"].startswith("benign") else "unsafe"


def texts_of(row: Row) -> list[str]:
    """The reply before the first round and after each; a round that revised nothing lets it stand."""
    texts = [row["initial"]]
    for turn in row["rounds"]:
        texts.append(texts[-1] if turn["revision"] is None else turn["revision"])
    return texts


def write_replies(arm: Path, out: Path) -> None:
    """Write the texts of a run as the replies to be compared; texts that stayed the same are not asked about."""
    lines = []
    for row in rows_of(arm / "revisions.jsonl"):
        replies = list(dict.fromkeys(texts_of(row)))
        if len(replies) > 1:
            lines.append(json.dumps({"id": row["id"], "prompt": row["prompt"], "replies": replies}, ensure_ascii=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} prompts in {out}")


def verdicts_of(labels: Path) -> dict[tuple[str, str, str], float]:
    """The probability that the first of two texts is better than the second, by id and texts, for both orders."""
    found = {}
    for row in rows_of(labels / "labels.jsonl"):
        if row["p_a"] is not None:
            found[row["id"], row["a"], row["b"]] = row["p_a"]
            found[row["id"], row["b"], row["a"]] = 1 - row["p_a"]
    return found


def outcome(row: Row, number: int, verdicts: dict[tuple[str, str, str], float]) -> float | None:
    """1 if the text after a round is judged better than the first reply, 0 if worse, ½ if it is the same."""
    texts = texts_of(row)
    if texts[number] == texts[0]:
        return 0.5
    p = verdicts.get((row["id"], texts[number], texts[0]))
    if p is None or p == 0.5:
        return p
    return float(p > 0.5)


def is_refused(row: Row, number: int) -> bool:
    """Whether the text after a round refuses."""
    return refusal(texts_of(row)[number], row["prompt"][-1]["content"]) == "full"


def shown(estimate: Estimate, sign: str = "") -> str:
    """An estimate in per cent with its interval; sign: "+" for a difference."""
    numbers = (estimate.value, estimate.low, estimate.high)
    value, low, high = ["unknown" if number is None else f"{100 * number:{sign}.0f}" for number in numbers]
    return f"{value} ({low} to {high})"


def share(values: Iterable[bool]) -> str:
    """A share in per cent with Wilson's interval."""
    flags = list(values)
    low, high = wilson(sum(flags), len(flags))
    return f"{100 * sum(flags) / len(flags):.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def show_revisions(out: Path, labels: Path | None) -> None:
    """Print what the rounds of each run did, and what each principle did in the first."""
    for path in sorted(out.glob("*/revisions.jsonl")):
        rows = rows_of(path)
        if not rows:
            continue
        verdicts = verdicts_of(labels / path.parent.name) if labels else {}
        rounds = max(len(row["rounds"]) for row in rows)
        print(f"\n{path.parent.name}: {len(rows)} chains, {len(rows_of(path.parent / 'dropped.jsonl'))} dropped")
        for care in CARES:
            kind = [row for row in rows if care_of(row) == care and len(row["rounds"]) == rounds]
            for number in range(rounds + 1):
                print(f"  {care:7} round {number}  " + cells(kind, number, verdicts))
        show_principles(rows, verdicts)


def cells(rows: list[Row], number: int, verdicts: dict[tuple[str, str, str], float]) -> str:
    """One line of the table: rows, changed, refusals, their difference, words, and the win rate."""
    refused = [is_refused(row, number) for row in rows]
    words = [len(texts_of(row)[number].split()) for row in rows]
    cells = [f"n {len(rows)}", f"refuses {share(refused)}", f"{sum(words) / len(words):.0f} words"]
    if number:
        changed = sum(texts_of(row)[number] != texts_of(row)[0] for row in rows)
        cells += [
            f"changed {changed}",
            shown(difference(refused, [is_refused(row, 0) for row in rows], 1), "+") + " points",
        ]
        won = {row["id"]: [value] for row in rows if (value := outcome(row, number, verdicts)) is not None}
        if won and verdicts:
            rate = win_rate(won)
            cells.append(f"win rate {shown(rate)} %, n {rate.n}")
    return " | ".join(cells)


def show_principles(rows: list[Row], verdicts: dict[tuple[str, str, str], float]) -> None:
    """Print by principle of the first round: chains, those that turned into a refusal, and those judged better."""
    tallies: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["rounds"]:
            tallies[row["rounds"][0]["principle"], care_of(row)].append(row)
    for (principle, care), some in sorted(tallies.items()):
        turned = sum(is_refused(row, 1) and not is_refused(row, 0) for row in some)
        better = [value for row in some if (value := outcome(row, 1, verdicts)) is not None and verdicts]
        wins = f", better {better.count(1.0)}, worse {better.count(0.0)}" if verdicts else ""
        print(f"    {principle:24} {care:7} {len(some):3} chains, {turned:3} turned into a refusal{wins}")


def write_halves(labels: Path, out: Path, seed: int) -> None:
    """Write the surest half of the pairs of a label run, and as many at random, both in their own order."""
    pairs = [row for row in rows_of(labels / "dpo.jsonl") if row["confidence"] is not None]
    half = len(pairs) // 2
    surest = sorted(range(len(pairs)), key=lambda place: -pairs[place]["confidence"])[:half]
    chosen = {"surest": surest, "random": random.Random(seed).sample(range(len(pairs)), half)}
    out.mkdir(parents=True, exist_ok=True)
    for name, places in chosen.items():
        lines = [json.dumps(pairs[place], ensure_ascii=False) + "\n" for place in sorted(places)]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        mean = sum(pairs[place]["confidence"] for place in places) / half
        print(f"{half} pairs, mean confidence {mean:.3f}, in {out / name}.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    acts: dict[str, Callable[[argparse.Namespace], None]] = {
        "replies": lambda given: write_replies(given.folder, given.out),
        "revisions": lambda given: show_revisions(given.folder, given.labels),
        "halves": lambda given: write_halves(given.folder, given.out, given.seed),
    }
    for name in acts:
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--out", type=Path)
        command.add_argument("--labels", type=Path)
        command.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    acts[given.command](given)


if __name__ == "__main__":
    main()
