"""Supervised fine-tuning on replies with TRL's own trainer, with the loss on the last reply only.

TRL is given token ids and labels; its own preparation masks replies only for the chat templates that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cai.records import Object, Values
from cai.training.data.tokens import Encoded, Rows
from cai.training.setup.plan import Plan
from cai.training.trainers.loop import Guarded


def rows_of(inputs: Object) -> list[tuple[int, ...]]:
    """The token ids of each row of a batch, padded or side by side."""
    if "attention_mask" in inputs:
        rows = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    else:
        starts = (inputs["position_ids"][0] == 0).nonzero().flatten().cpu()
        rows = inputs["input_ids"][0].tensor_split(starts[1:])
    return [tuple(row.tolist()) for row in rows]


class OnReplies(Guarded):
    """TRL's SFTTrainer, which knows its rows by their tokens, and gives each token the same weight."""

    def __init__(self, *, train_dataset: Any, on_eval: Any, on_reference: Any, **parts: Any) -> None:
        self.places = {tuple(ids): place for place, ids in enumerate(train_dataset["input_ids"])}
        super().__init__(train_dataset=train_dataset, **parts)
        # Else transformers counts no tokens for older classes (Bloom, GPT-2), and TRL divides by those of each batch.
        self.model_accepts_loss_kwargs = True

    def rows_within(self, inputs: Object) -> tuple[int, ...]:
        return tuple(self.places[ids] for ids in rows_of(inputs) if ids in self.places)

    def counts(self, inputs: Object) -> Mapping[str, Any]:
        return {"": (inputs["labels"][..., 1:] != -100).sum()}

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        """TRL's, which divides by the tokens of the whole step."""
        import torch

        amounts = self.amounts(inputs)
        result = super().compute_loss(model, inputs, *rest, **named)
        if not self.model.training:
            loss = result[0] if isinstance(result, tuple) else result
            self.sums.append(torch.stack([loss.detach().double() * amounts, amounts.double()]))
        return result


class Replies(Rows):
    """The rows of SFT."""

    hooks = OnReplies
    before = True

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        fitted = super().fit(row, limit)
        if isinstance(fitted, Encoded):
            return fitted.cut(limit)
        return fitted

    def arguments(self, plan: Plan) -> Values:
        if plan.packing == "packed":
            return {"packing": True, "eval_packing": False, "max_length": plan.max_length}
        return {
            "max_length": None,
            "padding_free": plan.packing == "padding_free",
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }

    def dataset(self, rows: Sequence[Encoded]) -> Any:
        from datasets import Dataset

        return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})
