"""Reward models with TRL's own trainer: their product is a judge, `reward:PATH`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from cai.models.inprocess.conditions import set_condition
from cai.records import Values
from cai.training.data.dataset import TrainingData
from cai.training.data.tokens import Encoded
from cai.training.setup.config import Loaded
from cai.training.trainers.preferences import P, Preferences, Watched


class SoftReward(Watched):
    """TRL's RewardTrainer; the columns of the rows decide the loss.

    With `p_chosen`, cross entropy with it (arXiv 2212.08073, section 4.1), added to TRL's loss as
    −p·log σ(Δ) − (1−p)·log σ(−Δ) = −log σ(Δ) + (1−p)·Δ; with `margin`, the gap must pass it (Touvron et al. 2023, arXiv
    2307.09288, Eq. 2); with neither, which reply was chosen is all there is.
    """

    width = 2

    def __init__(self, **parts: Any) -> None:
        import torch

        super().__init__(**parts)
        for name, head in self.model.named_modules():
            # In bfloat16 most steps of the head, and gaps below 2⁻⁸, would be lost.
            if "score" in name.split(".") and isinstance(head, torch.nn.Linear):
                head.float()
                head.forward = partial(_exactly, head.forward)

    def loss_sums(self, model: Any, inputs: Values, return_outputs: bool) -> tuple[Any, Any]:
        import torch

        loss, outputs = self.row_loss(model, inputs, True)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        self.remember(inputs, {"reward_chosen": chosen, "reward_rejected": rejected})
        loss = loss * len(chosen)
        if P in inputs:
            loss = loss + ((1 - inputs[P]) * (chosen - rejected)).sum()
        return torch.stack([loss]), outputs

    def merge(self, metrics: dict[str, list[float]], counts: Mapping[str, list[Any]]) -> None:
        for name, extreme in (("min_reward", min), ("max_reward", max)):
            if name in metrics:
                metrics[name] = [extreme(metrics[name])]
        super().merge(metrics, counts)


def _exactly(forward: Any, hidden: Any) -> Any:
    import torch

    with torch.autocast(hidden.device.type, enabled=False):
        return forward(hidden.float())


class Scored(Preferences):
    """The rows of a reward model."""

    hooks = SoftReward
    joined = True
    whole = True
    # Never both: a judge's margin is the log odds of its p_chosen.
    labels: ClassVar[Mapping[str, str]] = {"soft": P, "margin": "margin"}

    def __init__(self, data: TrainingData, loaded: Loaded, tokenizer: Any, ends: Iterable[int], folder: Path) -> None:
        super().__init__(data, loaded, tokenizer, ends, folder)
        set_condition(tokenizer, data.principles)

    def fit(self, row: Encoded, limit: int) -> Encoded | str:
        if row.longest > limit:
            return f"{row.longest:,} tokens exceed {limit:,}, and a cut reply has no reward"
        return row
