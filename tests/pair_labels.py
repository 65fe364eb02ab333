"""Labels made for tests of what is kept of them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from cai.export.options import Filters
from cai.export.pairs import Row

A = "Bees drink from shallow water: put out a dish with stones, and they leave the pond alone."

B = "Keep the children away from the pond in the afternoon; that is when most of the bees come."

REFUSED = "I'm sorry, but I cannot help with that."

PLAIN = Filters(min_confidence=0.5)


def vote(d: float, b: float = 0.0, principle: str = "kind", problem: str | None = None) -> Row:
    """A vote whose two orders prefer a by d and the first by b."""
    ab, ba = (
        {
            "first": -math.log1p(math.exp(-log_ratio)),
            "second": -math.log1p(math.exp(log_ratio)),
            "mass": 0.98,
            "bounded": False,
            "choice": "first" if log_ratio > 0 else "second" if log_ratio < 0 else None,
            "problem": problem,
        }
        for log_ratio in (b + d, b - d)
    )
    valid = problem is None
    return {
        "principle": principle, "weight": 1.0, "wave": 0, "ab": ab, "ba": ba,
        "d": d if valid else None, "b": b if valid else None,
    }  # fmt: skip


def label(z: float | None = 2.0, a: str = A, b: str = B, **more: Any) -> Row:
    """A row of labels.jsonl, as `Label` writes it."""
    votes = [vote(z)] if z is not None else [vote(0.0, problem="the letters have 0.10 of the probability")]
    p = None if z is None else 1 / (1 + math.exp(-z))
    return {
        "schema": 1,
        "id": "q0:0-1",
        "position": 0,
        "key": "0" * 32,
        "prompt_id": "q0",
        "prompt": [{"role": "user", "content": "What about the bees at my pond?"}],
        "a": a,
        "b": b,
        "a_from": "sample 0",
        "b_from": "sample 1",
        "a_model": "small-0",
        "b_model": "small-0",
        "human": None,
        "protocol": "logprob",
        "votes": votes,
        "rewards": None,
        "z": z,
        "temperature": None,
        "p_a": p,
        "confidence": None if p is None else max(p, 1 - p),
        "constitution": {"name": "kind", "version": "1.2.0", "hash": "c0ffee"},
        "templates": "7e57",
        "models": {"judge": "judge-1"},
        "seed": 0,
        "usage": {"input_tokens": 9, "output_tokens": 2, "cached_tokens": None, "cache_write_tokens": None},
        "calls": ["00" * 16],
    } | more  # fmt: skip


def swapped(row: Row) -> Row:
    """The same pair with its replies in the other places."""
    row = {key: value for key, value in row.items() if key != "texts"}
    other = {"a": "b", "b": "a"}
    turned = {
        **row,
        **{f"{side}{end}": row[f"{other[side]}{end}"] for side in "ab" for end in ("", "_from", "_model")},
        "human": other.get(row["human"]),
        "z": None if row["z"] is None else -row["z"],
    }
    turned["votes"] = [
        {**v, "ab": v["ba"], "ba": v["ab"], "d": None if v["d"] is None else -v["d"]} for v in row["votes"]
    ]
    return turned


filters = st.builds(
    Filters,
    min_confidence=st.floats(0.5, 1),
    temperature=st.none() | st.floats(0.05, 100),
    max_length_ratio=st.none() | st.floats(1, 4),
    order_flip=st.booleans(),
    hygiene=st.booleans(),
)

LEAK = "Here is a revised reply that is kinder: " + A

MIXED = A + "\n\nHuman: And the wasps?\n\nAssistant: They do not drink."


def unit(*odds: tuple[int, int, float | None]) -> list[Row]:
    """The pairs of one prompt: sample x against sample y, and the log odds of x."""
    rows = []
    for x, y, z in odds:
        names: dict[str, Any] = {"a_from": f"sample {x}", "b_from": f"sample {y}", "id": f"q0:{x}-{y}"}
        a, b = (f"Reply {n} has {'quite ' * n}a few words of its own to say about number {n}." for n in (x, y))
        rows.append(label(z, a, b, position=y * (y - 1) // 2 + x, **names))
    return sorted(rows, key=lambda row: int(row["position"]))
