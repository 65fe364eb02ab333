"""ORPO, SimPO and CPO: losses over pairs that compare the model with no reference, on TRL's DPO trainer.

Each gives a reply a reward r of its own, from its log-probability alone, and makes the reward of the chosen reply the
higher one. A pair whose chosen reply is the better one with probability p has the loss of a hard label, expected under
p. The NLL of the chosen replies is a mean over the tokens of a step.

TRL gives the forward pass and the metrics that no reference changes. No second model is loaded, except that under FSDP
with all weights training TRL loads one while it is set up, and drops it before the first step. Of an adapter that is
trained further, TRL keeps a copy, which answers the held-out prompts as the model did before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cai.records import Object, Values
from cai.training.setup.config import Setting
from cai.training.setup.plan import Plan
from cai.training.trainers.dpo import Paired
from cai.training.trainers.preferences import P, Preferences

SURE = 1e-7  # nats a token; a reply that is more certain has odds that float32 cannot tell from infinite ones
# Meng et al. 2024 (arXiv 2405.14734) take β of 2.0 or 2.5, and recommend to begin with γ/β = 0.5.
SIMPO_BETA, GAMMA_SHARE = 2.0, 0.5

# Rewards, from the log-probability of a reply: of the whole of it, or its mean over the tokens


def log_odds(logp: Any) -> Any:
    """log(P/(1−P)) with log P = `logp`, a mean over tokens (Hong et al. 2024, arXiv 2403.07691, Eq. 4)."""
    import torch

    logp = logp.float() if logp.dtype in (torch.float16, torch.bfloat16) else logp
    logp = logp.clamp(max=-SURE)
    return logp - torch.log(-torch.expm1(logp))


def preference(gap: Any, p: Any, margin: float = 0.0) -> Any:
    """−p·log σ(gap − γ) − (1−p)·log σ(−gap − γ), per row, for a gap of rewards and a target margin γ.

    With p = 1 it is ORPO's L_OR (arXiv 2403.07691, Eq. 7), SimPO (arXiv 2405.14734, Eq. 6) and CPO's L_prefer (Xu et
    al. 2024, arXiv 2401.08417, Eq. 3), by their rewards. Swapped replies with 1 − p have the same loss, and a label of
    ½ pulls the gap to 0. The optimum is log p/(1−p); with a margin log x for the positive x of
    (1−p)·x² − e^γ·(2p−1)·x − p = 0.
    """
    from torch.nn.functional import logsigmoid

    return -p * logsigmoid(gap - margin) - (1 - p) * logsigmoid(-gap - margin)


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: weight · `preference` of the rewards + nll · NLL of the chosen replies."""

    reward: Callable[[Any], Any]
    per_token: bool  # whether the reward is of the mean log-probability of a reply's tokens, or of the reply's own
    weight: float = 1.0
    margin: float = 0.0
    nll: float = 0.0


# The trainer


class ReferenceFree(Paired):
    """TRL's DPOTrainer with an objective of ours in place of its losses, and no reference.

    After an evaluation `on_eval` gets the log-probabilities of every row in nats, and their means over the tokens if
    the objective is of those.
    """

    def __init__(self, *, objective: Objective, **parts: Any) -> None:
        self._objective = objective
        super().__init__(**parts)

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        """The dataset: no reference is asked."""
        return dataset

    def loss_sums(self, model: Any, inputs: Values, return_outputs: bool) -> tuple[Any, Any]:
        import torch

        objective = self._objective
        tokens = inputs["completion_mask"][:, 1:].sum(dim=1)
        nothing = tokens.new_zeros(len(tokens) // 2, dtype=torch.float32)
        batch = {**inputs, "ref_chosen_logps": nothing, "ref_rejected_logps": nothing}  # which TRL subtracts
        loss, result, logps = self.with_logps(model, batch, return_outputs)
        measured = logps
        measures = {"logp": logps}
        if objective.per_token:
            measures["mean_logp"] = measured = logps / tokens
        self.remember(inputs, _by_side(measures))
        chosen, rejected = objective.reward(measured).chunk(2)
        self._log_rewards(chosen.detach(), rejected.detach())
        p = inputs.get(P, torch.ones_like(chosen))
        losses = objective.weight * preference(chosen - rejected, p, objective.margin)
        nll = -objective.nll * logps.chunk(2)[0].sum()
        return torch.stack([losses.sum() + loss * len(chosen), nll]), result  # loss: TRL's, of a mixture of experts

    def _log_rewards(self, chosen: Any, rejected: Any) -> None:
        """Put these in place of the rewards that TRL has just logged, which are gains over a reference."""
        import torch

        chosen, rejected = self.accelerator.gather(torch.stack([chosen, rejected], dim=1)).unbind(dim=1)
        wins = (chosen > rejected).to(chosen.dtype)
        rewards = {"chosen": chosen, "rejected": rejected, "margins": chosen - rejected, "accuracies": wins}
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, values in rewards.items():
            metrics[f"rewards/{name}"][-1] = values.mean().item()


def _by_side(measures: Mapping[str, Any]) -> Object:
    """Each measure of the chosen replies and of the rejected ones, under names of their own."""
    sides: dict[str, Any] = {}
    for name, values in measures.items():
        sides[f"{name}_chosen"], sides[f"{name}_rejected"] = values.chunk(2)
    return sides


# The methods


class Unreferenced(Preferences):
    """The rows of a method without a reference."""

    hooks = ReferenceFree
    before = True
    labels: ClassVar[Mapping[str, str]] = {"soft": P}

    @abstractmethod
    def objective(self) -> Objective:
        """What the method minimises, as its settings have it."""

    def arguments(self, plan: Plan) -> Values:
        own = super().arguments(plan)
        own["loss_type"] = []  # of TRL's
        own["beta"] = 0.0  # TRL's own is the weight of a gain over a reference
        # With an adapter TRL asks the model without it; with all weights it would load a second model, unless what it
        # says is known already.
        own["precompute_ref_log_probs"] = self.loaded.config.full
        return own

    def own_parts(self) -> Values:
        return {"objective": self.objective()}


class OddsRatio(Unreferenced):
    """ORPO: L_SFT + λ·L_OR, with λ = `beta` (arXiv 2403.07691, Eq. 6)."""

    def objective(self) -> Objective:
        return Objective(log_odds, per_token=True, weight=self.settled["beta"], nll=1.0)


class Simple(Unreferenced):
    """SimPO: r = β/|y|·log π(y|x), and a target margin γ (arXiv 2405.14734, Eq. 4 and 6)."""

    beta = SIMPO_BETA

    def own_settings(self) -> Iterator[Setting]:
        beta = self.loaded.config.beta or self.beta
        yield self.loaded.setting("gamma", GAMMA_SHARE * beta, "default", "half of beta")
        yield self.loaded.setting("nll", 0.0)

    def objective(self) -> Objective:
        beta = self.settled["beta"]
        return Objective(
            lambda mean: beta * mean, per_token=True, margin=self.settled["gamma"], nll=self.settled["nll"]
        )


class Contrastive(Unreferenced):
    """CPO: L_prefer + L_NLL, with r = β·log π(y|x) (arXiv 2401.08417, Eq. 5)."""

    def own_settings(self) -> Iterator[Setting]:
        yield self.loaded.setting("nll", 1.0)

    def objective(self) -> Objective:
        beta = self.settled["beta"]
        return Objective(lambda logp: beta * logp, per_token=False, nll=self.settled["nll"])
