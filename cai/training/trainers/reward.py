"""Reward models with TRL's own trainer: their product is a judge, `reward:PATH`."""

from __future__ import annotations

from functools import partial
from typing import Any

from cai.errors import UsageError
from cai.training.data.tokens import Encoded
from cai.training.setup.plan import Plan
from cai.training.trainers.preferences import P, Preferences, Watched, build, need_probabilities, without

UNREAD = {"soft": ["margin"], "margin": [P], "hard": ["margin", P]}  # columns that the labels do not believe


class Scored(Preferences):
    """The rows of a reward model."""

    joined = True

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        if row.longest > limit:
            return f"{row.longest:,} tokens exceed {limit:,}, and a cut reply has no reward"
        return row

    def trainer(self, plan: Plan, arguments: dict[str, Any], **parts: Any) -> Any:
        return reward_trainer(labels=self.loss, **self.inputs(plan, arguments), **parts)


def reward_trainer(*, labels: str = "soft", **parts: Any) -> Any:
    """TRL's RewardTrainer.

    labels: what of a row is believed beside which reply was chosen. "soft": cross entropy with `p_chosen` (arXiv
    2212.08073, section 4.1); "margin": the gap must pass `margin` (Touvron et al. 2023, arXiv 2307.09288, Eq. 2);
    "hard": neither. A judge's margin is the log odds of its p_chosen, so both at once would count it twice.
    """
    trainer = build("trl:RewardTrainer", _SoftReward, partial(_columns, labels), **parts)
    _exact_head(trainer.model)
    return trainer


def _exact_head(model: Any) -> None:
    """Let the head compute and train in float32: in bfloat16 most of its steps, and gaps below 2⁻⁸, are lost."""
    import torch

    def exactly(forward: Any) -> Any:
        def run(hidden: Any) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                return forward(hidden.float())

        return run

    heads = [module for name, module in model.named_modules() if "score" in name.split(".")]
    for head in (module for module in heads if isinstance(module, torch.nn.Linear)):
        head.float()
        head.forward = exactly(head.forward)


def _columns(labels: str, dataset: Any) -> Any:
    """The dataset without what the labels do not believe: TRL uses a margin wherever the column is."""
    if labels == "soft":
        need_probabilities(dataset, "labels soft")
    if labels == "margin":
        values = dataset["margin"] if "margin" in dataset.column_names else [None]
        for place, value in enumerate(values, start=1):
            if value is None or not abs(value) < float("inf"):
                raise UsageError(f"labels margin needs a number in `margin` of every row; row {place} has {value!r}")
    return without(dataset, UNREAD[labels])


class _SoftReward(Watched):
    """Bradley–Terry with `p_chosen` where the batch has it: −p·log σ(Δ) − (1−p)·log σ(−Δ) = −log σ(Δ) + (1−p)·Δ."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        self.remember(inputs, {"reward_chosen": chosen, "reward_rejected": rejected})
        if P in inputs:
            loss = loss + ((1 - inputs[P]) * (chosen - rejected)).mean()
        if return_outputs:
            return loss, outputs
        return loss
