"""One session of a training: settles what is open, trains, evaluates, and leaves what was measured in the folder.

Knows the order of things; rows, losses, plans, models and folders have modules of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from cai.errors import InputError, LossNotFinite, MissingExtra, RunError, UsageError
from cai.folder.files import package_version, share_mode, unwritable, unwritten
from cai.texts.wording import reason_of
from cai.training.data.control_tokens import without_forged_turns
from cai.training.data.dataset import TrainingData
from cai.training.data.rows import named
from cai.training.report.evidence import MOST_TOKENS, sample_after, sample_before, write_evidence
from cai.training.report.pairs import pair_accuracy
from cai.training.report.samples import untrained
from cai.training.report.summary import TrainSummary, last_metrics
from cai.training.setup.config import Loaded
from cai.training.setup.folder import DROPPED, EVALS, TrainFolder
from cai.training.setup.opening import ends_of, finite, open_model, open_tokenizer, shape_of, this_machine
from cai.training.setup.plan import Plan, Setting, resolve
from cai.training.setup.processes import Processes, Stopper
from cai.training.trainers.arguments import arguments, check_trl
from cai.training.trainers.preferences import Preferences
from cai.training.trainers.recorder import Progress, recorder
from cai.training.trainers.sft import Replies
from cai.training.trainers.watch import callback
from cai.weights.bases import Base
from cai.weights.vendors import silence_libraries

Tell = Callable[[str], None]
ROWS = ".rows"  # where preference rows lie for TRL while they train
SETTLED = ("max_length", "dtype", "attention", "packing", "gradient_checkpointing", "rows_at_once", "save_every",
           "eval_every")  # fmt: skip
VENDORS_OWN = ("training_args.bin", "README.md", "ref")  # a pickle, a form to fill in, and the reference adapter
PACKAGES = ("cai-toolkit", "trl", "transformers", "torch", "peft", "accelerate", "datasets")


class Session:
    """One session of a training."""

    def __init__(
        self,
        data: TrainingData,
        base: Base,
        loaded: Loaded,
        folder: TrainFolder,
        provenance: dict[str, Any] | None,
        processes: Processes,
        tell: Tell,
        progress: Progress | None,
    ) -> None:
        self.provenance = provenance
        self.data, self.base, self.loaded, self.folder, self.tell = data, base, loaded, folder, tell
        self.processes, self.progress = processes, progress
        self.stopper = Stopper(tell, processes)
        self.notes, self.read_drops = list(data.notes), len(data.dropped)
        self.started = time.monotonic()
        self.before = float(folder.record["seconds"])

    def run(self) -> TrainSummary:
        for line in self.data.lines():
            self.tell(line)
        chats = any(not isinstance(row.prompt, str) for row in (*self.data.train, *self.data.eval))
        self.tokenizer = open_tokenizer(self.base, self.loaded.config.chat_template, chats=chats)
        ends = ends_of(self.base, self.tokenizer)
        self.data = without_forged_turns(self.data, self.tokenizer)
        for note in (note for note in self.data.notes if note not in self.notes):
            self.tell(f"note: {note}")
        self.notes = list(self.data.notes)
        self.rows: Replies | Preferences
        if self.data.method == "sft":
            self.rows = Replies(self.data, self.loaded, self.tokenizer, ends)
        else:
            self.rows = Preferences(self.data, self.loaded, self.tokenizer, ends, self.folder.path / ROWS)
        if not self.rows.lengths:
            last = (*self.data.dropped, *self.rows.drops)[-1]
            raise InputError(f"no row is left to train: {last.detail}", self.data.files[0][0])
        shape, machine = shape_of(self.base), this_machine()
        self.context = shape.context
        while True:
            settle = functools.partial(resolve, self.data.method, self.loaded, self.rows.lengths, shape, machine)
            self.drops = [*self.data.dropped, *self.rows.drops, *self.rows.cut(settle(held=self.rows.held))]
            plan = settle(held=len(self.rows.eval), kept=max(1, len(self.rows.train)))
            plan = self.processes.agree(plan)  # free memory is not the same for all
            self._describe(plan)
            smaller = self._fit(plan)
            if smaller is None:
                return self._summary()
            if self.processes.count > 1:  # the others wait within a step for the one that failed
                self.folder.write(settled=self.folder.record["settled"] | {"rows_at_once": smaller})
                raise RunError("out of memory in one of several processes: the same command goes on with fewer rows")
            config = self.loaded.config.model_copy(update={"rows_at_once": smaller})
            origins = {**self.loaded.origins, "rows_at_once": "hardware"}
            self.loaded = dataclasses.replace(self.loaded, config=config, origins=origins)
            gc.collect()  # the trainer that failed, and with it the memory of the device

    def _describe(self, plan: Plan) -> None:
        """Tell and record what will be done."""
        train, held = len(self.rows.train), len(self.rows.eval)
        if not train:
            last = self.drops[-1]
            raise UsageError(f"max_length {plan.max_length:,} leaves no row to train: {last.reason}, {last.detail}")
        if train + held + len(self.drops) != self.data.read:
            raise RunError(f"{train} + {held} rows and {len(self.drops)} drops are not {self.data.read}")
        settings = (*plan.settings, *self.rows.settings)
        if self.base.adapter is not None:
            settings = (Setting("trains", f"the adapter {self.base.spec} further", "flag"), *settings[1:])
        for line in (*map(str, settings), str(plan.truncation)):
            self.tell(line)
        counts = Counter(drop.reason for drop in self.drops)
        found = Counter(drop.reason for drop in self.drops[self.read_drops :])
        for why, count in sorted(found.items()):
            first = next(drop for drop in self.drops[self.read_drops :] if drop.reason == why)
            self.tell(f"dropped: {why} {count:,}; the first is {first.detail}")
        self.folder.replace(DROPPED, map(dataclasses.asdict, self.drops))
        settled = {setting.name: setting.value for setting in settings}
        self.folder.write(
            settled={name: settled[name] for name in SETTLED if name in settled} | {"devices": self.processes.count},
            plan=[dataclasses.asdict(setting) for setting in settings],
            truncation=dataclasses.asdict(plan.truncation),
            model=self.base.facts(),
            data={
                "files": [{"source": source, "content": content} for source, content in self.data.files],
                "read": self.data.read, "train": train, "eval": held, "dropped": dict(counts),
                "held_back": self.data.held_back, "origins": self.data.origins, "notes": self.data.notes,
            },
            run=self.provenance,
            versions={name: package_version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        )  # fmt: skip

    def _fit(self, plan: Plan) -> int | None:
        """Train to the end; where memory runs out, the number of rows at once to go on with."""
        checkpoint = self.folder.last_checkpoint()
        damaged = self.folder.rewind(-1 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
        if damaged:
            self.tell(f"{damaged:,} damaged lines of metrics.jsonl or eval.jsonl are left out")
        if checkpoint is not None:
            self.tell(f"going on from {checkpoint}")
        try:
            with silence_libraries(), self.stopper.listening():
                trainer = self._trainer(plan, checkpoint is None)
                if self.loaded.config.full and checkpoint is None:
                    self._sample(trainer, plan, after=False)
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
                if self.stopper.asked:
                    self.folder.write(seconds=self._seconds())
                    self.tell(f"stopped; the same command goes on from {self.folder.last_checkpoint()}")
                    raise KeyboardInterrupt
                self._finish(trainer)
        except LossNotFinite as error:
            self.folder.write(seconds=self._seconds())
            raise self._told(error) from error
        except Exception as error:
            if (why := unwritten(error)) is not None:
                raise unwritable(self.folder.path, why) from error
            return self._smaller(plan, error)
        with silence_libraries():
            self._sample(trainer, plan, after=True)
        return None

    def _smaller(self, plan: Plan, error: Exception) -> int:
        """The number of rows at once to go on with after an error that means full memory; others are raised again."""
        import torch
        from accelerate.utils.memory import should_reduce_batch_size

        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise error
        least = 2 if self.data.method == "kto" else 1  # its estimate of the KL divergence pairs the rows of a batch
        fewer = [n for n in range(plan.rows_at_once // 2, least - 1, -1) if plan.rows_at_once % n == 0]
        if not fewer:
            raise RunError(
                f"out of memory with {plan.rows_at_once} rows of up to {plan.max_length:,} tokens at once: lower "
                "max_length, set gradient_checkpointing, or take a smaller model"
            ) from error
        self.tell(
            f"out of memory with {plan.rows_at_once} rows at once: going on with {fewer[0]}, and more passes a step, "
            "so that a step sees as many rows"
        )
        return fewer[0]

    def _finish(self, trainer: Any) -> None:
        """The last evaluation, and the product."""
        done = trainer.state.global_step
        if self.rows.eval and not any("eval_loss" in line and line["step"] == done for line in self.folder.metrics()):
            trainer.evaluate()
        if not trainer.is_fsdp_enabled:  # whose weights lie in pieces
            for name, weight in trainer.model.named_parameters():
                if weight.requires_grad and not weight.isfinite().all():
                    raise LossNotFinite(f"the weights {name} hold what is no number after step {done}")
        trainer.save_model(str(self.folder.path))
        self.processes.wait()
        if self.processes.first:
            share_mode(self.folder.path)
            for name in VENDORS_OWN:
                path = self.folder.path / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _sample(self, trainer: Any, plan: Plan, *, after: bool) -> None:
        """Let the model answer held-out prompts; of several processes the first one does, for all.

        A model with an adapter shows at the end what it said before; one that trains in full is asked before.
        """
        most = self.loaded.config.samples
        if self.data.method == "reward" or not most or not self.rows.eval:
            return
        if trainer.is_fsdp_enabled:  # no process has the whole model
            self.notes.append("no samples before and after: the weights lie in pieces; ask the model with cai chat")
            return
        if self.processes.first:
            model = trainer.accelerator.unwrap_model(trainer.model)
            full, room = self.loaded.config.full, min(plan.max_length, self.context - MOST_TOKENS)
            self.tell(f"asking the model {'after' if after else 'before'} the training")
            try:
                if not after or not full:
                    with nullcontext(model) if full else untrained(model) as before:
                        sample_before(self.folder, before, self.tokenizer, self.data.eval, room=room, most=most)
                if after and (note := sample_after(self.folder, model, self.tokenizer)) is not None:
                    self.notes.append(note)
            except Exception as error:  # a model that is trained is not lost for want of samples
                self.notes.append(
                    f"no samples {'after' if after else 'before'}: {type(error).__name__}: {reason_of(error)}"
                )
        self.processes.wait()

    def _trainer(self, plan: Plan, fresh: bool) -> Any:
        try:
            from peft import LoraConfig
            from transformers import PrinterCallback, set_seed
        except ImportError as error:
            raise MissingExtra("cai train", "train") from error
        config, rows = self.loaded.config, self.rows
        extra = check_trl(self.data.method, self.loaded)
        told = arguments(plan, config, self.folder.path, evaluates=bool(rows.eval)) | extra
        told["eval_on_start"] = bool(rows.eval) and rows.before and fresh
        set_seed(config.seed)  # new weights are the same in each session: the reference is known by the weights' hash
        # Weights that train stay float32, or small steps would be lost in rounding; frozen ones can be narrow.
        dtype = "float32" if config.full else plan.dtype
        model = rows.model(functools.partial(open_model, self.base, dtype, plan.attention))
        lora = None if config.full or self.base.adapter else LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, **rows.lora(),
            target_modules=config.lora.targets if isinstance(config.lora.targets, str) else list(config.lora.targets),
            revision=self.base.commit,
        )  # fmt: skip
        callbacks = [callback(self.tell), recorder(self.folder, self.stopper, self.progress)]
        parts = {"model": model, "processing_class": self.tokenizer, "peft_config": lora, "callbacks": callbacks}
        try:
            trainer = rows.trainer(plan, told, self._heard, self._asked, **parts)
        except (ValueError, TypeError) as error:  # of the vendors, such as layers that the model does not have
            raise UsageError(f"the training cannot be set up: {' '.join(str(error).split())[:400]}") from error
        for part, rows_given in ((trainer.train_dataset, rows.train), (trainer.eval_dataset, rows.eval)):
            if part is not None and plan.packing != "packed" and len(part) != len(rows_given):
                raise RunError(f"TRL takes {len(part):,} of {len(rows_given):,} rows: raise max_length by a few tokens")
        trainer.remove_callback(PrinterCallback)  # it writes to stdout, where only a summary belongs
        return trainer

    def _asked(self, done: int) -> None:
        """How far the reference is, in rows of this process."""
        if self.stopper.agreed():
            self.tell("stopped; the same command goes on, and asks the reference for what is missing")
            raise KeyboardInterrupt
        if self.progress is not None and self.processes.first:
            total = -(-(len(self.rows.train) + len(self.rows.eval)) // self.processes.count)
            self.progress({"reference_rows": min(done, total), "of": total})

    def _heard(self, step: int, found: list[dict[str, Any]]) -> None:
        """What each row gave when it was evaluated."""
        for row in sorted(found, key=lambda row: row["row"]):
            self.folder.add({"step": step, "id": self.rows.eval[row.pop("row")].id, **row}, EVALS)

    def _told(self, error: LossNotFinite) -> LossNotFinite:
        """The error with the names of its rows, and what there is to go on with."""
        names = [named(self.rows.name(place)) for place in error.rows]
        rows = f" ({', '.join(names[:8])}{', …' if len(names) > 8 else ''})" if names else ""
        kept = self.folder.last_checkpoint()
        good = f"the checkpoint {kept} is from before" if kept else "there is no checkpoint yet"
        if kept and not finite(kept):
            good = f"the checkpoint {kept} holds such weights, too: delete {self.folder.path} to train anew"
        look = "look at these rows, " if names else ""
        return LossNotFinite(f"{error}{rows}; {good}: {look}try a lower learning rate, or dtype float32", error.rows)

    def _seconds(self) -> float:
        return round(self.before + time.monotonic() - self.started, 3)

    def _summary(self) -> TrainSummary:
        lines = self.folder.metrics()
        summary = TrainSummary(
            folder=self.folder.path,
            method=self.data.method,
            rows=len(self.rows.train),
            eval_rows=len(self.rows.eval),
            dropped=dict(Counter(drop.reason for drop in self.drops)),
            steps=max((line["step"] for line in lines), default=0),
            seconds=self._seconds(),
            metrics=last_metrics(lines),
            pairs=pair_accuracy(self.folder.metrics(EVALS)),
            notes=tuple(dict.fromkeys(self.notes)),
        )
        self.folder.write(seconds=summary.seconds, summary=summary.model_dump(mode="json"))
        if self.processes.first:
            write_evidence(self.folder, self.tell)
            self.folder.write(finished=True)
            shutil.rmtree(self.folder.path / ROWS, ignore_errors=True)
        return summary
