"""What the trainers of preferences share: rows on disk for TRL, `p_chosen` in every batch, evaluations by row.

TRL keeps reference log-probabilities in a file beside the rows, and has none for rows in memory. With the rows in one
folder, the same command computes them once, and several processes share them. TRL is given token ids; those of a reply
end where a model stops.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import orjson

from cai.errors import InputError, UsageError
from cai.records import Object, Values
from cai.texts.wording import nearest
from cai.training.data.rows import named
from cai.training.data.tokens import Encoded, Rows
from cai.training.setup.config import Setting
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Plan
from cai.training.trainers.loop import Guarded

P, ROW = "p_chosen", "row"  # ROW: the row's number, by which a loss that is not a number is reported
OURS = (P, ROW)
PART = 256  # rows: two minutes of 135M parameters on a CPU
BETA = 0.1  # Rafailov et al. 2023 (arXiv 2305.18290), appendix B; TRL's default for kto, too

OnReference = Callable[[int], None]  # for how many rows the reference has run, before the first step
OnEval = Callable[[int, list[Values]], None]  # the step, and what each row gave when it was evaluated


class Preferences(Rows):
    """Rows of preferences: of pairs, or of single replies."""

    columns: ClassVar[tuple[str, ...]] = ("chosen_ids", "rejected_ids")  # of TRL, one for each reply
    joined: ClassVar[bool] = False  # whether TRL takes each reply with the prompt before it
    labels: ClassVar[Mapping[str, str]] = {}  # by loss: the field of a row that it reads besides the replies
    beta: ClassVar[float] = BETA  # the default

    def settle(self) -> Iterator[Setting]:
        setting = self._loss()
        self.loss = setting.value
        self.label = self.labels.get(self.loss)
        for row in (*self.data.train, *self.data.eval):
            if self.label is not None and getattr(row, self.label) is None:
                raise InputError(
                    f"{named(row.id)} has no {self.label}, which the loss {self.loss} reads of every row: label the "
                    "rows, or choose another loss"
                )
        if self.loss:  # a method may have but one, without a name
            yield setting
        keys = METHODS[self.data.method].keys
        if "beta" in keys:
            yield self.loaded.setting("beta", self.beta)
        yield from self.own_settings()
        if "reference" in keys:
            yield self._reference()

    def own_settings(self) -> Iterator[Setting]:
        """The settings that only this method has."""
        yield from ()

    def _loss(self) -> Setting:
        method = METHODS[self.data.method]
        loss = self.loaded.config.loss
        if loss is not None and loss not in method.losses:
            raise UsageError(f"no loss of {self.data.method} is called {loss!r}; {nearest(loss, method.losses)}")
        if not method.soft_loss:
            return self.loaded.setting("loss", method.loss)
        rows = (*self.data.train, *self.data.eval)
        unjudged = sum(row.p_chosen is None for row in rows)
        why = f"{unjudged:,} of {len(rows):,} pairs have no p_chosen" if unjudged else "every pair has p_chosen"
        return self.loaded.setting("loss", method.loss if unjudged else method.soft_loss, "data", why)

    def _reference(self) -> Setting:
        config = self.loaded.config
        # Once costs a pass over the rows, as one epoch does; then every further epoch and evaluation is free, and with
        # all weights training a second model leaves the memory.
        if config.epochs > 1 or config.full or self.data.eval:
            why = "used again in later epochs, evaluations or sessions"
            return self.loaded.setting("reference", "once", "data", why)
        return self.loaded.setting("reference", "each_step", "data", "every row is seen once")

    def arguments(self, plan: Plan) -> Values:
        own: Values = {"max_length": plan.max_length}
        if "reference" in self.settled:
            own["loss_type"] = self.loss
            own["beta"] = self.settled["beta"]
            own["precompute_ref_log_probs"] = self.settled["reference"] == "once"
        return own

    def dataset(self, rows: Sequence[Encoded]) -> Any:
        """The rows as a dataset under `folder`, with columns for the replies and the label, and `row`, their place.

        The same rows are written once; of several processes that call it, all take what the first wrote.
        """
        from datasets import Dataset, load_from_disk

        table = {
            ROW: list(range(len(rows))),
            "prompt_ids": [row.prompt for row in rows],
        }
        for place, column in enumerate(self.columns):
            table[column] = [(row.prompt if self.joined else []) + row.replies[place] for row in rows]
        if self.label is not None:
            table[self.label] = [getattr(row.row, self.label) for row in rows]
        name = hashlib.sha256(orjson.dumps(table)).hexdigest()[:16]
        path = self.folder / f"rows-{name}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
            Dataset.from_dict(table).save_to_disk(part)
            try:
                part.rename(path)
            except OSError:  # another process has written it
                shutil.rmtree(part)
                if not path.exists():
                    raise
        return load_from_disk(path)


def _stacked(collator: Any, examples: list[Values]) -> Values:
    """What TRL's collator, which keeps only its own columns, makes of rows, and ours as tensors, one number a row."""
    import torch

    batch: Values = collator(examples)
    for name in OURS:
        if name in examples[0]:
            batch[name] = torch.tensor([example[name] for example in examples])
    return batch


class Watched(Guarded):
    """Keeps our columns through TRL's trainer, and what each row gave when it is evaluated.

    The loss is a mean over all rows of a step, however many are at once.
    """

    width = 1  # sequences of a row in a batch
    references: tuple[str, ...] = ()  # columns in which a batch has the reference's log-probabilities
    loss_is_scaled_for_ga = True
    data_collator: Any
    precompute_ref_logps = False

    def __init__(self, *, on_eval: OnEval | None = None, on_reference: OnReference | None = None, **parts: Any) -> None:
        self._on_eval = on_eval
        self._on_reference = on_reference
        self._evaluated: list[Values] = []
        self._reference_rows = 0  # for which the reference has given its log-probabilities
        super().__init__(**parts)
        self._on_reference = None  # from here on the reference runs within steps
        self.data_collator = partial(_stacked, self.data_collator)

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        """TRL's, unless the rows are token ids already."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, *rest)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in OURS if name not in self._signature_columns]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL's, some hundred rows at a time: each part is on disk before the next begins, and outlives a stop."""
        from datasets import concatenate_datasets

        if len(dataset) <= PART:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        parts = []
        for start in range(0, len(dataset), PART):
            rows = dataset.select(range(start, min(start + PART, len(dataset))))
            parts.append(super()._precompute_ref_logps(rows, name, batch_size))
        return concatenate_datasets(parts)

    def compute_ref_log_probs(self, model: Any, inputs: Values) -> Any:
        if self._on_reference is not None:
            self._reference_rows += len(inputs["input_ids"]) // self.width
            self._on_reference(self._reference_rows)
        return super().compute_ref_log_probs(model, theirs(inputs))

    def with_reference(self, inputs: Object) -> Values:
        """The batch with the reference's log-probabilities, if there is a reference."""
        batch = dict(inputs)
        if self.references and self.references[0] not in batch:
            reference = self.model if self.ref_model is None else self.ref_model
            values = zip(self.references, self.compute_ref_log_probs(reference, batch), strict=True)
            batch |= {name: value for name, value in values if value is not None}
        return batch

    def counts(self, inputs: Object) -> Mapping[str, Any]:
        ids = inputs["input_ids"]
        return {"": ids.new_tensor(len(ids) // self.width)}

    def _get_num_items_in_batch(self, batches: Sequence[Values], device: Any) -> Any:
        """What the loss of a whole step is a mean over, in each of the processes, whose gradients are averaged."""
        if not batches:
            return None
        amounts = sum(self.amounts(batch).double() for batch in batches)
        return self.accelerator.reduce(amounts.to(device), "mean")

    def compute_loss(
        self, model: Any, inputs: Values, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The share of the batch in the loss of its step; in an evaluation, and alone, its own loss."""
        import torch

        sums, outputs = self.loss_sums(model, inputs, return_outputs)
        amounts = self.amounts(inputs).double()
        if not self.model.training:
            self.sums.append(torch.stack([sums.detach().double(), amounts]))
        elif num_items_in_batch is not None:
            amounts = num_items_in_batch
        loss = (sums / amounts.to(sums.dtype)).sum()
        return (loss, outputs) if return_outputs else loss

    def loss_sums(self, model: Any, inputs: Values, return_outputs: bool) -> tuple[Any, Any]:
        """Each part of the loss of a batch, summed over what it is a mean over; and TRL's outputs, if wanted."""
        import torch

        loss, outputs = self.row_loss(model, self.with_reference(inputs), return_outputs)
        return torch.stack([loss * self.counts(inputs)[""]]), outputs

    def row_loss(self, model: Any, batch: Values, return_outputs: bool) -> tuple[Any, Any]:
        """TRL's loss, a mean over rows, with the reference from the batch; and its outputs if they are wanted."""
        precomputed = self.precompute_ref_logps
        self.precompute_ref_logps = True  # for this call
        try:
            result = super().compute_loss(model, theirs(batch), return_outputs)
        finally:
            self.precompute_ref_logps = precomputed
        return result if return_outputs else (result, None)

    def rows_within(self, inputs: Object) -> tuple[int, ...]:
        return tuple(inputs[ROW].tolist()) if ROW in inputs else ()

    def evaluate(self, *rest: Any, **named: Any) -> Any:
        """TRL's evaluation; then `on_eval` gets what each row gave."""
        self._evaluated.clear()
        metrics = super().evaluate(*rest, **named)
        if self._on_eval is not None and self._evaluated and self.accelerator.is_main_process:
            self._on_eval(self.state.global_step, self._evaluated)
        return metrics

    def remember(self, inputs: Object, values: Object) -> None:
        """Keep one number a row for each name, from all processes, while it is evaluated."""
        import torch

        if self._on_eval is None or ROW not in inputs or self.model.training:
            return
        columns = torch.stack([inputs[ROW].double(), *(value.detach().double() for value in values.values())], dim=1)
        for row, *numbers in self.accelerator.gather_for_metrics(columns).tolist():
            self._evaluated.append({ROW: int(row), **dict(zip(values, numbers, strict=True))})


def theirs(inputs: Object) -> Values:
    """A batch without our columns: what TRL leaves over goes into the model."""
    return {name: value for name, value in inputs.items() if name not in OURS}
