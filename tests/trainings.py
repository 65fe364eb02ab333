"""What tests of whole trainings share: rows, Ctrl-C at a step, and what a training's folder tells."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from cai.training.setup.keys import Lora, TrainConfig
from cai.training.train import train as train_any

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


def said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def chats(count: int = 24, **replies: str) -> list[dict[str, Any]]:
    """Rows of `sft`; replies: by id, where a row has another than its own."""
    return [
        {
            "id": f"q{n}",
            "messages": said("user", f"Question {n}?") + said("assistant", replies.get(f"q{n}", f"Answer {n}.")),
        }
        for n in range(count)
    ]


def pairs(count: int = 24, **columns: Any) -> list[dict[str, Any]]:
    """Rows of `dpo` and `reward`."""
    return [
        {
            "id": f"q{n}",
            "prompt": said("user", f"Question {n}?"),
            "chosen": said("assistant", f"Good answer {n}." * (1 + n % 3)),
            "rejected": said("assistant", f"Bad reply {n}, and long."),
            **columns,
        }
        for n in range(count)
    ]


def graded(count: int = 24) -> list[dict[str, Any]]:
    """Rows of `kto`: the good replies of `pairs` for every second prompt, the bad ones for the others."""
    return [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "completion": row["chosen" if n % 2 else "rejected"],
            "label": n % 2 == 1,
        }
        for n, row in enumerate(pairs(count))
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


QUIET = {"samples": 0, "save_every": 1_000, "eval_every": 1_000}  # checkpoint and evaluation at the end alone


def train(method: Any, rows: Any, *, report: bool = False, flags: dict[str, Any], **more: Any) -> Any:
    """A training; report: with its plots, samples, checkpoints, evaluations on the way and peft's own cards.

    They take half of a tiny one's time.
    """
    if report:
        return train_any(method, rows, flags=flags, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cai.training.report.card.write_plots", lambda folder, lines: None)
        patch.setattr("peft.PeftModel.create_or_update_model_card", lambda model, folder: None)
        return train_any(method, rows, flags=QUIET | flags, **more)


def ctrl_c(step: int) -> Callable[[Mapping[str, Any]], None]:
    """A `progress` that presses Ctrl-C when it hears the loss of this step; the training ends after the next one."""

    def heard(metrics: Mapping[str, Any]) -> None:
        if metrics.get("step") == step and "loss" in metrics:
            os.kill(os.getpid(), signal.SIGINT)

    return heard


def lines(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (out / name).read_bytes().splitlines()]


def losses(out: Path) -> dict[int, float]:
    """The loss of every step."""
    found = [(line["step"], line["loss"]) for line in lines(out) if "loss" in line]
    assert len(found) == len(dict(found)), "a step is there twice"
    return dict(found)


def record(out: Path) -> Any:
    return orjson.loads((out / "training.json").read_bytes())


def weights(out: Path) -> dict[str, bytes]:
    """What was learnt, as it is on the disk."""
    found = {name: (out / name).read_bytes() for name in WEIGHTS if (out / name).exists()}
    assert found, f"{out} has no weights"
    return found


def example() -> str:
    """A config file with every key at its default, commented, for the user to change."""
    lines = ["# Every key is optional; null is resolved from data and hardware, and printed."]
    for name, field in TrainConfig.model_fields.items():
        default = field.get_default(call_default_factory=True)
        lines += ["", f"# {field.description}"]
        if isinstance(default, Lora):
            lines.append(f"{name}:")
            for inner, part in Lora.model_fields.items():
                lines += [f"  # {part.description}", f"  {inner}: {_yaml(part.default)}"]
        else:
            lines.append(f"{name}: {_yaml(default)}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
