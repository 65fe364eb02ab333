"""Records the metrics of a training as it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cai.training.setup.folder import TrainFolder
from cai.training.setup.processes import Stopper

Progress = Callable[[Mapping[str, Any]], None]


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


def _memory() -> int:
    """The most bytes used so far: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
