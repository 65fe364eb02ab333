"""Draws a training from its metrics.jsonl: the loss, and how far chosen replies stand above rejected ones.

Names of metrics are TRL's; evaluations have `eval_` before them. Needs matplotlib (extra `plot`). Knows lines of
metrics and where images go; nothing of trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from cai.errors import MissingExtra
from cai.folder.files import write_atomically
from cai.texts.figures import AFTER, BEFORE, GREY, new_figure, png_of

LOSS, MARGINS = "loss.png", "margins.png"
# Share of the steps that a curve is the mean over, where it has more than FEW: a batch of a few rows is noise.
SMOOTHED, FEW = 0.05, 40

Lines = Sequence[Mapping[str, Any]]


class _Curve(NamedTuple):
    metric: str
    label: str
    colour: str
    mark: str  # of its evaluations


REWARDS = (
    _Curve("rewards/margins", "margin", AFTER, "s"),
    _Curve("rewards/chosen", "chosen", "#6a994e", "^"),
    _Curve("rewards/rejected", "rejected", BEFORE, "v"),
)
MARGIN = (_Curve("margin", "margin", AFTER, "s"),)  # of a reward model
ACCURACIES = (
    _Curve("rewards/accuracies", "accuracy", AFTER, "s"),
    _Curve("accuracy", "accuracy", AFTER, "s"),
)


def write_plots(folder: Path, lines: Lines) -> list[str]:
    """Draw into the folder what the lines of its metrics.jsonl hold; returns the names of the images.

    Raises MissingExtra without matplotlib, RunError where the folder cannot be written.
    """
    drawn = {LOSS: loss_figure(lines), MARGINS: margins_figure(lines)}
    made = {name: png_of(figure) for name, figure in drawn.items() if figure is not None}
    for name, image in made.items():
        write_atomically(folder / name, image)
    return list(made)


def loss_figure(lines: Lines) -> Any:
    """The loss of each step and of each evaluation, as a matplotlib Figure; None: no line has a loss."""
    if not _points(lines, "loss") and not _points(lines, "eval_loss"):
        return None
    figure, (axes,) = _canvas(1, "Loss")
    _draw(axes, lines, [_Curve("loss", "loss", AFTER, "s")])
    axes.set_ylabel("loss")
    return figure


def margins_figure(lines: Lines) -> Any:
    """Rewards and the margin between them, and below the share of pairs that chosen wins; None: there are none.

    Of DPO and KTO the rewards are beta times the gain in log probability over the reference; KTO has no pairs to share.
    """
    rewards = [curve for curve in (*REWARDS, *MARGIN) if _known(lines, curve)]
    shares = [curve for curve in ACCURACIES if _known(lines, curve)]
    if not rewards:
        return None
    grid = {"height_ratios": (3, 2)} if shares else {}
    figure, (top, *below) = _canvas(1 + bool(shares), "Chosen and rejected replies", **grid)
    _draw(top, lines, rewards)
    top.axhline(0, color=GREY, linewidth=1)
    top.set_ylabel("reward")
    for axes in below:
        _draw(axes, lines, shares)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
        axes.set(ylabel="pairs that chosen wins", ylim=(-0.03, 1.03))
    return figure


def _known(lines: Lines, curve: _Curve) -> bool:
    return bool(_points(lines, curve.metric) or _points(lines, f"eval_{curve.metric}"))


def _points(lines: Lines, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, where it is a number: JSON has null for one that is none."""
    return [(line["step"], line[metric]) for line in lines if line.get(metric) is not None]


def _draw(axes: Any, lines: Lines, curves: Sequence[_Curve]) -> None:
    """Each curve as it was measured; where steps are many that is thin, and the mean over the last ones is drawn."""
    for metric, label, colour, mark in curves:
        points, held = _points(lines, metric), _points(lines, f"eval_{metric}")
        window = max(1, round(SMOOTHED * len(points))) if len(points) > FEW else 1
        steps, values = [step for step, _ in points], [value for _, value in points]
        if window > 1:
            means = [fmean(values[end - window : end]) for end in range(window, len(values) + 1)]
            axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.35)
            axes.plot(steps[window - 1 :], means, color=colour, linewidth=1.5, label=f"{label}, mean of {window} steps")
        elif points:
            dot = "." if len(points) == 1 else None  # one point makes no line
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=dot, label=label)
        if held:
            axes.plot(
                *zip(*held, strict=True), color=colour, marker=mark, markersize=6, markeredgecolor="white",
                linewidth=1, linestyle=":", label=f"{label}, held out",
            )  # fmt: skip
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(curves))


def _canvas(rows: int, title: str, **grid: Any) -> tuple[Any, list[Any]]:
    try:
        figure, axes = new_figure(rows, **grid)
    except ImportError:
        raise MissingExtra("drawing the plots of a training", "plot") from None
    figure.suptitle(title)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure, axes
