"""Fits the weights of the refusal detector to human labels of XSTest, and measures it on models and prompts held out.

    python benchmarks/refusals.py DATA            the figures
    python benchmarks/refusals.py DATA --write    the weights, too: cai/texts/refusals.json

DATA has `xstest_MODEL.jsonl.gz` for several models: `prompt`, `completion` and `final_label` of XSTest v2 (Röttger et
al. 2024, https://github.com/paul-rottger/xstest, CC-BY-4.0). Each figure is of replies whose model and whose prompt the
weights have not seen: for each model and each fifth of the prompts, they are fitted to the replies of the other models
to the other prompts.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cai.judge.metrics import wilson
from cai.texts import refusal_words as words
from cai.texts import refusals

Row = dict[str, Any]
FOLDS = 5  # of prompts
RIDGE = 2.0  # on every weight but the bias
BROAD = {"negates": 12.0, "negates_itself": 12.0}  # ridge: negations are as common in chats that refuse nothing
STEPS = 12  # of Newton's method; it has converged by the eighth
PARTS = (1, 2, 4)  # sentences: starts of replies that train as well, so that length says little
PART_WEIGHT = 0.25
PARTIAL = 1.6  # weight of a partial refusal against a full one: they are one in seven
# Which way a feature may point; a weight that would point the other way is an accident of three models, and left out.
ANSWERS = [
    "list", "here", "you_can", "defines", "defines_as_asked", "unreal", "unreal_stance", "unreal_claim",
    "because",
    "because_of_claim", "echo", "plain", "why_negated",
]  # fmt: skip
OF_FULL = [
    "declines", "judges", "apologises", "self", "values", "stance", "redirects", "no_access", "list", "here",
    "you_can",     "unreal", "plain",
]  # fmt: skip
ONLY_OF_FULL = ("redirects", "list")


class Data(NamedTuple):
    """Rows of features, whether people see a refusal, how much a row counts, and its model and fold."""

    features: np.ndarray
    refused: np.ndarray
    weight: np.ndarray
    model: np.ndarray
    fold: np.ndarray

    def where(self, rows: np.ndarray) -> Data:
        return Data(*(column[rows] for column in self))


def read(folder: Path) -> list[Row]:
    rows = []
    for path in sorted(folder.glob("xstest_*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            rows += [{**json.loads(line), "model": path.name.split(".")[0].removeprefix("xstest_")} for line in file]
    return rows


def fold_of(row: Row) -> int:
    return int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % FOLDS


def starts(text: str) -> Iterator[str]:
    ends = [match.end() for match in words.SENTENCE.finditer(text)]
    yield from (text[: ends[part - 1]] for part in PARTS if len(ends) > part and ends[part - 1] > 25)


def samples(row: Row, refused: bool) -> Iterator[tuple[dict[str, float], float]]:
    """A reply with its prompt and without, and starts of it if they show what people say of the whole."""
    reply = row["completion"]
    for prompt in (row["prompt"], None):
        yield refusals.features(reply, prompt), 0.5
    for start in starts(reply):
        found = refusals.features(start, row["prompt"])
        if bool(found["stands"] or found["stands_later"]) == refused:
            yield found, PART_WEIGHT
            yield refusals.features(start), PART_WEIGHT


def training_data(rows: Sequence[Row]) -> Data:
    table = []
    for row in rows:
        refused = row["final_label"][0] != "1"
        for found, weight in samples(row, refused):
            table.append((list(found.values()), refused, weight, row["model"], fold_of(row)))
    return Data(*(np.array(column) for column in zip(*table, strict=True)))


def newton(x: np.ndarray, y: np.ndarray, weight: np.ndarray, ridges: Sequence[float]) -> np.ndarray:
    """The logistic regression of `y` on `x` with a ridge; the bias comes first."""
    x = np.c_[np.ones(len(x)), x]
    ridge = np.diag([1e-6, *ridges])
    beta = np.zeros(x.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (weight * (p - y)) + ridge @ beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge
        beta = beta - np.linalg.solve(hessian, gradient)
    return beta


def fit_refuses(data: Data, names: Sequence[str]) -> dict[str, float]:
    """Weights of the features, each in its direction: those that point the other way are left out."""
    names_left = [name for name in names if name not in ONLY_OF_FULL]
    while True:
        columns = [names.index(name) for name in names_left]
        bias, *weights = newton(
            data.features[:, columns], data.refused, data.weight, [BROAD.get(name, RIDGE) for name in names_left]
        )
        wrong = {n for n, w in zip(names_left, weights, strict=True) if (w > 0) == (n in ANSWERS)}
        if not wrong:
            return {"bias": bias, **dict(zip(names_left, weights, strict=True))}
        names_left = [name for name in names_left if name not in wrong]


def fit_full(rows: Sequence[Row]) -> dict[str, float]:
    """Weights for: a reply that refuses refuses in full. Starts of full refusals do, too."""
    table = []
    for row in rows:
        is_full = row["final_label"][0] == "2"
        if row["final_label"][0] != "1":
            table.append((refusals.features(row["completion"], row["prompt"]), is_full, 1.0 if is_full else PARTIAL))
        if is_full:
            table += [
                (refusals.features(start, row["prompt"]), True, PART_WEIGHT) for start in starts(row["completion"])
            ]
    found, full, weight = zip(*table, strict=True)
    x = np.array([[each[name] for name in OF_FULL] for each in found])
    bias, *weights = newton(x, np.array(full), np.array(weight), [RIDGE] * len(OF_FULL))
    return {"bias": bias, **dict(zip(OF_FULL, weights, strict=True))}


def rounded(weights: dict[str, float]) -> dict[str, float]:
    return {name: round(float(weight), 3) for name, weight in weights.items()}


def weights_of(rows: Sequence[Row], data: Data, names: Sequence[str]) -> dict[str, dict[str, float]]:
    return {"refuses": rounded(fit_refuses(data, names)), "full": rounded(fit_full(rows))}


def verdict(weights: dict[str, dict[str, float]], found: dict[str, float]) -> str:
    if refusals._score(weights["refuses"], found) <= 0:
        return "none"
    return "partial" if refusals._score(weights["full"], found) <= 0 else "full"


def held_out(rows: Sequence[Row], data: Data, names: Sequence[str]) -> Iterator[tuple[Row, str, str]]:
    """Each row with its verdict, with its prompt and without, by weights that saw neither its model nor its prompt."""
    for model in sorted({row["model"] for row in rows}):
        for fold in range(FOLDS):
            seen = [row for row in rows if row["model"] != model and fold_of(row) != fold]
            weights = weights_of(seen, data.where((data.model != model) & (data.fold != fold)), names)
            for row in rows:
                if row["model"] == model and fold_of(row) == fold:
                    with_prompt = refusals.features(row["completion"], row["prompt"])
                    yield row, verdict(weights, with_prompt), verdict(weights, refusals.features(row["completion"]))


def share(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{100 * sum(hits) / len(hits):.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def report(rows: Sequence[Row], data: Data, names: Sequence[str]) -> None:
    label = {"1": "none", "2": "full", "3": "partial"}
    results = list(held_out(rows, data, names))
    for model in sorted({row["model"] for row in rows}):
        mine = [(label[row["final_label"][0]], *said) for row, *said in results if row["model"] == model]
        print(model)
        print("  refuses or not     ", share([(a != "none") == (b != "none") for a, b, _ in mine]))
        print("  … without prompt   ", share([(a != "none") == (c != "none") for a, _, c in mine]))
        print("  none, partial, full", share([a == b for a, b, _ in mine]))
        print("  full or not        ", share([(a == "full") == (b == "full") for a, b, _ in mine]))
        print("  full refusals of safe prompts: ", end="")
        safe = [s for row, s, _ in results if row["model"] == model and not row["type"].startswith("contrast")]
        print(f"{100 * sum(s == 'full' for s in safe) / len(safe):.1f} %")


def speed(rows: Sequence[Row]) -> float:
    """Microseconds of CPU a reply."""
    start = time.process_time()
    for row in rows:
        refusals.refusal(row["completion"], row["prompt"])
    return (time.process_time() - start) / len(rows) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true", help="write the weights, fitted to all rows")
    options = parser.parse_args()
    rows = read(options.data)
    names = list(refusals.features("", None))
    data = training_data(rows)
    if options.write:
        source = (
            "Fitted by benchmarks/refusals.py to the human labels of model replies in XSTest v2 (Röttger et al. 2024, "
            "https://github.com/paul-rottger/xstest), CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/"
        )
        path = Path(refusals.__file__).with_name("refusals.json")
        path.write_text(
            json.dumps({"source": source, **weights_of(rows, data, names)}, indent=2, ensure_ascii=False) + "\n"
        )
    report(rows, data, names)
    print(f"{speed(rows):.0f} µs a reply")


if __name__ == "__main__":
    main()
