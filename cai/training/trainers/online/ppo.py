"""PPO (Schulman et al. 2017, arXiv 1707.06347) on rewards for replies, as Ziegler et al. 2019 (arXiv 1909.08593) do it.

TRL 1.16 has no PPO. Replies and the clipped loss of the policy (equation 7) are those of its GRPOTrainer, which takes
an advantage for each token; the advantages and the value model are ours. Each step runs the base twice, once with each
adapter, so it takes about twice the time of a step of `grpo`, in the memory of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.records import Object, Values
from cai.training.report.samples import REFERENCE
from cai.training.setup.config import Setting
from cai.training.setup.plan import Plan
from cai.training.trainers.online.formulas import (
    advantages,
    explained_variance,
    token_rewards,
    value_losses,
    whiten,
)
from cai.training.trainers.online.prompts import Prompts
from cai.training.trainers.online.rollouts import Rollouts
from cai.training.trainers.online.values import (
    VALUE,
    add_value,
    load_head,
    save_head,
    train_both,
    values_of,
    with_adapter,
)

# γ = 1 as in Ziegler et al. 2019: a reply is short, and only its end is rewarded. λ and weight as in their code.
DISCOUNT, DECAY, WEIGHT = 1.0, 0.95, 0.1
OF_GRPO = ("importance_sampling_level", "multi_objective_aggregation", "scale_rewards")


class Clipped(Rollouts):
    """GRPOTrainer with PPO's advantages, and a value model that learns beside the policy."""

    beta: float
    compares = False

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.beta = 0.0  # for TRL, which would add KL to the loss; here it is in the rewards
        self._rewards: Any = None  # of the batch of replies that is being written
        add_value(self.model)

    def _calculate_rewards(self, *parts: Any) -> Any:
        columns = super()._calculate_rewards(*parts)
        known = ~columns.isnan().all(dim=1)
        self._rewards = (columns * self.reward_weights.to(columns.device)).nansum(dim=1), known
        return columns

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        return batch | self._credited(batch)

    def _credited(self, batch: Object) -> Values:
        """The advantage and the return of each token, and what they were computed from."""
        import torch
        from trl.trainer.utils import use_adapter

        mask = batch["completion_mask"]
        rewards, known = self._rewards
        with torch.no_grad():
            logps = self._in_parts(batch, self._logps)
            with use_adapter(self.model, REFERENCE if REFERENCE in self.model.peft_config else None):
                reference = self._in_parts(batch, self._logps)
            with with_adapter(self.model, VALUE):
                values = self._in_parts(batch, self._values)
        learnt = mask * known.unsqueeze(1)
        earned = token_rewards(rewards, logps, reference, mask, self.settled["beta"])
        estimates = advantages(earned, values, mask, self.settled["discount"], self.settled["gae_lambda"])
        returns = estimates + values
        metrics = self._metrics[self._mode()]
        metrics["kl"].append(float(((logps - reference) * mask).sum() / mask.sum().clamp(min=1)))
        metrics["value/explained_variance"].append(float(explained_variance(values, returns, learnt)))
        return {
            "advantages": whiten(estimates, learnt),
            "returns": returns,
            "old_values": values,
            "old_per_token_logps": logps,
            "value_mask": learnt,
        }

    def _in_parts(self, batch: Object, of: Any) -> Any:
        """What a function of ids and attention mask gives for a whole batch of replies, few at once."""
        import torch

        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        width = batch["completion_ids"].shape[1]
        size = self.args.per_device_train_batch_size
        return torch.cat([of(*part, width) for part in zip(ids.split(size), attended.split(size), strict=True)])

    def _logps(self, ids: Any, attended: Any, width: int) -> Any:
        return self._get_per_token_logps_and_entropies(self.model, ids, attended, width)[0]

    def _values(self, ids: Any, attended: Any, width: int) -> Any:
        inputs = {"input_ids": ids, "attention_mask": attended}
        return values_of(self.model, inputs, width, self.accelerator.autocast())

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """The loss of the values, whose gradient is taken first so that one pass at a time is in memory, and TRL's."""
        mask = inputs["value_mask"]
        with with_adapter(self.model, VALUE):
            values = self._in_parts(inputs, self._values)
            losses = value_losses(values, inputs["old_values"], inputs["returns"], self.args.epsilon) * mask
            loss = self.settled["value_weight"] * losses.sum() / inputs["num_items_in_batch"].clamp(min=1)
            if self.model.training:
                self.accelerator.backward(loss)
        self._metrics[self._mode()]["value/loss"].append(float(losses.detach().sum() / mask.sum().clamp(min=1)))
        return loss.detach() + super()._compute_loss(model, inputs)

    # The value model in checkpoints

    def create_optimizer(self, *rest: Any, **named: Any) -> Any:
        train_both(self.model)
        return super().create_optimizer(*rest, **named)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        save_head(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(checkpoint, model)
        load_head(self.model, Path(checkpoint))
        train_both(self.model)


class Credited(Prompts):
    """The prompts of PPO."""

    hooks = Clipped

    def settle(self) -> Iterator[Setting]:
        config = self.loaded.config
        if config.full:
            raise UsageError(
                "full: ppo trains two adapters on one base, for the policy and for the values; leave it out"
            )
        for name in OF_GRPO:
            if name in config.trl:
                raise UsageError(f"trl.{name} is of grpo: the advantages of ppo are its own; leave it out")
        yield from super().settle()
        yield self.loaded.setting("discount", DISCOUNT)
        yield self.loaded.setting("gae_lambda", DECAY)
        yield self.loaded.setting("value_weight", WEIGHT)

    def sequences(self, plan: Plan) -> int:
        if plan.devices > 1:
            raise UsageError(
                "ppo trains in one process, as its adapters learn in turn: start it without a launcher, or take rloo"
            )
        return super().sequences(plan)

    def arguments(self, plan: Plan) -> Values:
        return super().arguments(plan) | {"loss_type": "dapo"}  # a mean over all tokens of a step
