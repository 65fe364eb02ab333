"""What every trainer of TRL is told, and what is read from it while it runs.

Knows the arguments that all trainers share, its callbacks, signals, and batches. Knows nothing of data or methods.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from cai.errors import UsageError
from cai.training.data.rows import Method
from cai.training.setup.config import Loaded, TrainConfig, trl_arguments
from cai.training.setup.folder import CHECKPOINTS, TrainFolder
from cai.training.setup.plan import Plan

Progress = Callable[[Mapping[str, Any]], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """Those that train together, as `accelerate launch` started them; one alone is the usual case."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that tells and writes."""
        return self.index == 0

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The others enter when the first one has left."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def agree(self, value: T) -> T:
        """The first one's value, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return cast(T, broadcast_object_list([value])[0])

    def any(self, wish: bool) -> bool:
        """Whether one of them wishes it."""
        if self.count == 1:
            return wish
        import torch
        from accelerate import PartialState

        wishes = torch.tensor([int(wish)], device=PartialState().device)
        torch.distributed.all_reduce(wishes)
        return bool(wishes.item())


def join_processes() -> Processes:
    """Join the processes that this one was launched with; alone where it was not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes)


class Stopper:
    """Ctrl-C as a wish: `asked` is set, and the training stops after its step; a second one interrupts at once.

    Of several processes a second one changes nothing: their launcher passes on the one that the terminal sent to all.
    """

    def __init__(self, tell: Callable[[str], None], processes: Processes) -> None:
        self.asked = False
        self._tell, self._processes = tell, processes

    def agreed(self) -> bool:
        """Whether the training is to stop: all processes stop after the same step."""
        self.asked = self._processes.any(self.asked)
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C; in another thread than the main one, where Python gives no signals, leave it as it is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def ask(number: int, frame: Any) -> None:
            first, self.asked = not self.asked, True
            more = ""
            if self._processes.count == 1:
                signal.signal(signal.SIGINT, before)
                more = "; Ctrl-C again stops at once and loses the steps since the last checkpoint"
            if first:
                self._tell(f"stopping after this step{more}")

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def arguments(plan: Plan, config: TrainConfig, out: Path, *, evaluates: bool) -> dict[str, Any]:
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
        "logging_steps": 1,  # a wider window would begin anew when resumed, and read otherwise than undisturbed
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


def trl_config(method: Method) -> Any:
    """TRL's class of arguments for a method."""
    import trl

    return {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "kto": trl.KTOConfig, "reward": trl.RewardConfig}[method]


def check_trl(method: Method, loaded: Loaded) -> dict[str, Any]:
    """What stands under `trl:`, checked; UsageError or InputError before anything is read for what TRL refuses."""
    import torch

    made = trl_config(method)
    given = trl_arguments(loaded, method, {field.name: field for field in dataclasses.fields(made)})
    check_reporters(given.get("report_to"))
    neutral = {"output_dir": "unused", "use_cpu": not torch.cuda.is_available(), "bf16": False, "report_to": []}
    try:
        with vendors_among_themselves():
            made(**neutral | {"gradient_checkpointing": None} | given)
    except Exception as error:  # of any type: a misspelt optimiser is a ValueError, a missing package an ImportError
        raise UsageError(f"TRL refuses an argument under 'trl': {' '.join(str(error).split())[:300]}") from error
    return given


def check_reporters(wanted: Any) -> None:
    """UsageError for a service that metrics are to go to and whose package is not installed."""
    for name in [wanted] if isinstance(wanted, str) else wanted or []:
        if name not in ("wandb", "tensorboard", "none"):
            raise UsageError(f"report_to {name} must be wandb or tensorboard")
        if name == "tensorboard" and importlib.util.find_spec("tensorboardX"):
            continue
        if name in ("wandb", "tensorboard") and importlib.util.find_spec(name) is None:
            raise UsageError(f"report_to {name}: the package is not installed: pip install {name}")


def _passed(error: BaseException, module: str, function: str) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals["__name__"] == module and frame.f_code.co_name == function for frame in frames)


def rows_of(inputs: Mapping[str, Any]) -> Iterator[tuple[int, ...]]:
    """The token ids of each row of a batch, padded or side by side."""
    if "attention_mask" in inputs:
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            yield tuple(ids[mask.bool()].tolist())
        return
    ids, starts = inputs["input_ids"][0].tolist(), (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        yield tuple(ids[start:end])


def recorder(folder: TrainFolder, stopper: Stopper, progress: Progress | None) -> Any:
    """A callback that writes metrics as they come, with speed, memory and time left, and stops the training when asked.

    Of several processes the first one writes.
    """
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.time, self.tokens, self.steps, self.first, self.before = time.monotonic(), 0.0, 0, 0, 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.time, self.steps, self.first = time.monotonic(), state.max_steps, state.global_step
            self.began = self.time
            # TRL counts from the start of each session.
            counts = [
                line["num_tokens"] for line in folder.metrics() if line["step"] <= self.first and "num_tokens" in line
            ]
            self.before = max(counts, default=0.0)

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **rest: Any) -> None:
            if not state.is_world_process_zero or "train_runtime" in logs:
                return
            now = time.monotonic()
            found = {"step": state.global_step, "steps": state.max_steps, **logs}
            if "eval_num_tokens" in logs:
                found["eval_num_tokens"] = logs["eval_num_tokens"] + self.before
            if "loss" in logs:
                seen = logs.get("num_tokens", 0.0)
                found |= {"num_tokens": seen + self.before} if "num_tokens" in logs else {}
                done = state.global_step - self.first
                found |= {
                    "tokens_per_second": round((seen - self.tokens) / max(1e-9, now - self.time), 1),
                    "eta_seconds": round((state.max_steps - state.global_step) * (now - self.began) / max(1, done), 1),
                    "memory_gb": round(_memory() / 2**30, 3),
                }
                self.tokens = seen
            self.time = now
            folder.add(found)
            if progress is not None:
                progress(found)

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if stopper.agreed():
                control.should_save = control.should_training_stop = True

    return Recorder()


@contextmanager
def vendors_among_themselves() -> Iterator[None]:
    """Without their progress bars and reports."""
    import datasets

    from cai.weights.bases import quiet

    hidden, tqdm = datasets.are_progress_bars_disabled(), os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # TRL's bars over the reference's rows: `progress` tells
    datasets.disable_progress_bars()
    try:
        with quiet():
            yield
    finally:
        os.environ.pop("TQDM_DISABLE") if tqdm is None else os.environ.update(TQDM_DISABLE=tqdm)
        if not hidden:
            datasets.enable_progress_bars()


def _memory() -> int:
    """The most bytes used so far: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
