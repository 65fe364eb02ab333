"""What the trainers of preferences share: rows on disk for TRL, a column of ours in every batch, evaluations by row.

On disk, TRL finds what it computed from the rows again: its reference log-probabilities belong to a file, and rows in
memory have none. With the rows in one folder, the same command computes them once, and several processes share them.
TRL is given token ids, as it would make them itself.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson

from cai.errors import InputError, UsageError
from cai.training.data.tokens import Encoded, Rows
from cai.training.setup.methods import METHODS, unknown_loss
from cai.training.setup.plan import Setting
from cai.training.trainers.loop import Guarded

P, ROW = "p_chosen", "row"  # ROW: the row's number, by which a loss that is no number is reported
OURS = (P, ROW)
PART = 256  # rows: two minutes of 135M parameters on a CPU
BETA = 0.1  # Rafailov et al. 2023 (arXiv 2305.18290), appendix B; TRL's default for kto, too

OnReference = Callable[[int], None]  # how many rows the reference was asked for, before the first step
OnEval = Callable[[int, list[dict[str, Any]]], None]  # the step, and what each row gave when it was evaluated


class Preferences(Rows):
    """Rows of preferences: of pairs, or of single replies."""

    columns: ClassVar[tuple[str, ...]] = ("chosen_ids", "rejected_ids")  # of TRL, one for each reply
    soft: ClassVar[tuple[str, ...]] = ()  # losses that read p_chosen
    joined: ClassVar[bool] = False  # whether TRL takes each reply with the prompt before it

    def settle(self) -> Iterator[Setting]:
        self.loss, setting = self._choose()
        yield setting

    def _choose(self) -> tuple[str, Setting]:
        name, method = self.data.method, METHODS[self.data.method]
        wanted = self.loaded.config.loss
        if wanted is not None:
            if wanted not in method.losses:
                raise unknown_loss(name, wanted)
            return wanted, Setting("loss", wanted, self.loaded.origin("loss"))
        if not method.soft_loss:
            return method.loss, Setting("loss", method.loss, "default")
        rows = (*self.data.train, *self.data.eval)
        unjudged = sum(row.p_chosen is None for row in rows)
        if not unjudged:
            return method.soft_loss, Setting("loss", method.soft_loss, "data", "every pair has p_chosen")
        why = f"{unjudged:,} of {len(rows):,} pairs have no p_chosen"
        return method.loss, Setting("loss", method.loss, "data", why)

    def beta(self) -> Setting:
        """How near the reference the model stays."""
        beta = self.loaded.config.beta
        return Setting("beta", BETA if beta is None else beta, self.loaded.origin("beta"))

    def reference(self) -> Setting:
        """When the reference's log-probabilities are computed."""
        config = self.loaded.config
        if config.reference is not None:
            return Setting("reference", config.reference, self.loaded.origin("reference"))
        # Once costs a pass over the rows, as one epoch does; then every further epoch and evaluation is free, and with
        # all weights training a second model leaves the memory.
        if config.epochs > 1 or config.full or self.data.eval:
            return Setting("reference", "once", "data", "asked again in later epochs, evaluations or sessions")
        return Setting("reference", "each_step", "data", "every row is seen once")

    def settled(self, name: str) -> Any:
        """The value of a setting."""
        return next(setting.value for setting in self.settings if setting.name == name)

    def datasets(self) -> dict[str, Any]:
        """The rows that train and those to evaluate, for TRL."""
        certain = self.loss not in self.soft
        held = on_disk(self.eval, self.folder, self.columns, joined=self.joined) if self.eval else None
        train = on_disk(self.train, self.folder, self.columns, joined=self.joined, certain=certain)
        return {"train_dataset": train, "eval_dataset": held}


def on_disk(
    rows: Sequence[Encoded], folder: Path, columns: Sequence[str], *, joined: bool = False, certain: bool = False
) -> Any:
    """The rows as a dataset under `folder`, with a column for each reply, and with `row`, their place from 0.

    joined: the columns hold the prompt with the reply. certain: a pair that nobody judged counts as certain, p_chosen
    1; else its p_chosen stays null, which a loss of soft labels refuses. The same rows are written once; of several
    processes that call it, all take what the first wrote.
    """
    from datasets import Dataset, load_from_disk

    table = {
        "id": [row.row.id for row in rows],
        ROW: list(range(len(rows))),
        "prompt_ids": [row.prompt for row in rows],
    }
    for place, column in enumerate(columns):
        replies = [row.replies[place] for row in rows]
        table[column] = [row.prompt + reply for row, reply in zip(rows, replies, strict=True)] if joined else replies
    if len(columns) > 1:
        table[P] = [1.0 if certain and row.row.p_chosen is None else row.row.p_chosen for row in rows]
        table["margin"] = [row.row.margin for row in rows]
    else:
        table["label"] = [row.row.label for row in rows]
    name = hashlib.sha256(orjson.dumps(table)).hexdigest()[:16]
    path = folder / f"rows-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
        Dataset.from_dict(table).save_to_disk(part)
        _take_name(part, path)
    return load_from_disk(path)


def _take_name(part: Path, path: Path) -> None:
    """Rename a folder, unless another process was the first to do so."""
    try:
        part.rename(path)
    except OSError:
        shutil.rmtree(part)
        if not path.exists():
            raise


def without(dataset: Any, names: Sequence[str]) -> Any:
    """The dataset without these columns, if it has them."""
    return dataset.remove_columns([name for name in names if name in dataset.column_names])


def need_probabilities(dataset: Any, who: str) -> None:
    """UsageError or InputError unless every row has a probability in `p_chosen`; who: reads it."""
    if P not in dataset.column_names:
        raise UsageError(f"{who} reads p_chosen of every row, and the rows have none: label them, or choose another")
    for number, row in enumerate(dataset.select_columns([name for name in (P, "id") if name in dataset.column_names])):
        name = f"row {number + 1} ({row['id']})" if row.get("id") else f"row {number + 1}"
        if row[P] is None:
            raise InputError(f"{name} has no label probability in p_chosen: label the rows, or choose hard labels")
        if not 0 <= row[P] <= 1:  # NaN compares false
            raise InputError(f"{name}: p_chosen is {row[P]!r}, and a probability is a number from 0 to 1")


class _Stacked:
    """TRL's collator, which knows its own columns only, and ours beside them as tensors, one number a row."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch: dict[str, Any] = self.collator(examples)
        for name in OURS:
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples])
        return batch


class Watched(Guarded):
    """Keeps our columns through TRL's trainer, and what each row gave when it is evaluated."""

    width = 1  # sequences of a row in a batch

    def __init__(self, *, on_eval: OnEval | None = None, on_reference: OnReference | None = None, **parts: Any) -> None:
        self._on_eval = on_eval
        self._on_reference = on_reference
        self._evaluated: list[dict[str, Any]] = []
        self._asked = 0  # rows of which the reference gave its log-probabilities
        trl: Any = super()
        trl.__init__(**parts)
        self._on_reference = None  # from here on the reference is asked within steps
        me: Any = self
        me.data_collator = _Stacked(me.data_collator)

    def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
        """TRL's, unless the rows are token ids already."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        trl: Any = super()
        return trl._prepare_dataset(dataset, *rest)

    def _set_signature_columns_if_needed(self) -> None:
        trl: Any = super()
        trl._set_signature_columns_if_needed()
        me: Any = self
        me._signature_columns += [name for name in OURS if name not in me._signature_columns]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL's, some hundred rows at a time: each part is on the disk when the next begins, whatever comes between."""
        from datasets import concatenate_datasets

        trl: Any = super()
        if len(dataset) <= PART:
            return trl._precompute_ref_logps(dataset, name, batch_size)
        parts = []
        for start in range(0, len(dataset), PART):
            rows = dataset.select(range(start, min(start + PART, len(dataset))))
            parts.append(trl._precompute_ref_logps(rows, name, batch_size))
        return concatenate_datasets(parts)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        trl: Any = super()
        if self._on_reference is not None:
            self._asked += len(inputs["input_ids"]) // self.width
            self._on_reference(self._asked)
        return trl.compute_ref_log_probs(model, _theirs(inputs))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        trl: Any = super()
        return trl.compute_loss(model, _theirs(inputs), *rest, **named)

    def rows_within(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(inputs[ROW].tolist()) if ROW in inputs else ()

    def evaluate(self, *rest: Any, **named: Any) -> Any:
        """TRL's evaluation; then `on_eval` gets what each row gave."""
        trl: Any = super()
        me: Any = self
        self._evaluated.clear()
        metrics = trl.evaluate(*rest, **named)
        if self._on_eval is not None and self._evaluated and me.accelerator.is_main_process:
            self._on_eval(me.state.global_step, self._evaluated)
        return metrics

    def remember(self, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Keep one number a row for each name, from all processes, while it is evaluated."""
        import torch

        me: Any = self
        if self._on_eval is None or ROW not in inputs or me.model.training:
            return
        columns = torch.stack([inputs[ROW].double(), *(value.detach().double() for value in values.values())], dim=1)
        for row, *numbers in me.accelerator.gather_for_metrics(columns).tolist():
            self._evaluated.append({ROW: int(row), **dict(zip(values, numbers, strict=True))})


def _theirs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without our columns: what TRL leaves over goes into the model."""
    return {name: value for name, value in inputs.items() if name not in OURS}
