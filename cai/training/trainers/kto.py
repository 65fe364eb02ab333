"""KTO with TRL's own trainer: from single replies, desirable or not (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from __future__ import annotations

from typing import Any

from cai.errors import UsageError
from cai.records import Values
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Plan
from cai.training.trainers.loop import with_hooks
from cai.training.trainers.preferences import Preferences, Watched


class Graded(Preferences):
    """The rows of KTO."""

    columns = ("completion_ids",)
    labels = dict.fromkeys(METHODS["kto"].losses, "label")

    def trainer(self, plan: Plan, arguments: Values, **parts: Any) -> Any:
        return kto_trainer(**self.inputs(plan, arguments | {"loss_type": self.loss}), **parts)


def kto_trainer(*, args: Any, train_dataset: Any, eval_dataset: Any = None, **parts: Any) -> Any:
    """TRL's KTOTrainer over rows shuffled once by `args.seed`, with weights from the counts if both are 1.

    TRL takes the rows in their order, and the reply of the row before as the mismatched one of its KL estimate: rows of
    one prompt side by side would estimate it from replies that do match. UsageError for a batch of one.
    """
    if args.loss_type == "kto" and args.per_device_train_batch_size < 2:
        raise UsageError("kto needs a batch size of 2 or more per device: its KL estimate pairs the rows of a batch")
    if args.desirable_weight == args.undesirable_weight == 1:
        desirable = sum(train_dataset["label"])
        weights = kto_weights(desirable, len(train_dataset) - desirable)
        args.desirable_weight, args.undesirable_weight = weights

    def mixed(part: Any) -> Any:
        rows = part.shuffle(seed=args.seed)
        if args.loss_type != "kto":
            return rows
        return _with_mismatched(rows, args.per_device_train_batch_size)

    rows = {"train_dataset": mixed(train_dataset)}
    if eval_dataset is not None:
        rows["eval_dataset"] = mixed(eval_dataset)
    return with_hooks("trl:KTOTrainer", Watched)(args=args, **rows, **parts)


def _with_mismatched(rows: Any, size: int) -> Any:
    """Token ids with a reply to another prompt beside each: that of the row before in a batch, as TRL has it."""
    if "completion_ids" not in rows.column_names:
        return rows  # TRL adds them when it has made the ids

    def rotated(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        replies = batch["completion_ids"]
        return {"KL_completion_ids": [replies[-1], *replies[:-1]]}

    return rows.map(rotated, batched=True, batch_size=size)


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
