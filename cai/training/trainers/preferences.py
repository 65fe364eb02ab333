"""Rows of the methods `dpo`, `kto` and `reward` for TRL, and what their losses are told.

TRL tokenises these rows itself, from the disk, where it also keeps the reference's log-probabilities. Knows losses and
TRL's trainers; nothing of the order of things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from cai.errors import UsageError
from cai.texts.wording import nearest
from cai.training.data.dataset import TrainingData
from cai.training.data.files import Drop
from cai.training.data.masks import Masker, Unfit
from cai.training.data.rows import TrainingRow, named
from cai.training.setup.config import Loaded
from cai.training.setup.plan import Plan, Setting
from cai.training.trainers.arguments import trl_config
from cai.training.trainers.losses import ANCHORED, NLL_WEIGHT, SMOOTHED, SOFT, flip_rate, known, with_nll
from cai.training.trainers.preference_rows import Length, measured, on_disk, record_of
from cai.training.trainers.soft_labels import Asked, Heard, Labels, dpo_trainer, kto_trainer, reward_trainer

CHOICES = {"kto": ("kto", "apo_zero_unpaired"), "reward": ("soft", "margin", "hard")}
BETA = 0.1  # Rafailov et al. 2023 (arXiv 2305.18290), appendix B; TRL's default for kto, too


class Preferences:
    """The rows of one method, measured; `drops` are those that no length could save.

    rows: the folder where they lie for TRL. Raises UsageError for a loss that the method or its rows do not have.
    """

    before = False  # a reference knows no gap, and a new head nothing

    def __init__(self, data: TrainingData, loaded: Loaded, tokenizer: Any, ends: Iterable[int], rows: Path) -> None:
        assert data.method != "sft"
        self.data, self.loaded, self.drops = data, loaded, list[Drop]()
        self.method: Literal["dpo", "kto", "reward"] = data.method
        self._tokenizer, self._masker, self._rows = tokenizer, Masker(tokenizer, ends), rows
        self.loss, told = self._choose()
        self.settings = (told, *self._of_loss())
        self._whole, self._held = self._measure(data.train, 0), self._measure(data.eval, -1)
        self.train: list[TrainingRow] = []
        self.eval: list[TrainingRow] = []

    # Rows

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row that trains, with its longest reply."""
        return [length.whole for _, length in self._whole]

    @property
    def held(self) -> int:
        """How many rows there are to evaluate."""
        return len(self._held)

    def _measure(self, rows: Sequence[TrainingRow], file: int) -> list[tuple[TrainingRow, Length]]:
        """The rows in tokens; those that the chat template cannot show are dropped, as `sft` drops them."""
        chosen = self._masker.encode((row.id, row.prompt, row.reply) for row in rows)
        other = self._masker.encode((row.id, row.prompt, row.rejected or row.reply) for row in rows)
        found = []
        for row, *shown in zip(rows, chosen, other, strict=True):
            unfit = next((each for each in shown if isinstance(each, Unfit)), None)
            if unfit is None:
                found.append((row, measured(record_of(row), self._tokenizer, self.method)))
            else:
                self.drops.append(Drop(self.data.files[file][0], 0, "bad_input", f"{named(row.id)}: {unfit.why}"))
        return found

    def cut(self, plan: Plan) -> list[Drop]:
        """Put the rows that TRL would take at the plan's length into `train` and `eval`; the others are dropped."""
        drops: list[Drop] = []
        self.train = list(self._cut(self._whole, plan.max_length, 0, drops))
        self.eval = list(self._cut(self._held, plan.max_length, -1, drops))
        return drops

    def _cut(
        self, rows: Iterable[tuple[TrainingRow, Length]], limit: int, file: int, drops: list[Drop]
    ) -> Iterable[TrainingRow]:
        for row, length in rows:
            if length.dropped(limit, self.method):
                told = f"{length.whole:,} tokens exceed {limit:,}, and a cut reply has no reward"
                if self.method != "reward":
                    told = f"its prompt of {length.prompt:,} tokens leaves no room in {limit:,}"
                drops.append(Drop(self.data.files[file][0], 0, "too_long", f"{named(row.id)}: {told}"))
            else:
                yield row

    def name(self, place: int) -> str:
        """The id of a row that trains."""
        return self.train[place].id

    # The loss

    def _choose(self) -> tuple[str, Setting]:
        given = self.loaded.config.loss
        rows = (*self.data.train, *self.data.eval)
        judged = sum(row.p_chosen is not None for row in rows)
        if given is not None:
            self._check(given)
            return given, Setting("loss", given, self.loaded.origin("loss"))
        if self.method == "kto":
            return "kto", Setting("loss", "kto", "default")
        soft, hard = ("cdpo", "sigmoid") if self.method == "dpo" else ("soft", "hard")
        if judged == len(rows):
            return soft, Setting("loss", soft, "data", "every pair has p_chosen")
        why = f"{len(rows) - judged:,} of {len(rows):,} pairs have no p_chosen"
        return hard, Setting("loss", hard, "data", why)

    def _check(self, name: str) -> None:
        if self.method == "dpo":
            return known(name)
        choices = CHOICES[self.method]
        if name not in choices:
            raise UsageError(f"no loss of {self.method} is called {name!r}; {nearest(name, choices)}")

    def _of_loss(self) -> Iterable[Setting]:
        config, origin = self.loaded.config, self.loaded.origin
        if self.method == "reward":
            return
        beta = BETA if config.beta is None else config.beta
        yield Setting("beta", beta, origin("beta"))
        if self.method == "dpo":
            weight = config.nll if config.nll is not None else 0.0 if self.loss in ANCHORED else NLL_WEIGHT
            why = "" if config.nll is not None else f"of {self.loss}, which sees the difference of two replies alone"
            yield Setting("nll", weight, origin("nll"), why if weight else "")
            if self.loss in SMOOTHED:
                yield self._smoothing()
        if config.reference is not None:
            yield Setting("reference", config.reference, origin("reference"))
            return
        # Once costs a pass over the rows, as one epoch does; then every further epoch and evaluation is free, and with
        # all weights training a second model leaves the memory.
        once = config.epochs > 1 or config.full or bool(self.data.eval)
        why = "asked again in later epochs, evaluations or sessions" if once else "every row is seen once"
        yield Setting("reference", "once" if once else "each_step", "data", why)

    def _smoothing(self) -> Setting:
        given = self.loaded.config.trl.get("label_smoothing")
        if given is not None:
            return Setting("label_smoothing", given, self.loaded.origin("trl.label_smoothing"))
        labels = [row.p_chosen for row in self.data.train if row.p_chosen is not None]
        if len(labels) == len(self.data.train):
            rate = round(flip_rate(labels), 4)
            return Setting(
                "label_smoothing", rate, "data", "labels that are expected to be wrong: the mean of 1 − p_chosen"
            )
        if self.loss == "robust":
            raise UsageError(
                "robust needs the share of wrong labels, and not all pairs have p_chosen: set trl.label_smoothing"
            )
        return Setting("label_smoothing", 0.0, "default")

    def _settled(self, name: str) -> Any:
        return next(setting.value for setting in self.settings if setting.name == name)

    # The trainer

    def model(self, open_model: Any) -> Any:
        """The model that trains, from the opener of language models; a reward model gets a new head for its number."""
        if self.method != "reward":
            return open_model()
        from transformers import AutoModelForSequenceClassification

        return open_model(AutoModelForSequenceClassification, num_labels=1)

    def lora(self) -> dict[str, Any]:
        """What an adapter's config says of the model."""
        return {"task_type": "SEQ_CLS" if self.method == "reward" else "CAUSAL_LM"}  # peft trains a head whole

    def trainer(self, plan: Plan, told: Mapping[str, Any], heard: Heard, asked: Asked, **given: Any) -> Any:
        """TRL's trainer over the rows; told: arguments that all methods share; heard: gets what eval rows gave."""
        given |= {
            "asked": asked,
            "train_dataset": on_disk(self.train, self._rows, certain=self.loss not in (*SOFT, "soft")),
            "eval_dataset": on_disk(self.eval, self._rows) if self.eval else None,
        }
        made = trl_config(self.method)
        args: dict[str, Any] = {"max_length": plan.max_length}
        if self.method == "reward":
            return reward_trainer(args=made(**args | dict(told)), labels=cast(Labels, self.loss), heard=heard, **given)
        args |= {"beta": self._settled("beta"), "precompute_ref_log_probs": self._settled("reference") == "once"}
        if self.method == "kto":
            return kto_trainer(args=made(loss_type=self.loss, **args | dict(told)), **given)
        args["loss_type"], args["loss_weights"] = with_nll(self.loss, self._settled("nll"))
        if self.loss in SMOOTHED:
            args["label_smoothing"] = self._settled("label_smoothing")
        return dpo_trainer(args=made(**args | dict(told)), heard=heard, **given)
