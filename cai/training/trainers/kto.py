"""KTO with TRL's own trainer: from single replies, desirable or not (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from __future__ import annotations

from typing import Any

from cai.errors import UsageError
from cai.training.setup.methods import METHODS
from cai.training.trainers.preferences import Preferences, Watched


class MixedKTO(Watched):
    """TRL's KTOTrainer over rows shuffled once by `args.seed`, with weights from the counts if both are 1.

    TRL takes the rows in their order, and the reply of the row before as the mismatched one of its KL estimate: rows of
    one prompt side by side would estimate it from replies that do match. UsageError for a batch of one.
    """

    def __init__(self, *, args: Any, train_dataset: Any, eval_dataset: Any = None, **parts: Any) -> None:
        if args.loss_type == "kto" and args.per_device_train_batch_size < 2:
            raise UsageError(
                "kto needs a batch size of 2 or more per device: its KL estimate pairs the rows of a batch"
            )
        if args.desirable_weight == args.undesirable_weight == 1:
            desirable = sum(train_dataset["label"])
            weights = kto_weights(desirable, len(train_dataset) - desirable)
            args.desirable_weight, args.undesirable_weight = weights
        if eval_dataset is not None:
            eval_dataset = _mixed(eval_dataset, args)
        super().__init__(args=args, train_dataset=_mixed(train_dataset, args), eval_dataset=eval_dataset, **parts)


def _mixed(rows: Any, args: Any) -> Any:
    """The rows shuffled; token ids also with a reply to another prompt beside each: that of the row before in a batch.

    TRL adds such replies itself when it has made the ids.
    """
    rows = rows.shuffle(seed=args.seed)
    if args.loss_type != "kto" or "completion_ids" not in rows.column_names:
        return rows

    def rotated(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        replies = batch["completion_ids"]
        return {"KL_completion_ids": [replies[-1], *replies[:-1]]}

    return rows.map(rotated, batched=True, batch_size=args.per_device_train_batch_size)


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
