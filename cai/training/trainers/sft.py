"""Rows of the method `sft` for TRL: token ids, with the loss on the last reply alone.

TRL's own preparation is skipped, since it masks replies for the chat templates that it knows only. Knows masks and
TRL's SFTTrainer; nothing of folders or of the order of things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cai.training.data.dataset import TrainingData
from cai.training.data.files import Drop
from cai.training.data.masks import Encoded, Masker, Unfit
from cai.training.data.rows import TrainingRow, named
from cai.training.setup.config import Loaded
from cai.training.setup.plan import Plan, Setting
from cai.training.trainers.arguments import trl_config
from cai.training.trainers.hooks import Guarded, trl_class
from cai.training.trainers.recorder import rows_of


class Replies:
    """The rows, encoded; `drops` are those that no length could save."""

    settings: tuple[Setting, ...] = ()
    before = True  # whether the loss before the first step tells something

    def __init__(self, data: TrainingData, loaded: Loaded, tokenizer: Any, ends: Iterable[int]) -> None:
        self.data, self.drops = data, list[Drop]()
        masker = Masker(tokenizer, ends)
        self._whole, self._held = self._encode(masker, data.train, 0), self._encode(masker, data.eval, -1)
        self.train: list[Encoded] = []
        self.eval: list[Encoded] = []

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that trains."""
        return [len(row.ids) for row in self._whole]

    @property
    def held(self) -> int:
        """How many rows there are to evaluate."""
        return len(self._held)

    def _encode(self, masker: Masker, rows: Sequence[TrainingRow], file: int) -> list[Encoded]:
        found = []
        for row in masker.encode((row.id, row.prompt, row.reply) for row in rows):
            if isinstance(row, Unfit):
                self.drops.append(Drop(self.data.files[file][0], 0, "bad_input", f"{named(row.id)}: {row.why}"))
            else:
                found.append(row)
        return found

    def cut(self, plan: Plan) -> list[Drop]:
        """Put the rows within the plan's length into `train` and `eval`; those whose prompt fills it are dropped."""
        drops: list[Drop] = []
        self.train = list(self._cut(self._whole, plan.max_length, 0, drops))
        self.eval = list(self._cut(self._held, plan.max_length, -1, drops))
        return drops

    def _cut(self, rows: Sequence[Encoded], limit: int, file: int, drops: list[Drop]) -> Iterable[Encoded]:
        for row in rows:
            cut = row.cut(limit)
            if cut is None:
                told = f"{named(row.id)}: its prompt of {row.start:,} tokens leaves no room in {limit:,}"
                drops.append(Drop(self.data.files[file][0], 0, "too_long", told))
            else:
                yield cut

    def name(self, place: int) -> str:
        """The id of a row that trains."""
        return self.train[place].id

    def model(self, open_model: Any) -> Any:
        """The model that trains, from the opener of language models."""
        return open_model()

    def lora(self) -> dict[str, Any]:
        """What an adapter's config says of the model."""
        return {"task_type": "CAUSAL_LM"}

    def trainer(self, plan: Plan, told: Mapping[str, Any], heard: Any, asked: Any, **given: Any) -> Any:
        """TRL's trainer over the rows; told: arguments that all methods share."""
        from datasets import Dataset

        def table(rows: Sequence[Encoded]) -> Any:
            return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})

        packed = plan.packing == "packed"
        own = {
            "packing": packed,
            "padding_free": plan.packing == "padding_free",
            "eval_packing": False if packed else None,
            "max_length": plan.max_length if packed else None,
            "dataset_kwargs": {"skip_prepare_dataset": not packed},
        }
        trainer = trl_class("SFTTrainer", _OnReplies)(
            args=trl_config("sft")(**own | dict(told)),
            train_dataset=table(self.train),
            eval_dataset=table(self.eval) if self.eval else None,
            **given,
        )
        trainer.places = {tuple(row.ids): place for place, row in enumerate(self.train)}
        return trainer


class _OnReplies(Guarded):
    """TRL's SFTTrainer, which knows its rows by their tokens, and gives each token the same weight in an evaluation."""

    places: Mapping[tuple[int, ...], int]

    def rows_within(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self.places[ids] for ids in rows_of(inputs) if ids in self.places)

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        import torch

        trl: Any = super()
        tokens = (inputs["labels"][..., 1:] != -100).sum()
        result = trl.compute_loss(model, inputs, *rest, **more)
        if not model.training:
            loss = result[0] if isinstance(result, tuple) else result
            self.sums.append(torch.stack([loss.detach().double() * tokens, tokens.double()]))
        return result

    def evaluation_loop(self, *given: Any, **more: Any) -> Any:
        """TRL's, with the loss of all tokens alike: its own is a mean of batches, whatever they hold."""
        import torch

        trl: Any = super()
        me: Any = self
        self.sums = list[Any]()
        output = trl.evaluation_loop(*given, **more)
        whole = me.accelerator.reduce(torch.stack(self.sums).sum(dim=0))
        prefix = more.get("metric_key_prefix", "eval")
        output.metrics[f"{prefix}_loss"] = float(whole[0] / whole[1])
        return output
