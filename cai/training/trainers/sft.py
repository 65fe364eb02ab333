"""Supervised fine-tuning on replies with TRL's own trainer, with the loss on the last reply alone.

TRL is given token ids and labels; its own preparation masks replies only for the chat templates that it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cai.training.data.tokens import Encoded, Rows
from cai.training.setup.plan import Plan
from cai.training.trainers.loop import Guarded, trl_class, vendor


class Replies(Rows):
    """The rows of SFT."""

    before = True
    tails = False

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        fitted = super().fit(row, limit)
        return fitted.cut(limit) if isinstance(fitted, Encoded) else fitted

    def trainer(self, plan: Plan, arguments: dict[str, Any], **parts: Any) -> Any:
        packed = plan.packing == "packed"
        own = {
            "packing": packed,
            "padding_free": plan.packing == "padding_free",
            "eval_packing": False if packed else None,
            "max_length": plan.max_length if packed else None,
            "dataset_kwargs": {"skip_prepare_dataset": not packed},
        }
        for hook in ("on_eval", "on_reference"):
            parts.pop(hook)
        trainer = trl_class("trl:SFTTrainer", _OnReplies)(
            args=vendor(self.arguments)(**own | arguments),
            train_dataset=_table(self.train),
            eval_dataset=_table(self.eval) if self.eval else None,
            **parts,
        )
        trainer.places = {tuple(row.ids): place for place, row in enumerate(self.train)}
        return trainer


def _table(rows: Sequence[Encoded]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})


def rows_of(inputs: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """The token ids of each row of a batch, padded or side by side."""
    if "attention_mask" in inputs:
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            yield tuple(ids[mask.bool()].tolist())
        return
    ids = inputs["input_ids"][0].tolist()
    starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield tuple(ids[start:end])


class _OnReplies(Guarded):
    """TRL's SFTTrainer, which knows its rows by their tokens, and gives each token the same weight in an evaluation."""

    places: Mapping[tuple[int, ...], int]

    def rows_within(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self.places[ids] for ids in rows_of(inputs) if ids in self.places)

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        import torch

        trl: Any = super()
        tokens = (inputs["labels"][..., 1:] != -100).sum()
        result = trl.compute_loss(model, inputs, *rest, **more)
        if not model.training:
            loss = result[0] if isinstance(result, tuple) else result
            self.sums.append(torch.stack([loss.detach().double() * tokens, tokens.double()]))
        return result

    def evaluation_loop(self, *given: Any, **more: Any) -> Any:
        """TRL's, with the loss of all tokens alike: its own is a mean of batches, whatever they hold."""
        import torch

        trl: Any = super()
        me: Any = self
        self.sums = list[Any]()
        output = trl.evaluation_loop(*given, **more)
        whole = me.accelerator.reduce(torch.stack(self.sums).sum(dim=0))
        prefix = more.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_loss"] = float(whole[0] / whole[1])
        return output
