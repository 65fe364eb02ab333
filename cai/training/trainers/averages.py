"""Means over a whole step or evaluation, so that they do not depend on how many rows the memory holds at once.

transformers and TRL take the mean of each batch, and the mean of these: a token of a short batch then weighs more than
one of a long batch, and a row of the last, smaller batch more than any other.
"""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cai.records import Object

if TYPE_CHECKING:
    Vendors = Any  # the class of transformers or TRL that `with_hooks` puts behind a class of ours
else:
    Vendors = object


class Averaged(Vendors, metaclass=ABCMeta):  # type: ignore[misc]
    """Weighs each batch in logs and evaluations by what its means are over.

    parts: of the loss; each is a mean over another count of a batch. `sums` has, of each batch of an evaluation, the
    sum of each part and its count.
    """

    parts: tuple[str, ...] = ("",)

    def __init__(self, **parts: Any) -> None:
        self.sums = list[Any]()
        self._counts: dict[str, dict[str, list[Any]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        super().__init__(**parts)

    @abstractmethod
    def counts(self, inputs: Object) -> Mapping[str, Any]:
        """How many rows or tokens of a batch each part of the loss and each metric is a mean over; "": all others."""

    def amounts(self, inputs: Object) -> Any:
        """What each part of the loss of a batch is a mean over."""
        import torch

        counts = self.counts(inputs)
        return torch.stack([counts[part] for part in self.parts])

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        """TRL's, noting what its metrics are means over."""
        mode = "train" if self.model.training else "eval"
        counts = self.counts(inputs)
        before = {name: len(values) for name, values in self._metrics[mode].items()}
        result = super().compute_loss(model, inputs, *rest, **named)
        for name, values in self._metrics[mode].items():
            if len(values) > before.get(name, 0):
                self._counts[mode][name].append(counts.get(name, counts[""]))
        return result

    def log(self, *rest: Any, **named: Any) -> None:
        mode = "train" if self.model.training else "eval"
        self.merge(self._metrics[mode], self._counts[mode])
        self._counts[mode].clear()
        super().log(*rest, **named)

    def merge(self, metrics: dict[str, list[float]], counts: Mapping[str, list[Any]]) -> None:
        """Make one value of those of the batches since the last entry of the log."""
        import torch

        for name, values in metrics.items():
            if len(values) > 1 and len(values) == len(counts[name]):
                weights = torch.stack(counts[name]).tolist()
                metrics[name] = [weighted_mean(values, weights)]

    def evaluation_loop(self, *rest: Any, **named: Any) -> Any:
        """TRL's, with the loss of all rows or tokens together."""
        import torch

        self.sums = []
        output = super().evaluation_loop(*rest, **named)
        sums, counts = self.accelerator.reduce(torch.stack(self.sums).sum(dim=0))
        prefix = named.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_loss"] = float((sums / counts).sum())
        return output


def weighted_mean(values: Sequence[float | None], weights: Sequence[float]) -> float:
    """The mean of the values that are known; NaN if none is."""
    pairs = zip(values, weights, strict=True)
    known = [(value, weight) for value, weight in pairs if value is not None and math.isfinite(value)]
    total = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / total if total else math.nan
