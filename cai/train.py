"""Training on the replies of a dataset: the choices, the checks and the evidence; the loop is TRL's.

Rows come tokenised, with the loss on the last reply alone, so TRL's own preparation is skipped. Ctrl-C saves and stops,
the same call resumes. Knows the order of things; rows, tokens, plans, models and folders have modules of their own.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cai.errors import InputError, MissingExtra, RunError, UsageError
from cai.masks import Encoded, Masker, Unfit
from cai.records import Record
from cai.train_config import Loaded, load_config, trl_arguments
from cai.train_folder import TrainFolder
from cai.train_loop import Progress, Stopper, arguments, recorder, rows_of, vendors_among_themselves
from cai.train_models import Base, ends_of, find_base, need_train, open_model, open_tokenizer, shape_of, this_machine
from cai.train_plan import Plan, resolve
from cai.training_data import Drop, TrainingData, load_rows
from cai.training_rows import TrainingRow
from cai.training_watch import LossNotFinite, callback

log = logging.getLogger("cai")

Tell = Callable[[str], None]
SETTLED = ("max_length", "dtype", "attention", "packing", "gradient_checkpointing", "rows_at_once", "save_every")
VENDORS_OWN = ("training_args.bin", "README.md")  # a pickle, and a card that is a form to fill in
PACKAGES = ("cai-toolkit", "trl", "transformers", "torch", "peft", "accelerate", "datasets")


class TrainSummary(Record):
    """What a training did."""

    folder: Path
    method: str
    rows: int  # that trained
    eval_rows: int
    dropped: dict[str, int]  # rows by reason
    steps: int
    seconds: float  # all sessions together
    metrics: dict[str, float]  # at the end: loss and, with eval rows, eval_loss before (step 0) and after
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        told = [f"{self.folder}: {self.method}, {self.steps:,} steps on {self.rows:,} rows in {self.seconds:,.0f} s"]
        told += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return told + [f"note: {note}" for note in self.notes]


def train_sft(
    data: Any,
    *,
    out: str | Path,
    model: str = "local",
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    eval_data: str | Path | None = None,
    tell: Tell = log.info,
    progress: Progress | None = None,
) -> TrainSummary:
    """Fine-tune `model` on the last replies of `data`; the product lies in `out`, an adapter unless `full` is set.

    data: a run folder of cai generate, a file, `hf:org/name`, or an iterable of records. model: local, a folder, a
    .gguf file or a name on the hub. flags: keys of the config in place of the file's, such as {"lora.rank": 8}.
    progress: is given the metrics of every step.

    Called again with the same data, model and config it goes on from the last checkpoint, and where it is finished,
    returns what it did. Ctrl-C saves a checkpoint and raises KeyboardInterrupt. Raises LossNotFinite, with the step and
    the rows, before such a step reaches the weights, and any CaiError of a part for what cannot be.
    """
    need_train("cai train")
    loaded = load_config(config, flags)
    rows = load_rows(data, "sft", eval_data=eval_data, split=loaded.config.split)
    base = find_base(model)
    folder = TrainFolder(Path(out), _identity("sft", rows, base, loaded))
    if folder.record["finished"]:
        tell(f"{folder.path} is finished: nothing to do")
        return TrainSummary.model_validate(folder.record["summary"])
    job = _Job(rows, base, _as_before(loaded, folder), folder, tell, progress)
    return job.run()


def _identity(method: str, rows: TrainingData, base: Base, loaded: Loaded) -> dict[str, Any]:
    """Everything that decides which weights come out; how the work is cut up is settled once and kept."""
    config = loaded.config.model_dump(mode="json")
    template = loaded.config.chat_template
    if template is not None and Path(template).is_file():
        config["chat_template"] = Path(template).read_text(encoding="utf-8", errors="replace")
    data = [[content, len(rows.train), len(rows.eval)] for _, content in rows.files]
    return {"method": method, "model": base.mark, "data": data, "config": config}


def _as_before(loaded: Loaded, folder: TrainFolder) -> Loaded:
    """The config with what an earlier session settled: free memory differs from day to day, the steps may not."""
    before = folder.record.get("settled", {})
    found = {name: value for name, value in before.items() if getattr(loaded.config, name) is None}
    config = loaded.config.model_copy(update=found)
    return dataclasses.replace(loaded, config=config, origins={**loaded.origins, **dict.fromkeys(found, "resumed")})


class _Job:
    """One session of a training."""

    def __init__(
        self,
        rows: TrainingData,
        base: Base,
        loaded: Loaded,
        folder: TrainFolder,
        tell: Tell,
        progress: Progress | None,
    ) -> None:
        self.rows, self.base, self.loaded, self.folder, self.tell = rows, base, loaded, folder, tell
        self.progress = progress
        self.stopper = Stopper(tell)
        self.drops = list(rows.dropped)
        self.started = time.monotonic()
        self.before = float(folder.record["seconds"])

    def run(self) -> TrainSummary:
        for line in self.rows.lines():
            self.tell(line)
        chats = any(not isinstance(row.prompt, str) for row in (*self.rows.train, *self.rows.eval))
        tokenizer = open_tokenizer(self.base, self.loaded.config.chat_template, chats=chats)
        masker = Masker(tokenizer, ends_of(self.base, tokenizer))
        whole, held = self._encode(masker, self.rows.train, 0), self._encode(masker, self.rows.eval, -1)
        if not whole:
            raise InputError(f"no row is left to train: {self.drops[-1].detail}", self.rows.files[0][0])
        lengths = [len(row.ids) for row in whole]
        while True:
            plan = resolve("sft", self.loaded, lengths, shape_of(self.base), this_machine())
            mark = len(self.drops)
            train, held_back = self._cut(whole, plan, 0), self._cut(held, plan, -1)
            self._describe(plan, train, held_back)
            smaller = self._fit(plan, tokenizer, train, held_back)
            if smaller is None:
                return self._summary(plan, train, held_back)
            del self.drops[mark:]
            config = self.loaded.config.model_copy(update={"rows_at_once": smaller})
            origins = {**self.loaded.origins, "rows_at_once": "hardware"}
            self.loaded = dataclasses.replace(self.loaded, config=config, origins=origins)
            gc.collect()  # the trainer that failed, and with it the memory of the device

    def _encode(self, masker: Masker, rows: Sequence[TrainingRow], file: int) -> list[Encoded]:
        found = []
        for row in masker.encode((row.id, row.prompt, row.reply) for row in rows):
            if isinstance(row, Unfit):
                self.drops.append(Drop(self.rows.files[file][0], 0, "bad_input", f"row {row.id}: {row.why}"))
            else:
                found.append(row)
        return found

    def _cut(self, rows: Sequence[Encoded], plan: Plan, file: int) -> list[Encoded]:
        """The rows within the plan's length; those whose prompt fills it are dropped."""
        found = []
        for row in rows:
            cut = row.cut(plan.max_length)
            if cut is None:
                told = f"row {row.id}: its prompt of {row.start:,} tokens leaves no room in {plan.max_length:,}"
                self.drops.append(Drop(self.rows.files[file][0], 0, "too_long", told))
            else:
                found.append(cut)
        return found

    def _describe(self, plan: Plan, train: Sequence[Encoded], held: Sequence[Encoded]) -> None:
        """Tell and record what will be done."""
        if not train:
            raise UsageError(f"max_length {plan.max_length:,} leaves no row: every prompt is longer")
        if len(train) + len(held) + len(self.drops) != self.rows.read:
            raise RunError(f"{len(train)} + {len(held)} rows and {len(self.drops)} drops are not {self.rows.read}")
        for line in plan.lines():
            self.tell(line)
        counts = Counter(drop.reason for drop in self.drops)
        if counts["too_long"]:
            self.tell(f"dropped: {counts['too_long']:,} rows whose prompt alone fills {plan.max_length:,} tokens")
        settled = {setting.name: setting.value for setting in plan.settings}
        self.folder.write(
            settled={name: settled[name] for name in SETTLED},
            plan=[dataclasses.asdict(setting) for setting in plan.settings],
            truncation=dataclasses.asdict(plan.truncation),
            model={"spec": self.base.spec, "place": self.base.place, "mark": self.base.mark},
            data={
                "files": [{"source": source, "content": content} for source, content in self.rows.files],
                "read": self.rows.read, "train": len(train), "eval": len(held), "dropped": dict(counts),
                "held_back": self.rows.held_back, "origins": self.rows.origins, "notes": self.rows.notes,
            },
            versions={name: _version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        )  # fmt: skip

    def _fit(self, plan: Plan, tokenizer: Any, train: Sequence[Encoded], held: Sequence[Encoded]) -> int | None:
        """Train to the end; where memory runs out, the number of rows at once to go on with."""
        import torch
        from accelerate.utils.memory import should_reduce_batch_size

        checkpoint = self.folder.checkpoint
        self.folder.rewind(0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
        if checkpoint is not None:
            self.tell(f"going on from {checkpoint}")
        try:
            with vendors_among_themselves(), self.stopper.listening():
                trainer = self._trainer(plan, tokenizer, train, held, bool(held) and checkpoint is None)
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
                if self.stopper.asked:
                    self.folder.write(seconds=self._seconds())
                    self.tell(f"stopped; the same command goes on from {self.folder.checkpoint}")
                    raise KeyboardInterrupt
                done = trainer.state.global_step
                if held and not any("eval_loss" in line and line["step"] == done for line in self.folder.metrics()):
                    trainer.evaluate()
                trainer.save_model(str(self.folder.path))
                for name in VENDORS_OWN:
                    (self.folder.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {self.folder.path}: {error}; free some space, then go on") from error
        except Exception as error:
            full = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
            if not full or plan.rows_at_once == 1:
                raise
            smaller = next(n for n in range(plan.rows_at_once // 2, 0, -1) if plan.rows_at_once % n == 0)
            self.tell(f"out of memory with {plan.rows_at_once} rows at once: going on with {smaller}, and more passes "
                      "a step, so that a step sees as many rows")  # fmt: skip
            return smaller
        return None

    def _trainer(
        self, plan: Plan, tokenizer: Any, train: Sequence[Encoded], held: Sequence[Encoded], eval_on_start: bool
    ) -> Any:
        try:
            import torch
            from datasets import Dataset
            from peft import LoraConfig
            from transformers import PrinterCallback
            from trl import SFTConfig, SFTTrainer
        except ImportError as error:
            raise MissingExtra("cai train", "train") from error
        config = self.loaded.config
        known = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
        extra = trl_arguments(self.loaded, known)
        names = {tuple(row.ids): row.id for row in train}
        stop = self._stop

        class Trainer(SFTTrainer):  # type: ignore[misc]
            """TRL's, which also stops before a loss that is no number reaches the weights."""

            def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
                loss = super().training_step(model, inputs, *rest, **more)
                if not torch.isfinite(loss):
                    stop(self.state.global_step + 1, float(loss), list(rows_of(inputs)), names)
                return loss

            def create_model_card(self, *rest: Any, **more: Any) -> None:
                """Ours is another."""

        def table(rows: Sequence[Encoded]) -> Any:
            return Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})

        lora = None if config.full else LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, task_type="CAUSAL_LM",
            target_modules=config.lora.targets if isinstance(config.lora.targets, str) else list(config.lora.targets),
        )  # fmt: skip
        told = arguments(plan, config, self.folder.path, evaluates=bool(held)) | extra
        # Weights that train stay float32, or small steps would be lost in rounding; frozen ones can be narrow.
        model = open_model(self.base, "float32" if config.full else plan.dtype, plan.attention)
        trainer = Trainer(
            model=model,
            args=SFTConfig(**told, eval_on_start=eval_on_start),
            train_dataset=table(train),
            eval_dataset=table(held) if held else None,
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[callback(self.tell), recorder(self.folder, self.stopper, self.progress)],
        )
        trainer.remove_callback(PrinterCallback)  # it writes to stdout, where only a summary belongs
        return trainer

    def _stop(self, step: int, loss: float, rows: list[tuple[int, ...]], names: Mapping[tuple[int, ...], str]) -> None:
        told = ", ".join(names.get(row, "?") for row in rows[:8])
        kept = self.folder.checkpoint
        good = f"the checkpoint {kept} is from before" if kept else "there is no checkpoint yet"
        self.folder.write(seconds=self._seconds())
        raise LossNotFinite(
            f"the loss is {loss} at step {step} (rows {told}); {good}: look at these rows, try a lower learning rate, "
            "or dtype float32"
        )

    def _seconds(self) -> float:
        return round(self.before + time.monotonic() - self.started, 3)

    def _summary(self, plan: Plan, train: Sequence[Encoded], held: Sequence[Encoded]) -> TrainSummary:
        lines = self.folder.metrics()
        losses = [line["loss"] for line in lines if "loss" in line]
        evals = [line["eval_loss"] for line in lines if "eval_loss" in line]
        metrics = {"loss": losses[-1]} if losses else {}
        if evals:
            metrics |= {"eval_loss_before": evals[0], "eval_loss": evals[-1]}
        summary = TrainSummary(
            folder=self.folder.path,
            method="sft",
            rows=len(train),
            eval_rows=len(held),
            dropped=dict(Counter(drop.reason for drop in self.drops)),
            steps=max((line["step"] for line in lines), default=0),
            seconds=self._seconds(),
            metrics=metrics,
            notes=self.rows.notes,
        )
        self.folder.write(finished=True, seconds=summary.seconds, summary=summary.model_dump(mode="json"))
        return summary


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
