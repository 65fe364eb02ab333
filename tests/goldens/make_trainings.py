"""Makes the golden losses with the code at hand: python tests/goldens/make_trainings.py FOLDER

A few steps of every method on a tiny model, on one thread of the CPU; tests/test_goldens.py holds them against
tests/goldens/0.1.0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import orjson
from kept import TINY, rows
from trainings import chats, graded, pairs

import cai

Method = Literal["sft", "dpo", "kto", "reward"]
FLAGS: dict[str, Any] = {
    "split": 0.75, "batch_size": 4, "rows_at_once": 2, "dtype": "float32", "learning_rate": 1e-2, "max_length": 128,
    "lora.rank": 2, "seed": 3,
}  # fmt: skip
TRAININGS: dict[str, tuple[Method, list[dict[str, Any]], dict[str, Any]]] = {
    "sft": ("sft", chats(16), {}),
    "sft-full": ("sft", chats(16), {"full": True}),
    "dpo-hard": ("dpo", pairs(16), {}),
    "dpo-soft": ("dpo", pairs(16, p_chosen=0.8), {"beta": 0.3}),
    "dpo-ipo": ("dpo", pairs(16), {"loss": "ipo", "reference": "each_step"}),
    "kto": ("kto", graded(16), {}),
    "reward-hard": ("reward", pairs(16), {}),
    "reward-soft": ("reward", pairs(16, p_chosen=0.8, margin=1.4), {}),
}
NOT_LASTING = ("seconds", "runtime", "per_second", "memory", "tokens_per", "rows_per", "time")


def losses(name: str, out: Path) -> bytes:
    """What is measured at every step of one of `TRAININGS`, one step a line."""
    method, data, more = TRAININGS[name]
    cai.train(method, data, out=out, model=str(TINY), flags=FLAGS | more, tell=lambda text: None)
    steps = rows(out / "metrics.jsonl")
    return b"".join(orjson.dumps(_lasting(step)) + b"\n" for step in steps)


def _lasting(step: dict[str, Any]) -> dict[str, Any]:
    """The measures of a step that are no times."""
    return {name: value for name, value in step.items() if not any(word in name for word in NOT_LASTING)}


def main() -> None:
    """Write the losses into the folder that is named."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in TRAININGS:
        with TemporaryDirectory() as work:
            (out / f"{name}.jsonl").write_bytes(losses(name, Path(work) / "out"))


if __name__ == "__main__":
    main()
