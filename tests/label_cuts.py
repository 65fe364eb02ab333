"""Label runs with labels made for tests of their cuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pair_labels import label

from cai.packages import package_version

LAW = {"name": "kind", "version": "1.2.0", "hash": "c0ffee"}
BINDING = {"judge": "openai:judge", "protocol": "logprob", "templates": "7e57", "constitution": LAW, "principles": 1}
IDENTITY: dict[str, Any] = {
    "command": "label",
    "source": {"command": "sample", "run": "0badcafe", "n": 2},
    "pairing": "all",
    "binding": BINDING,
    "seed": 0,
}
Row = dict[str, Any]


def make_run(folder: Path, labels: list[Row], lines: str = "", **info: Any) -> Path:
    """A finished label run in which `labels` finished in this order; lines: of dropped.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"cai": package_version("cai-toolkit")}
    kept = {"format": 1, "identity": IDENTITY, "versions": versions, "stopped": None} | info
    (folder / "run.json").write_text(json.dumps(kept))
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    (folder / "dropped.jsonl").write_text(lines)
    return folder


def text(number: int, name: int) -> str:
    return f"Answer {name} to question {number} speaks of {'many ' * name}bees, of ponds and of chapter {number * 7}."


def pair(number: int, z: float | None, x: int = 0, y: int = 1, **more: Any) -> Row:
    """The label of samples x and y of a prompt."""
    return label(z) | {
        "a": text(number, x),
        "b": text(number, y),
        "a_from": f"sample {x}",
        "b_from": f"sample {y}",
        "id": f"q{number}:{x}-{y}",
        "position": number << 16 | y * (y - 1) // 2 + x,
        "prompt_id": f"q{number}",
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "key": f"{number:08x}{x:04x}{y:04x}{'0' * 16}",
        **more,
    }


def rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
