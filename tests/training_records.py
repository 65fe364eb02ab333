"""Folders of finished trainings without their weights, for tests of what is read from training.json."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from cai.training.report.samples import FILE, Sample
from cai.training.report.summary import pair_accuracy
from cai.training.setup.keys import TrainConfig

CONFIG: dict[str, Any] = TrainConfig.model_validate({}).model_dump(mode="json")
HUB = {"spec": "hf:org/base", "place": "org/base", "mark": "org/base@c0ffee"}
FOLDER = {"spec": "/home/me/base", "place": "/home/me/base", "mark": "0123456789ab"}
DATA = {
    "files": [{"source": "hf:org/pairs:default", "content": "hf:org/pairs"}], "read": 100, "train": 80, "eval": 20,
    "dropped": {}, "held_back": "split", "origins": {"judge": ["openai:judge"]}, "notes": [],
}  # fmt: skip
PLAN = [
    {"name": "learning_rate", "value": 5e-06, "origin": "default", "why": "dpo of a LoRA adapter"},
    {"name": "max_length", "value": 128, "origin": "data", "why": "holds 99 % of the rows whole"},
    {"name": "dtype", "value": "float32", "origin": "hardware", "why": "a CPU | of some kind"},
]


def make(folder: Path, method: str = "dpo", config: Any = None, evals: Iterable[Any] = (), **more: Any) -> Path:
    """A finished training's folder without its weights; evals: lines of its eval.jsonl."""
    pairs = pair_accuracy(evals)
    record = {
        "schema": 1, "finished": True, "seconds": 75.2,
        "identity": {"method": method, "model": "m", "data": [], "config": CONFIG | (config or {})},
        "settled": {"max_length": 128, "dtype": "float32", "devices": 2},
        "plan": PLAN, "model": HUB, "data": DATA, "run": None,
        "truncation": {"limit": 128, "rows": 80, "longest": 300, "over": 8, "tokens": 8000, "cut": 80},
        "versions": {"cai-toolkit": None, "trl": "1.16.0", "python": "3.12.1"},
        "summary": {"steps": 1234, "seconds": 75.2, "pairs": pairs and pairs.model_dump(mode="json")},
    } | more  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "training.json").write_bytes(orjson.dumps(record))
    return folder


def write_samples(folder: Path, rows: Iterable[Sample]) -> None:
    (folder / FILE).write_bytes(b"".join(orjson.dumps(row.model_dump()) + b"\n" for row in rows))
