"""KTO with TRL's own trainer: from single replies, desirable or not (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cai.errors import UsageError
from cai.records import Object, Values
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Plan
from cai.training.trainers.preferences import Preferences, Watched, theirs

WEIGHTS = ("desirable_weight", "undesirable_weight")


class MixedKTO(Watched):
    """TRL's KTOTrainer over rows shuffled once by `args.seed`, with weights from the counts if both are 1.

    Its estimate of the KL divergence is of all rows of a step or evaluation, each with the reply of the row before as
    the mismatched one; TRL takes both from the rows that are at once. UsageError for a batch of one.
    """

    references = ("ref_logps", "ref_KL_logps")

    def __init__(self, *, args: Any, train_dataset: Any, eval_dataset: Any = None, **parts: Any) -> None:
        if args.loss_type == "kto" and args.per_device_train_batch_size < 2:
            raise UsageError(
                "kto needs a batch size of 2 or more per device: its KL estimate pairs the rows of a batch"
            )
        if args.desirable_weight is args.undesirable_weight is None:
            desirable = sum(train_dataset["label"])
            weights = kto_weights(desirable, len(train_dataset) - desirable)
            args.desirable_weight, args.undesirable_weight = weights
        for name in WEIGHTS:
            if getattr(args, name) is None:  # the other one was named
                setattr(args, name, 1.0)
        if eval_dataset is not None:
            eval_dataset = _mixed(eval_dataset, args)
        self._divergence: Any = None  # of the step or evaluation; None: a batch is asked for alone
        super().__init__(args=args, train_dataset=_mixed(train_dataset, args), eval_dataset=eval_dataset, **parts)

    def get_batch_samples(self, *rest: Any) -> Any:
        """The batches of a step, with the reference's log-probabilities in each."""
        batches, amounts = super().get_batch_samples(*rest)
        if self.calculate_KL and batches:
            batches = [self.with_reference(batch) for batch in batches]
            self._divergence = self._divergence_of(batches)
        return batches, amounts

    def evaluation_loop(self, dataloader: Any, *rest: Any, **named: Any) -> Any:
        if self.calculate_KL:
            self._divergence = self._divergence_of(self.with_reference(batch) for batch in dataloader)
        return super().evaluation_loop(dataloader, *rest, **named)

    def _divergence_of(self, batches: Iterable[Values]) -> Any:
        """The mean log-ratio of the mismatched replies over all rows of all processes, in nats."""
        import torch

        sums = []
        for batch in batches:
            ratios = super()._compute_kl_logps(self.model, theirs(batch)) - batch["ref_KL_logps"]
            sums.append(torch.stack([ratios.sum().double(), self.counts(batch)[""].double()]))
        total, rows = self.accelerator.reduce(torch.stack(sums).sum(dim=0))
        return total / rows

    def _compute_kl_logps(self, model: Any, batch: Values) -> Any:
        """Log-probabilities whose mean log-ratio is that of the step or evaluation."""
        if self._divergence is None:
            return super()._compute_kl_logps(model, batch)
        return batch["ref_KL_logps"] + self._divergence.float()

    def counts(self, inputs: Object) -> Mapping[str, Any]:
        desirable = inputs["label"].bool()
        tokens = inputs["completion_mask"][:, 1:].sum(dim=1)
        counts = {**super().counts(inputs), "entropy": tokens.sum()}
        for name, side in (("chosen", desirable), ("rejected", ~desirable)):
            counts[f"rewards/{name}"] = counts[f"logps/{name}"] = side.sum()
            counts[f"logits/{name}"] = (tokens * side).sum()
        return counts

    def merge(self, metrics: dict[str, list[float]], counts: Mapping[str, list[Any]]) -> None:
        super().merge(metrics, counts)
        if "rewards/chosen" in metrics and "rewards/rejected" in metrics:
            metrics["rewards/margins"] = [metrics["rewards/chosen"][0] - metrics["rewards/rejected"][0]]


def _mixed(rows: Any, args: Any) -> Any:
    """The rows shuffled; token ids also with a reply to another prompt beside each: that of the row before.

    TRL adds such replies itself when it has made the ids.
    """
    rows = rows.shuffle(seed=args.seed)
    if args.loss_type != "kto" or "completion_ids" not in rows.column_names:
        return rows

    def rotated(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        replies = batch["completion_ids"]
        return {"KL_completion_ids": [replies[-1], *replies[:-1]]}

    return rows.map(rotated, batched=True, batch_size=len(rows))


def kto_weights(desirable: int, undesirable: int) -> tuple[float, float]:
    """Weights of desirable and undesirable rows so that both kinds weigh the same in sum; the rarer kind's is above 1.

    Ethayarajh et al. 2024 (arXiv 2402.01306, Eq. 8): λ_D·n_D / λ_U·n_U within 1 and 4/3; this is 1, to the two digits
    to which TRL checks it. UsageError if a kind has no rows: KTO needs both.
    """
    if not desirable or not undesirable:
        raise UsageError(f"kto needs rows of both labels: {desirable} are true, {undesirable} false")
    if desirable < undesirable:
        return round(undesirable / desirable, 2), 1.0
    return 1.0, round(desirable / undesirable, 2)


class Graded(Preferences):
    """The rows of KTO."""

    hooks = MixedKTO
    columns = ("completion_ids",)
    labels = dict.fromkeys(METHODS["kto"].losses, "label")

    def arguments(self, plan: Plan) -> Values:
        return super().arguments(plan) | dict.fromkeys(WEIGHTS)  # None: by the counts, unless the config names one
