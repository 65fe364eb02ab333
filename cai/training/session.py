"""Runs one session of a training, from start to end: settles what is unset, trains, evaluates, writes the results."""

from __future__ import annotations

import gc
import pkgutil
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.disk.writing import unwritable, unwritten
from cai.errors import InputError, LossNotFinite, RunError, UsageError
from cai.packages import package_version
from cai.records import Values
from cai.texts.wording import reason_of
from cai.training.data.dataset import TrainingData
from cai.training.data.rows import drops_in_words, reasons_of
from cai.training.data.tokens import Rows, with_system_text, without_forged_turns
from cai.training.faults import fewer_rows, with_rows
from cai.training.report.card import write_evidence
from cai.training.report.samples import MOST_TOKENS, REFERENCE, When, can_go_back, write_answers
from cai.training.report.summary import TrainSummary, last_metrics, pair_accuracy
from cai.training.setup import embeddings, opening
from cai.training.setup.checkpoint import save_weights, train_from
from cai.training.setup.config import Loaded, Setting
from cai.training.setup.folder import DROPPED, EVALS, TrainFolder
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Plan
from cai.training.trainers.loop import Progress, Recorder, arguments, check_trl, trainer_of, with_hooks
from cai.training.trainers.online.rating import Rater
from cai.training.trainers.online.served import RolloutServer
from cai.training.trainers.online.values import VALUE
from cai.weights.bases import Base
from cai.weights.vendors import silence_libraries

ROWS = ".rows"  # folder in which TRL finds preference rows during the training
SETTLED = (
    "max_length", "dtype", "attention", "packing", "gradient_checkpointing", "rows_at_once", "save_every", "eval_every",
)  # fmt: skip
PACKAGES = ("cai-toolkit", "trl", "transformers", "torch", "peft", "accelerate", "datasets")


@dataclass
class Session:
    """One session of a training; `run` does it."""

    data: TrainingData
    base: Base
    loaded: Loaded
    folder: TrainFolder
    provenance: Values | None
    processes: Any  # accelerate's state of them
    tell: Callable[[str], None]
    progress: Progress | None
    rater: Rater | None = None  # of an online training
    server: RolloutServer | None = None  # that writes its replies; None: the model in this process does

    def __post_init__(self) -> None:
        self.method = METHODS[self.data.method]
        self.stopper = opening.Stopper(self.tell, self.processes)
        self.read_drops = len(self.data.dropped)  # those that were dropped when they were read
        self.began: float = time.monotonic() - self.folder.record["seconds"]  # as if the sessions before had just ended

    def run(self) -> TrainSummary:
        from accelerate.utils import broadcast_object_list

        for line in self.data.lines():
            self.tell(line)
        self.rows = self._encoded()
        self.shape = opening.shape_of(self.base)
        machine = opening.this_machine(self.processes.num_processes)
        while True:
            plan = Plan(self.data.method, self.loaded, self.rows.lengths, self.shape, machine)
            self.drops = [*self.data.dropped, *self.rows.drops, *self.rows.cut(plan.max_length)]
            if not self.rows.train:
                last = self.drops[-1]
                raise UsageError(f"max_length {plan.max_length:,} leaves no row to train: {last.reason}, {last.detail}")
            kept = len(self.rows.train), len(self.rows.eval)
            if sum(kept) + len(self.drops) != self.data.read:  # no row is lost without a word
                raise RunError(f"{kept} rows and {len(self.drops)} drops are not the {self.data.read} that were read")
            plan.schedule(self.rows.sequences(plan), kept[1], self.rows.settled.get("iterations", 1))
            [plan] = broadcast_object_list([plan])  # free memory is not the same for all processes
            self._describe(plan)
            fewer = self._fit(plan)
            if fewer is None:
                return self._summary()
            if self.processes.num_processes > 1:  # the others wait within a step for the one that failed
                self.folder.write(settled=self.folder.record["settled"] | {"rows_at_once": fewer})
                raise RunError(
                    "out of memory in one of several processes: run the same command again to resume with fewer rows "
                    "at once"
                )
            self.loaded = self.loaded.with_values("hardware", {"rows_at_once": fewer})
            gc.collect()  # the trainer that failed, and with it the memory of the device

    def _encoded(self) -> Rows:
        """The rows in tokens; InputError if none is left."""
        chats = any(not row.is_plain for row in (*self.data.train, *self.data.eval))
        self.tokenizer = opening.open_tokenizer(self.base, self.loaded.config.chat_template, chats=chats)
        notes = self.data.notes
        self.data = with_system_text(without_forged_turns(self.data, self.tokenizer), self.tokenizer)
        for note in self.data.notes:
            if note not in notes:
                self.tell(f"note: {note}")
        self.notes = list(self.data.notes)
        self._check_sft()
        ends = opening.ends_of(self.base, self.tokenizer)
        kind = pkgutil.resolve_name(f"cai.training.trainers.{self.method.trainer}")
        rows: Rows = kind(self.data, self.loaded, self.tokenizer, ends, self.folder.path / ROWS)
        if not rows.lengths:
            last = (*self.data.dropped, *rows.drops)[-1]
            raise InputError(f"no row is left to train: {last.detail}", self.data.files[0][0])
        return rows

    def _check_sft(self) -> None:
        """Note a base model that is trained by a method for models that reply already."""
        if not self.method.after_sft:
            return
        why = opening.lacks_sft(self.base, self.tokenizer, self.loaded.config.chat_template)
        if why is not None:
            self.notes.append(
                f"{self.base.spec} looks like a base model without SFT ({why}): {self.data.method} makes replies "
                "likelier that a model writes already; teach it to reply with cai train sft first, and train the result"
            )
            self.tell(f"note: {self.notes[-1]}")

    def _describe(self, plan: Plan) -> None:
        """Print and record what will be done."""
        settings = [*plan.settings, *self.rows.settings]
        if self.base.adapter is not None:
            settings[0] = Setting("trains", f"the adapter {self.base.spec} further", "flag")
        for line in (*settings, plan.truncation, *drops_in_words(self.drops[self.read_drops :])):
            self.tell(str(line))
        self.folder.replace(DROPPED, self.drops)
        settled = {setting.name: setting.value for setting in settings if setting.name in SETTLED}
        earlier = {each["name"]: each for each in self.folder.record.get("plan", ())}
        self.folder.write(
            settled=settled | {"devices": self.processes.num_processes},
            plan=[setting.facts(earlier) for setting in settings],
            truncation=plan.truncation,
            model=self.base.facts(),
            data=self.data.facts(len(self.rows.train), len(self.rows.eval), self.drops),
            run=self.provenance,
            versions={name: package_version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        )

    def _fit(self, plan: Plan) -> int | None:
        """Train to the end; if memory runs out, return the number of rows at once to continue with."""
        trainer = None
        checkpoint = self.folder.last_checkpoint()
        damaged = self.folder.rewind(int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)
        if damaged:
            self.tell(f"{damaged:,} damaged lines of metrics.jsonl or eval.jsonl are left out")
        if checkpoint is not None:
            self.tell(f"resuming from {checkpoint}")
        try:
            with silence_libraries(), self.stopper.listening():
                trainer = self._trainer(plan, evaluates_first=self._evaluates_first(plan, checkpoint))
                if checkpoint is None and not can_go_back(trainer.model, is_new=self.base.adapter is None):
                    self._sample(trainer, plan, "before")
                train_from(checkpoint, trainer)
                if self.stopper.agreed():
                    self.folder.write(seconds=self._seconds())
                    self.tell(f"stopped; run the same command again to resume from {self.folder.last_checkpoint()}")
                    raise KeyboardInterrupt
                if self.recorder.ended_by is not None:
                    self.notes.append(f"stopped at step {trainer.state.global_step}: {self.recorder.ended_by}")
                self._finish(trainer)
        except LossNotFinite as error:
            self.folder.write(seconds=self._seconds())
            raise with_rows(error, self.rows.train, self.folder) from error
        except Exception as error:
            kept = getattr(trainer, "kept", None)
            if kept is not None:  # a reward failed
                self.folder.write(seconds=self._seconds())
                self.tell(f"stopped; run the same command again to resume from {kept}")
                raise
            why = unwritten(error)
            if why is None:
                return fewer_rows(error, plan, self.method.fewest, self.tell)
            raise unwritable(self.folder.path, why) from error
        with silence_libraries():
            self._sample(trainer, plan, "after")
        return None

    def _evaluates_first(self, plan: Plan, checkpoint: Path | None) -> bool:
        """Whether held-out rows are evaluated before the first step of this session.

        That is so after an evaluation that a reward ended, whose step is saved.
        """
        if not self.rows.eval or not self.rows.before:
            return False
        step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        return step % plan.eval_every == 0 and not self._is_evaluated(step)

    def _is_evaluated(self, step: int) -> bool:
        return any("eval_loss" in line and line["step"] == step for line in self.folder.metrics())

    def _finish(self, trainer: Any) -> None:
        """Evaluate after the last step, check the weights, and save them."""
        if self.rows.eval and not self._is_evaluated(trainer.state.global_step):
            trainer.evaluate()
        save_weights(trainer, self.folder.path, self.processes)
        if self.processes.is_main_process:
            for name in (REFERENCE, VALUE):
                shutil.rmtree(self.folder.path / name, ignore_errors=True)

    def _sample(self, trainer: Any, plan: Plan, when: When) -> None:
        """Let the model answer held-out prompts; of several processes, only the first one does."""
        most = self.loaded.config.samples
        if self.method.scores or not most or not self.rows.eval:
            return
        if trainer.is_fsdp_enabled:  # no process has the whole model
            self.notes.append("no samples: each process has a part of the weights; ask the model with cai chat")
            return
        if self.processes.is_main_process:
            self.tell(f"asking the model {when} the training")
            model = trainer.accelerator.unwrap_model(trainer.model)
            room = min(plan.max_length, self.shape.context - MOST_TOKENS)
            self.notes += write_answers(
                self.folder, model, self.tokenizer, self.data.eval, when, room=room, most=most, progress=self.progress
            )
        self.processes.wait_for_everyone()

    def _trainer(self, plan: Plan, *, evaluates_first: bool) -> Any:
        from transformers import PrinterCallback, set_seed

        config, rows, scores = self.loaded.config, self.rows, self.method.scores
        settings = arguments(plan, config, self.folder.path, evaluates=bool(rows.eval))
        settings |= rows.arguments(plan) | check_trl(self.data.method, self.loaded)
        settings["eval_on_start"] = evaluates_first
        set_seed(config.seed)  # the same new weights in each session: the reference is found by their hash
        # Weights that train stay float32, or small steps would be lost in rounding; frozen ones can be narrow.
        dtype = "float32" if config.full else plan.dtype
        parts = self.folder, self.stopper, self.tell, self.progress
        stops = bool(config.stop_on_goodhart)
        recorder = self.recorder = with_hooks("transformers:TrainerCallback", Recorder)(*parts, stops=stops)
        model = opening.open_model(self.base, dtype, plan.attention, scores=scores, quantize=config.quantize)
        adapter = embeddings.new_adapter(config, self.base, model, self.tokenizer, self.tell, scores=scores)
        hooks: Values = {"on_eval": self._on_eval, "on_reference": self._on_reference}
        if self.rater is not None:
            hooks = {"rater": self.rater, "settled": rows.settled, "server": self.server}
        try:
            trainer = trainer_of(
                rows, settings, model=model, processing_class=self.tokenizer, peft_config=adapter, callbacks=[recorder],
                **hooks,
            )  # fmt: skip
        except (ValueError, TypeError) as error:  # from TRL or peft: the model lacks a layer, for example
            raise UsageError(f"the training cannot be set up: {reason_of(error)}") from error
        for dataset, expected in ((trainer.train_dataset, rows.train), (trainer.eval_dataset, rows.eval)):
            if dataset is not None and plan.packing != "packed" and len(dataset) != len(expected):
                raise RunError(f"TRL takes {len(dataset):,} of {len(expected):,} rows: raise max_length a little")
        trainer.remove_callback(PrinterCallback)  # it writes to stdout, where only a summary belongs
        return trainer

    def _on_reference(self, rows: int) -> None:
        """Report how many rows of this process the reference has been asked for."""
        if self.stopper.agreed():
            self.tell("stopped; run the same command again to resume: the reference is asked for what is missing")
            raise KeyboardInterrupt
        if self.progress is not None and self.processes.is_main_process:
            total = -(-(len(self.rows.train) + len(self.rows.eval)) // self.processes.num_processes)
            self.progress({"reference_rows": min(rows, total), "of": total})

    def _on_eval(self, step: int, rows: list[Values]) -> None:
        """Write what an evaluation measured on each row."""
        for row in sorted(rows, key=lambda row: row["row"]):
            name = self.rows.eval[row.pop("row")].row.id
            self.folder.add({"step": step, "id": name, **row}, EVALS)

    def _seconds(self) -> float:
        """The time of all sessions together."""
        return round(time.monotonic() - self.began, 3)

    def _summary(self) -> TrainSummary:
        lines = self.folder.metrics()
        summary = TrainSummary(
            folder=self.folder.path,
            method=self.data.method,
            rows=len(self.rows.train),
            eval_rows=len(self.rows.eval),
            dropped=reasons_of(self.drops),
            steps=max((line["step"] for line in lines), default=0),
            seconds=self._seconds(),
            pairs=pair_accuracy(self.folder.metrics(EVALS)),
            metrics=last_metrics(lines),
            notes=tuple(dict.fromkeys(self.notes)),
        )
        self.folder.write(seconds=summary.seconds, summary=summary.model_dump(mode="json"))
        if self.processes.is_main_process:
            write_evidence(self.folder, self.tell)
            self.folder.write(finished=True)
            shutil.rmtree(self.folder.path / ROWS, ignore_errors=True)
        return summary
