"""DPO, KTO and reward training with TRL's own trainers, and what they lack: a label's probability for every row.

A loss of `losses.SOFT` stands in `loss_type` beside TRL's names, with its weight in `loss_weights`; TRL makes the
forward pass, the stock part of the loss and the metrics, and our part is added. The hooks are private ones of TRL 1.16:
its range is pinned, and tests compare a certain label with the stock loss. Knows trainers and columns; nothing of
files, flags or how a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from cai.errors import UsageError
from cai.texts.wording import nearest
from cai.training.trainers.hooks import Guarded, trl_class
from cai.training.trainers.losses import SOFT, check_smoothing, known, kto_weights, probabilities

Labels = Literal["soft", "margin", "hard"]

P, ROW = "p_chosen", "row"  # ROW, where the data has it: the row's number, which a loss that is no number is told by
OURS = (P, ROW)
PART = 256  # rows: two minutes of 135M parameters on a CPU
LOGPS = ("logp_chosen", "logp_rejected", "ref_logp_chosen", "ref_logp_rejected")  # nats, sums over a reply's tokens

Asked = Callable[[int], None]  # how many rows the reference was asked for, before the first step
Heard = Callable[[int, list[dict[str, Any]]], None]  # the step, and what each row gave when it was evaluated


def dpo_trainer(*, args: Any, train_dataset: Any, **given: Any) -> Any:
    """TRL's DPOTrainer, whose `args.loss_type` may also name `cdpo` and `gap_scaled`; arguments are those of TRL.

    And `heard`, called after each evaluation with the log-probabilities of every row (LOGPS), by its `row`.
    Both read `p_chosen` of every row (`losses.probabilities` fills it). UsageError before anything is loaded for
    settings that TRL would ignore, or that have no meaning with soft labels.
    """
    _check_dpo(args)
    soft = [name for name in args.loss_type if name in SOFT]

    def columns(part: Any) -> Any:
        if not soft:
            return _drop(part, [P])  # it may be null, and nothing reads it
        _need_probabilities(part, f"the loss {soft[0]}")
        return part

    data, held = columns(train_dataset), _each(given.pop("eval_dataset", None), columns)
    return trl_class("DPOTrainer", _SoftDPO)(args=args, train_dataset=data, eval_dataset=held, **given)


def _check_dpo(args: Any) -> None:
    for name in args.loss_type:
        known(name)
    check_smoothing(args.loss_type, args.label_smoothing)
    if args.padding_free:
        raise UsageError("padding_free has no effect on dpo in TRL 1.16, which would warn and pad: leave it out")
    if set(args.loss_type) & set(SOFT):
        others = {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
        for setting, neutral in others.items():
            if getattr(args, setting) != neutral:
                raise UsageError(f"{setting} {getattr(args, setting)!r} cannot be combined with cdpo or gap_scaled")


def reward_trainer(*, args: Any, train_dataset: Any, labels: Labels = "soft", **given: Any) -> Any:
    """TRL's RewardTrainer; its product is a judge, `reward:PATH`.

    labels: what of a row is believed beside which reply was chosen. "soft": cross entropy with `p_chosen` (arXiv
    2212.08073, section 4.1); "margin": the gap must pass `margin` (Touvron et al. 2023, arXiv 2307.09288, Eq. 2);
    "hard": neither. A judge's margin is the log odds of its p_chosen, so both at once would count it twice.
    """
    if labels not in ("soft", "margin", "hard"):
        raise UsageError(f"unknown labels {labels!r}; {nearest(labels, ('soft', 'margin', 'hard'))}")
    data = _reward_columns(train_dataset, labels)
    held = _each(given.pop("eval_dataset", None), lambda part: _reward_columns(part, labels))
    trainer = trl_class("RewardTrainer", _SoftReward)(args=args, train_dataset=data, eval_dataset=held, **given)
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


def _reward_columns(dataset: Any, labels: Labels) -> Any:
    """TRL uses a margin wherever the column is, so what is not asked for is taken out."""
    if labels == "soft":
        _need_probabilities(dataset, "labels soft")
    elif labels == "margin":
        values = dataset["margin"] if "margin" in dataset.column_names else [None]
        for place, value in enumerate(values, start=1):
            if value is None or not abs(value) < float("inf"):
                raise UsageError(f"labels margin needs a number in `margin` of every row; row {place} has {value!r}")
    return _drop(dataset, {"soft": ["margin"], "margin": [P], "hard": ["margin", P]}[labels])


def kto_trainer(*, args: Any, train_dataset: Any, **given: Any) -> Any:
    """TRL's KTOTrainer over rows shuffled once by `args.seed`, with weights from the counts where both are 1.

    TRL takes the rows in their order, and the reply of the row before as the mismatched one of its KL estimate: rows of
    one prompt side by side would estimate it from replies that do match. UsageError for a batch of one.
    """
    if args.loss_type == "kto" and args.per_device_train_batch_size < 2:
        raise UsageError("kto needs a batch size of 2 or more per device: its KL estimate pairs the rows of a batch")
    if args.desirable_weight == args.undesirable_weight == 1:
        true = sum(train_dataset["label"])
        args.desirable_weight, args.undesirable_weight = kto_weights(true, len(train_dataset) - true)
    shuffled = train_dataset.shuffle(seed=args.seed)
    held = _each(given.pop("eval_dataset", None), lambda part: part.shuffle(seed=args.seed))
    return trl_class("KTOTrainer", _Watched)(args=args, train_dataset=shuffled, eval_dataset=held, **given)


def _each(dataset: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of an eval dataset as TRL takes it: None, one, or several by name."""
    if isinstance(dataset, dict):
        return {name: change(part) for name, part in dataset.items()}
    return None if dataset is None else change(dataset)


def _drop(dataset: Any, names: Sequence[str]) -> Any:
    return dataset.remove_columns([name for name in names if name in dataset.column_names])


def _need_probabilities(dataset: Any, who: str) -> None:
    if P not in dataset.column_names:
        raise UsageError(f"{who} reads p_chosen of every row, and the rows have none: label them, or choose another")
    ids = dataset["id"] if "id" in dataset.column_names else [None] * len(dataset)
    probabilities({P: p, "id": name} for p, name in zip(dataset[P], ids, strict=True))


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


class _Watched(Guarded):
    """Keeps our columns through TRL's trainer, and what each row gave when it is evaluated."""

    _width = 1  # sequences of a row in a batch

    def __init__(self, *, heard: Heard | None = None, asked: Asked | None = None, **given: Any) -> None:
        self._heard, self._rows = heard, list[dict[str, Any]]()
        self._asked, self._done = asked, 0
        trl: Any = super()
        trl.__init__(**given)
        self._asked = None  # from here on the reference is asked within steps
        me: Any = self
        me.data_collator = _Stacked(me.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        trl: Any = super()
        trl._set_signature_columns_if_needed()
        me: Any = self
        me._signature_columns += [name for name in OURS if name not in me._signature_columns]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL's, some hundred rows at a time: each part is on the disk when the next begins, whatever comes between."""
        from datasets import concatenate_datasets

        trl: Any = super()
        parts = [range(start, min(start + PART, len(dataset))) for start in range(0, len(dataset), PART)]
        if len(parts) < 2:
            return trl._precompute_ref_logps(dataset, name, batch_size)
        return concatenate_datasets([trl._precompute_ref_logps(dataset.select(p), name, batch_size) for p in parts])

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        trl: Any = super()
        if self._asked is not None:
            self._done += len(inputs["input_ids"]) // self._width
            self._asked(self._done)
        return trl.compute_ref_log_probs(model, _without(inputs, OURS))  # what is left over goes into the model

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        trl: Any = super()
        return trl.compute_loss(model, _without(inputs, OURS), *rest, **named)

    def rows_within(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(inputs[ROW].tolist()) if ROW in inputs else ()

    def evaluate(self, *given: Any, **named: Any) -> Any:
        """TRL's evaluation; then `heard` gets what each row gave."""
        trl: Any = super()
        me: Any = self
        self._rows.clear()
        metrics = trl.evaluate(*given, **named)
        if self._heard is not None and self._rows and me.accelerator.is_main_process:
            self._heard(me.state.global_step, self._rows)
        return metrics

    def _remember(self, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Keep one number a row for each name, from all processes, while it is evaluated."""
        import torch

        me: Any = self
        if self._heard is None or ROW not in inputs or me.model.training:
            return
        columns = torch.stack([inputs[ROW].double(), *(value.detach().double() for value in values.values())], dim=1)
        for row, *numbers in me.accelerator.gather_for_metrics(columns).tolist():
            self._rows.append({ROW: int(row), **dict(zip(values, numbers, strict=True))})


def _without(inputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in names}


class _Overheard:
    """A model that remembers what its first call gave: TRL computes the log-probabilities and keeps them to itself."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.outputs: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        self.outputs = outputs if self.outputs is None else self.outputs
        return outputs


class _SoftDPO(_Watched):
    """The losses of `losses.SOFT`, added to TRL's sum of weighted stock losses."""

    _width = 2

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        me: Any = self
        pairs = list(zip(me.loss_types, me.loss_weights, strict=True))
        self._soft = [(SOFT[name], weight) for name, weight in pairs if name in SOFT]
        me.loss_types = [name for name, _ in pairs if name not in SOFT]
        me.loss_weights = [weight for name, weight in pairs if name not in SOFT]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        me: Any = self
        if not self._soft and me.model.training:
            return super().compute_loss(model, inputs, *rest, **named)
        if self._soft and P not in inputs:
            raise UsageError("soft labels read p_chosen of every row, and this batch has none")
        return self._with_soft(model, inputs, *rest, **named)

    def _with_soft(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """TRL's loss of the same batch plus ours, from one forward pass of each model."""
        me: Any = self
        heard, p, inputs = _Overheard(model), inputs.get(P), dict(inputs)
        precomputed = me.precompute_ref_logps
        if not precomputed:
            reference = me.ref_model if me.ref_model is not None else me.model
            pair = me.compute_ref_log_probs(reference, inputs)
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = pair
        me.precompute_ref_logps = True  # for this call: TRL takes the reference from the batch, where it now is
        try:
            result = super().compute_loss(heard, inputs, *rest, **named)
        finally:
            me.precompute_ref_logps = precomputed
        chosen, rejected = _log_probs(heard.outputs, inputs)
        reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        self._remember(inputs, dict(zip(LOGPS, (chosen, rejected, *reference), strict=True)))
        if not self._soft:
            return result
        gap = me.beta * ((chosen - reference[0]) - (rejected - reference[1]))  # β·D
        ours = sum(weight * loss(gap, p).mean() for loss, weight in self._soft)
        return (result[0] + ours, *result[1:]) if isinstance(result, tuple) else result + ours


def _log_probs(outputs: Any, inputs: Mapping[str, Any]) -> Any:
    """log π of the chosen and of the rejected replies; prompt and padding have log prob 0."""
    places = inputs["input_ids"].size(1) - 1  # a prompt-learning adapter puts positions of its own before these
    return outputs.log_probs[:, -places:].sum(dim=1).chunk(2)


class _SoftReward(_Watched):
    """Bradley–Terry with `p_chosen` where the batch has it: −p·log σ(Δ) − (1−p)·log σ(−Δ) = −log σ(Δ) + (1−p)·Δ."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        self._remember(inputs, {"reward_chosen": chosen, "reward_rejected": rejected})
        if P in inputs:
            loss = loss + ((1 - inputs[P]) * (chosen - rejected)).mean()
        return (loss, outputs) if return_outputs else loss
