"""Direct preference optimisation: TRL's own trainer, and losses that use the label probability of each pair.

D is the log-ratio difference of chosen and rejected between the policy and its reference, β·D the gap of their implicit
rewards (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7), p the probability that the chosen reply is the better one.
A loss of `SOFT` is named in `loss_type` beside TRL's names, with its weight in `loss_weights`; TRL makes the forward
pass, the stock part of the loss and the metrics, and our part is added. The hooks are private ones of TRL 1.16: its
range is pinned, and tests compare a certain label with the stock loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from cai.errors import UsageError
from cai.records import Object, Values
from cai.training.setup.config import Setting
from cai.training.setup.plan import Plan
from cai.training.trainers.preferences import P, Preferences, Watched

# Losses of TRL 1.16 that hold the chosen reply itself in place, or lower it on purpose (apo_down). The others see D
# alone, so both replies may become less probable together (Razin et al. 2024, arXiv 2410.08847), and the mix with the
# chosen reply's NLL is on.
ANCHORED = ("aot_unpaired", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft")
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # the only ones that read label_smoothing

# Weight of the chosen reply's NLL, a mean over tokens, beside a loss of differences. Llama 3 (arXiv 2407.21783,
# section 4.1.4) takes 0.2 at β = 0.1 for chat; Pang et al. (2404.19733), who train reasoning, take 1.
NLL_WEIGHT = 0.2

# Losses


def cross_entropy(gap: Any, p: Any) -> Any:
    """−p·log σ(gap) − (1−p)·log σ(−gap), per row; its optimum is σ(gap) = p.

    With gap = β·D it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO")
    with ε = 1 − p per row; with a difference of rewards, Bradley–Terry with soft labels (Bai et al. 2022, section 4.1).
    """
    from torch.nn.functional import logsigmoid

    return -p * logsigmoid(gap) - (1 - p) * logsigmoid(-gap)


def gap_scaled(gap: Any, p: Any) -> Any:
    """−log σ((2p−1)·gap), per row: geometric-averaged DPO (Furuta et al. 2024, arXiv 2409.06691, its GDPO).

    A label of 0.5 teaches nothing at any gap, while `cross_entropy` pulls such a gap to 0; they agree at gap 0 only.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid((2 * p - 1) * gap)


SOFT = {"cdpo": cross_entropy, "gap_scaled": gap_scaled}
NLL = "sft"  # TRL's name for the NLL of the chosen replies, which it takes as a mean over the tokens of a batch


def with_nll(loss: str, weight: float) -> tuple[list[str], list[float]]:
    """TRL's `loss_type` and `loss_weights` of `loss` and the NLL of the chosen reply; 0 leaves it out."""
    if not weight:
        return [loss], [1.0]
    return [loss, NLL], [1.0, weight]


def check_smoothing(losses: Sequence[str], smoothing: float) -> None:
    """UsageError if TRL would ignore `label_smoothing` silently, or if it cannot be the probability of a flip."""
    if smoothing and not set(losses) & set(SMOOTHED):
        raise UsageError(
            f"label_smoothing {smoothing} has no effect on {' + '.join(losses)}: "
            f"use cdpo (p_chosen of each row) or one of {', '.join(SMOOTHED)}"
        )
    if "robust" in losses and not 0 <= smoothing < 0.5:
        raise UsageError(
            f"robust needs a label_smoothing from 0 to below 0.5, the share of flipped labels: {smoothing}"
        )


def flip_rate(labels: Sequence[float]) -> float:
    """Expected share of wrong labels among pairs with these `p_chosen`, for `robust`: the mean of 1 − p.

    As good as the calibration of p (Chowdhury et al. 2024, arXiv 2403.00409, take ε as known). UsageError from one half
    on: there `robust` is not defined.
    """
    if not labels:
        raise UsageError("no labels: the share of flipped ones is not defined")
    rate = fmean(1 - p for p in labels)
    if rate >= 0.5:
        raise UsageError(f"{rate:.3f} of the labels are expected to be wrong: robust needs less than 0.5")
    return rate


# The method


class Paired(Watched):
    """TRL's DPOTrainer, with what a loss of ours beside its own needs: the log-probabilities of both replies."""

    width = 2
    parts = ("", NLL)

    def counts(self, inputs: Object) -> Mapping[str, Any]:
        chosen, rejected = (side.sum() for side in inputs["completion_mask"][:, 1:].chunk(2))
        metrics = {"entropy": chosen + rejected, "mean_token_accuracy": chosen}
        metrics |= {"logits/chosen": chosen, "logits/rejected": rejected}
        return {**super().counts(inputs), NLL: chosen, **metrics}

    def with_logps(self, model: Any, batch: Values, return_outputs: bool) -> tuple[Any, Any, Any]:
        """TRL's loss and outputs, and the log-probability of each reply, the chosen ones first: of one forward pass."""
        outputs: list[Any] = []  # TRL computes the log-probabilities and keeps them to itself
        hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            loss, result = self.row_loss(model, batch, return_outputs)
        finally:
            hook.remove()
        places = batch["input_ids"].size(1) - 1  # a prompt-learning adapter puts positions of its own before these
        return loss, result, outputs[0].log_probs[:, -places:].sum(dim=1)  # prompt and padding have log prob 0


class SoftDPO(Paired):
    """TRL's DPOTrainer, whose `args.loss_type` may also name losses of `SOFT`, which are added to the stock ones.

    They read `p_chosen` of every row. After an evaluation `on_eval` gets the log-probabilities of every row, in nats.
    UsageError before anything is loaded for settings that TRL would ignore, or that have no meaning with soft labels.
    """

    references = ("ref_chosen_logps", "ref_rejected_logps")
    loss_types: list[str]
    loss_weights: list[float]

    def __init__(self, *, args: Any, **parts: Any) -> None:
        check_smoothing(args.loss_type, args.label_smoothing)
        if args.padding_free:
            raise UsageError("padding_free has no effect on dpo in TRL 1.16, which would warn and pad: leave it out")
        if set(args.loss_type) & set(SOFT):
            others = {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
            for setting, neutral in others.items():
                if getattr(args, setting) != neutral:
                    raise UsageError(f"{setting} {getattr(args, setting)!r} cannot be combined with cdpo or gap_scaled")
        super().__init__(args=args, **parts)
        pairs = list(zip(self.loss_types, self.loss_weights, strict=True))
        self._soft = [(SOFT[name], weight) for name, weight in pairs if name in SOFT]
        self._nll = sum(weight for name, weight in pairs if name == NLL)
        stock = [(name, weight) for name, weight in pairs if name not in (*SOFT, NLL)]
        self.loss_types = [name for name, _ in stock]
        self.loss_weights = [weight for _, weight in stock]

    def loss_sums(self, model: Any, inputs: Values, return_outputs: bool) -> tuple[Any, Any]:
        """TRL's losses and ours from one forward pass of each model; in an evaluation each row is remembered."""
        import torch

        batch = self.with_reference(inputs)
        loss, result, logps = self.with_logps(model, batch, return_outputs)
        chosen, rejected = logps.chunk(2)
        chosen_before, rejected_before = (batch[name] for name in self.references)
        measured = {"logp_chosen": chosen, "logp_rejected": rejected}
        measured |= {"ref_logp_chosen": chosen_before, "ref_logp_rejected": rejected_before}
        self.remember(batch, measured)
        gap = self.beta * ((chosen - chosen_before) - (rejected - rejected_before))  # β·D
        loss = loss * len(gap) + sum(weight * ours(gap, batch[P]).sum() for ours, weight in self._soft)
        return torch.stack([gap.new_zeros(()) + loss, -self._nll * chosen.sum()]), result


class Pairs(Preferences):
    """The rows of DPO."""

    hooks = SoftDPO
    labels = dict.fromkeys(SOFT, P)

    def own_settings(self) -> Iterator[Setting]:
        if self.loss in ANCHORED:
            yield self.loaded.setting("nll", 0.0)
        else:
            why = f"of {self.loss}, which depends only on the difference between two replies"
            yield self.loaded.setting("nll", NLL_WEIGHT, "default", why)
        if self.loss in SMOOTHED:
            yield self._smoothing()

    def _smoothing(self) -> Setting:
        configured = self.loaded.config.trl.get("label_smoothing")
        if configured is not None:
            return Setting("label_smoothing", configured, self.loaded.origin("trl.label_smoothing"))
        labels = [row.p_chosen for row in self.data.train if row.p_chosen is not None]
        if len(labels) == len(self.data.train):
            why = "labels that are expected to be wrong: the mean of 1 − p_chosen"
            return Setting("label_smoothing", round(flip_rate(labels), 4), "data", why)
        if self.loss == "robust":
            raise UsageError(
                "robust needs the share of wrong labels, and not all pairs have p_chosen: set trl.label_smoothing"
            )
        return Setting("label_smoothing", 0.0, "default")

    def arguments(self, plan: Plan) -> Values:
        own = super().arguments(plan)
        own["loss_type"], own["loss_weights"] = with_nll(self.loss, self.settled["nll"])
        if self.loss in SMOOTHED:
            own["label_smoothing"] = self.settled["label_smoothing"]
        return own
