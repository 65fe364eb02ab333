"""What the logged metrics of a training tell while it runs: warnings once each, and a stop where numbers end.

Names of metrics are TRL's. Knows numbers of a log and, at the optimiser's door, whether gradients are finite; nothing
of losses, data or files.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from cai.errors import LossNotFinite, MissingExtra

log = logging.getLogger("cai")

WATCHED = ("entropy", "rewards/chosen", "rewards/margins", "logps/chosen")
# Entries of the log that are averaged: one batch of a few rows is noise. At TRL's 10 steps an entry, 50 steps.
WINDOW = 5
# The chosen replies cost a tenth more nats than under the reference, whatever their length: at 1 nat a token, a
# perplexity of 3.0 where it was 2.7. Their fall as such is common (Pal et al. 2024, arXiv 2402.13228; Razin et al.
# 2024, arXiv 2410.08847), and its cause, the loss of differences, has a remedy: the NLL beside it.
FALL = 0.1
# Half the entropy: the effective number of next tokens, e^H, has shrunk to its square root.
ENTROPY = 0.5


class Watch:
    """Reads a training's log entry by entry; `beta` is DPO's, None for trainings without a reference."""

    def __init__(self, beta: float | None = None) -> None:
        self._beta = beta
        self._seen = dict.fromkeys(WATCHED, 0)
        self._first: dict[str, list[float]] = {name: [] for name in WATCHED}
        self._last: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in WATCHED}
        self._told: set[str] = set()

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Warnings that this entry gives rise to, each kind once in a training."""
        for name in WATCHED:
            if name in metrics:
                self._seen[name] += 1
                if self._seen[name] <= WINDOW:
                    self._first[name].append(metrics[name])
                self._last[name].append(metrics[name])
        found = {"likelihood": self._likelihood(), "entropy": self._entropy()}
        new = {kind: text for kind, text in found.items() if text and kind not in self._told}
        self._told |= set(new)
        return [f"step {step}: {text}" for text in new.values()]

    def _means(self, name: str) -> tuple[float, float] | None:
        """Of the first and of the last WINDOW entries; None as long as these are the same."""
        if self._seen[name] <= WINDOW:
            return None
        return fmean(self._first[name]), fmean(self._last[name])

    def _likelihood(self) -> str | None:
        chosen, margins, logps = (self._means(name) for name in ("rewards/chosen", "rewards/margins", "logps/chosen"))
        if not (self._beta and chosen and margins and logps):
            return None
        fall = -chosen[1] / self._beta  # nats a reply: TRL's reward is β·(log π − log π_ref)
        before = -logps[1] - fall
        if fall <= FALL * before or margins[1] <= margins[0]:
            return None
        return (
            f"margins rise ({margins[0]:.3g} to {margins[1]:.3g}) while the chosen replies become less probable: "
            f"{fall:.1f} nats a reply under the reference, {fall / before:.0%}. The model unlearns both replies: give "
            "the NLL more weight, raise beta, or lower the learning rate"
        )

    def _entropy(self) -> str | None:
        means = self._means("entropy")
        if not means or means[1] >= ENTROPY * means[0]:
            return None
        return (
            f"entropy fell from {means[0]:.3g} to {means[1]:.3g} nats a token: replies will repeat each other; "
            "stop earlier, or lower the learning rate"
        )


def callback(tell: Callable[[str], None] = log.warning) -> Any:
    """A Watch as a transformers TrainerCallback, which also stops a training whose gradients are no numbers.

    `tell` gets each warning, in the first process only. A resumed training goes on from the log of its checkpoint.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingExtra("training", "train") from error
    return type("WatchCallback", (_Events, TrainerCallback), {})(tell)


class _Events:
    """The hooks of a TrainerCallback that a Watch needs."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._watch = Watch()

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._watch = Watch(getattr(args, "beta", None))
        for entry in state.log_history:
            self._watch.see(entry["step"], entry)  # what it gives rise to was told before the checkpoint

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **rest: Any) -> None:
        if "loss" in logs and state.is_world_process_zero:  # neither an evaluation's entry nor the closing summary
            for line in self._watch.see(state.global_step, logs):
                self._tell(line)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **rest: Any) -> None:
        from torch.nn.utils import get_total_norm

        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not get_total_norm(gradients).isfinite():
            raise LossNotFinite(f"a gradient is no number at step {state.global_step + 1}")
