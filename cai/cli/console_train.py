"""What a training looks like in a terminal: live progress, evaluations that stay, the closing summary.

Writes to stderr through rich. Knows metrics by their names; nothing of how they come about.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from cai.cli import console
from cai.cli.console import clock, show
from cai.training.setup.methods import METHODS

if TYPE_CHECKING:
    from cai.training.report.summary import TrainSummary

LINE_EVERY = 30.0  # seconds between lines of one tenth of the work, where stderr is no terminal
MEASURES = (  # as TRL's trainers name them: of preferences, then of rewards
    ("rewards/margins", "margin", "{:+.3g}"),
    ("margin", "margin", "{:+.3g}"),
    ("rewards/accuracies", "accuracy", "{:.0%}"),
    ("accuracy", "accuracy", "{:.0%}"),
)


class TrainProgress:
    """Shows how a training goes: one live line in a terminal, a plain line each tenth of the work elsewhere."""

    def __init__(self) -> None:
        self._began = self._printed = time.monotonic()
        self._tenth: tuple[bool, int] | None = None  # of the reference or of the steps, last printed
        self._reference = (self._began, 0)  # when its first answer came, and how many rows it had then
        self._text = "starting"
        self._live: Live | None = None

    def __enter__(self) -> TrainProgress:
        if console.console.is_terminal and not console.console.is_dumb_terminal:
            self._live = Live(get_renderable=self._line, console=console.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def heard(self, metrics: Mapping[str, Any]) -> None:
        """Take what `cai.train` gives to its `progress`."""
        if "eval_loss" in metrics:
            show([evaluation(metrics)])
        elif "reference_rows" in metrics:
            done, total = int(metrics["reference_rows"]), int(metrics["of"])
            self._now(self._asked(done, total), (True, 10 * done // max(1, total)))
        elif "loss" in metrics:
            self._now(step(metrics), (False, 10 * int(metrics["step"]) // max(1, int(metrics["steps"]))))

    def _asked(self, done: int, total: int) -> str:
        now = time.monotonic()
        began, first = self._reference
        if first == 0 or done <= first:
            self._reference = now, done
            return f"reference {done:,}/{total:,} rows"
        left = (total - done) * (now - began) / (done - first)
        return f"reference {done:,}/{total:,} rows · {clock(left)} left"

    def _now(self, text: str, tenth: tuple[bool, int]) -> None:
        self._text, now = text, time.monotonic()
        if self._live is None and (tenth != self._tenth or now - self._printed >= LINE_EVERY):
            self._tenth, self._printed = tenth, now
            show([self._line()])

    def _line(self) -> Text:
        line = f"  {clock(time.monotonic() - self._began)}  {self._text}"
        return Text(line, style="cyan" if self._live else "", no_wrap=True, overflow="ellipsis")


def step(metrics: Mapping[str, Any]) -> str:
    """One step of a training, as a line of metrics.jsonl has it."""
    return " · ".join(
        [
            f"step {metrics['step']:,}/{metrics['steps']:,}",
            f"{clock(metrics['eta_seconds'])} left",  # not at the end, which a narrow terminal cuts off
            f"loss {metrics['loss']:.4g}",
            *_measures(metrics),
            f"{metrics['tokens_per_second']:,.0f} tokens/s",
            f"{metrics['memory_gb']:.1f} GB",
        ]
    )


def evaluation(metrics: Mapping[str, Any]) -> str:
    """What the held-out rows gave after a step."""
    when = "before the first step" if metrics["step"] == 0 else f"after step {metrics['step']:,}"
    parts = [f"loss {metrics['eval_loss']:.4g}", *_measures(metrics, "eval_")]
    return f"held-out rows {when}: {', '.join(parts)}"


def _measures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, words, form in MEASURES:
        value = metrics.get(prefix + name)
        if isinstance(value, int | float) and math.isfinite(value):
            yield f"{words} {form.format(value)}"


def summary(done: TrainSummary) -> Iterator[str]:
    """What a training came to, and what to type next."""
    yield from done.lines()
    folder = shlex.quote(str(done.folder))
    method = METHODS[done.method]
    if method.scores:
        yield f"next: cai judge bench --judge reward:{folder} --gold FILE"
        return
    yield f"next: cai chat {folder}"
    if method.following:
        yield f"next: {method.following.format(folder=folder)}"
    if (done.folder / "adapter_config.json").exists():
        yield f"next: cai merge {folder} --out FOLDER"
