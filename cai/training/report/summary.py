"""What a training did, as its folder keeps it and as people read it.

Knows counts and metrics; nothing of how they come about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.records import Record
from cai.texts.wording import counted
from cai.training.report.pairs import PairAccuracy
from cai.training.setup.folder import UNTOLD


class TrainSummary(Record):
    """What a training did."""

    folder: Path
    method: str
    rows: int  # that trained
    eval_rows: int
    dropped: dict[str, int]  # rows by reason
    steps: int
    seconds: float  # all sessions together
    pairs: PairAccuracy | None  # of the pairs that were held out, before and after
    metrics: dict[str, float | None]  # at the end: loss and, with eval rows, those of the last evaluation
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        steps = counted(self.steps, "step")
        told = [f"{self.folder}: {self.method}, {steps} on {counted(self.rows, 'row')} in {self.seconds:,.0f} s"]
        told += [f"{name} {'no number' if value is None else f'{value:.4g}'}" for name, value in self._shown()]
        told += [] if self.pairs is None else self.pairs.lines()
        return told + [f"note: {note}" for note in self.notes]

    def _shown(self) -> Iterator[tuple[str, float | None]]:
        """The metrics that say something by themselves; training.json has all."""
        names = {"loss": "loss", "eval_loss_before": "held-out loss before", "eval_loss": "held-out loss"}
        if self.method == "kto":
            names |= {"eval_rewards/chosen": "desirable: reward", "eval_rewards/rejected": "undesirable: reward"}
        for name, told in names.items():
            if name in self.metrics:
                yield told, self.metrics[name]


def last_metrics(lines: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of the lines of metrics.jsonl the last loss and evaluation, and the one before the first step, if any."""
    evals = [line for line in lines if "eval_loss" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    metrics = {"loss": losses[-1]} if losses else {}
    if len(evals) > 1 and evals[0]["step"] == 0:
        metrics["eval_loss_before"] = evals[0]["eval_loss"]
    found = evals[-1] if evals else {}
    return metrics | {name: found[name] for name in found if name.startswith("eval_") and name not in UNTOLD}
