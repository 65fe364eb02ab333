"""What surrounds TRL's loop, whatever the method: its arguments, the record of its metrics, warnings, and stops.

Some hooks are private ones of TRL 1.16: its range is pinned. Names of metrics are TRL's.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cai.errors import LossNotFinite, UsageError
from cai.records import Object, Values
from cai.texts.wording import reason_of
from cai.training.data.tokens import Rows
from cai.training.setup.checkpoint import EndedBefore
from cai.training.setup.config import Loaded, trl_arguments
from cai.training.setup.folder import CHECKPOINTS, TrainFolder
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.setup.opening import Stopper
from cai.training.setup.plan import Plan
from cai.training.setup.trackers import check_trackers
from cai.training.trainers.averages import Averaged
from cai.training.trainers.watch import Watch
from cai.weights.vendors import silence_libraries

Progress = Callable[[Object], None]


def arguments(plan: Plan, config: TrainConfig, out: Path, *, evaluates: bool) -> Values:
    """The arguments of TRL's config; evaluates: whether there are eval rows."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out / CHECKPOINTS),
        "per_device_train_batch_size": plan.rows_at_once,
        "per_device_eval_batch_size": plan.rows_at_once,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": int(config.warmup * plan.steps),  # rounded down: the first step of a warm-up has rate 0
        "num_train_epochs": config.epochs,
        "seed": config.seed,
        "bf16": plan.dtype == "bfloat16",
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "activation_checkpointing": plan.gradient_checkpointing,
        "logging_steps": 1,  # a wider window would start again on resuming, and differ from an uninterrupted training
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": plan.save_every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": plan.eval_every,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "ddp_find_unused_parameters": False,  # every weight that trains is used at every step
    }


def check_trl(method: str, loaded: Loaded) -> Values:
    """The arguments under `trl:`; before any row is read, UsageError or InputError for one that TRL refuses."""
    import torch

    config = pkgutil.resolve_name(f"{METHODS[method].trl}Config")
    own = trl_arguments(loaded, method, {field.name: field for field in dataclasses.fields(config)})
    check_trackers(own.get("report_to"))
    neutral = {
        "output_dir": "unused",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": None,
    }
    try:
        with silence_libraries():
            config(**neutral | own)
    except Exception as error:  # of any type: a misspelt optimiser is a ValueError, a missing package an ImportError
        raise UsageError(f"TRL refuses an argument under 'trl': {reason_of(error)}") from error
    return own


@cache
def with_hooks(name: str, ours: type) -> Any:
    """A vendor's class of that name with `ours` before it, so that each hook of ours can call the vendor's."""
    theirs = pkgutil.resolve_name(name)
    return type(theirs.__name__, (ours, theirs), {})


def trainer_of(rows: Rows, arguments: Values, **parts: Any) -> Any:
    """TRL's trainer over rows that fit, with the hooks of their method; parts: model, tokenizer, callbacks."""
    name = METHODS[rows.data.method].trl
    trainer = with_hooks(f"{name}Trainer", rows.hooks)(
        args=pkgutil.resolve_name(f"{name}Config")(**arguments),
        train_dataset=rows.dataset(rows.train),
        eval_dataset=rows.dataset(rows.eval) if rows.eval else None,
        **rows.own_parts(),
        **parts,
    )
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # embeddings are copied as they are: in 16 bits most of their steps would be lost
            weight.data = weight.data.float()
    return trainer


class Guarded(Averaged):
    """Stops before the step if the loss is not a number; `rows_within` gives the numbers of the rows in a batch."""

    def training_step(self, model: Any, inputs: Values, *rest: Any, **named: Any) -> Any:
        """The step's gradient; LossNotFinite, with the rows, before the optimiser can spread a NaN to all weights."""
        loss = super().training_step(model, inputs, *rest, **named)
        if not loss.isfinite():
            step = self.state.global_step + 1
            raise LossNotFinite(f"the loss is {loss.item()} at step {step}", self.rows_within(inputs))
        return loss

    def create_model_card(self, *_: Any, **named: Any) -> None:
        """Nothing: TRL's card is a form to fill in, and cai writes its own."""


class Recorder:
    """A callback that writes metrics as they come, with speed, memory and time left, and warns of what they show.

    It stops the training if the user wishes, or if a gradient is not a number. Of several processes the first one
    writes and warns.
    """

    def __init__(
        self,
        folder: TrainFolder,
        stopper: Stopper,
        warn: Callable[[str], None],
        progress: Progress | None,
        *,
        stops: bool = False,
    ) -> None:
        """stops: whether the training ends once its reward is gamed."""
        self._folder = folder
        self._stopper = stopper
        self._warn = warn
        self._progress = progress
        self._stops = stops
        self._tokens = 0.0  # of this session, as far as TRL counted when it last logged

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._began = self._logged = time.monotonic()
        self._first = state.global_step  # of this session
        # Tokens of earlier sessions: TRL counts from the start of each.
        self._before = max((line.get("num_tokens", 0.0) for line in self._folder.metrics()), default=0.0)
        self._watch = Watch(getattr(args, "beta", None))
        for entry in state.log_history:
            self._watch.see(state.global_step, entry)  # the session before has warned of it
        if self.ended_by is not None:
            raise EndedBefore

    def on_log(self, args: Any, state: Any, control: Any, logs: Object, **rest: Any) -> None:
        if "train_runtime" in logs:
            return
        warnings = self._watch.see(state.global_step, logs)
        if self._stops and self._watch.gamed is not None:  # in every process, since all have these numbers
            control.should_training_stop = True
        if not state.is_world_process_zero:
            return
        now = time.monotonic()
        metrics = {"step": state.global_step, "steps": state.max_steps, **logs}
        for name in ("eval_num_tokens", "num_tokens"):
            if name in logs:
                metrics[name] = logs[name] + self._before
        for line in warnings:
            self._warn(line)
        if "loss" in logs:
            tokens = logs.get("num_tokens", 0.0)
            left = (state.max_steps - state.global_step) / max(1, state.global_step - self._first)
            metrics["tokens_per_second"] = round((tokens - self._tokens) / max(1e-9, now - self._logged), 1)
            metrics["eta_seconds"] = round(left * (now - self._began), 1)
            metrics["memory_gb"] = round(_memory() / 2**30, 3)
            self._tokens = tokens
        self._logged = now
        self._folder.add(metrics)
        if self._progress is not None:
            self._progress(metrics)

    @property
    def ended_by(self) -> str | None:
        """Why the training ended before its last step, if its reward is gamed and it was to stop then."""
        return self._watch.gamed if self._stops else None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **rest: Any) -> None:
        from torch.nn.utils import get_total_norm

        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not get_total_norm(gradients).isfinite():
            raise LossNotFinite(f"a gradient is not a number at step {state.global_step + 1}")

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        boundary = state.global_step % getattr(args, "num_iterations", 1) == 0  # replies are in no checkpoint
        if self._stopper.agreed() and boundary:
            control.should_save = True
            control.should_training_stop = True


def _memory() -> int:
    """The most bytes used so far: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
