"""The plots of a calibration, as PNG images in memory; needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cai.errors import MissingExtra
from cai.judge.certify import Threshold
from cai.judge.metrics import reliability, risk_coverage
from cai.texts.wording import AFTER, BEFORE, GREY, new_figure, png_of


def check_plots() -> None:
    """Raise MissingExtra if images cannot be drawn."""
    try:
        import matplotlib.backends.backend_agg  # noqa: F401
    except ImportError:
        raise MissingExtra("drawing the plots (or use --no-plots)", "plot") from None


def plot_reliability(before: Sequence[float], after: Sequence[float], truths: Sequence[float]) -> bytes:
    """Accuracy against confidence before and after the temperature, and below it how many pairs are in each bin."""
    figure, (top, below) = new_figure(2, height_ratios=(3, 1))
    top.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, linestyle="--", label="confidence = accuracy")
    for ps, name, colour, mark, shift in (
        (before, "before", BEFORE, "o", 0.0),
        (after, "after temperature", AFTER, "s", 0.022),
    ):
        places, counts, confidences, accuracies = zip(*reliability(ps, truths), strict=True)
        top.plot(confidences, accuracies, color=colour, marker=mark, markersize=5, linewidth=1.5, label=name)
        lefts = [0.503 + place * 0.05 + shift for place in places]
        bars = below.bar(lefts, counts, width=0.022, align="edge", color=colour)
        below.bar_label(bars, labels=counts, fontsize=6)
    below.margins(y=0.2)
    below.set(xlabel="confidence", ylabel="pairs")
    top.set(ylabel="agreement with people", title=f"Reliability on {len(truths):,} pairs", xlim=(0.49, 1.01))
    top.legend(fontsize=8, frameon=False)
    return png_of(figure)


def plot_risk_coverage(
    ps: Sequence[float],
    truths: Sequence[float],
    baselines: Mapping[str, float],
    thresholds: Mapping[str, Threshold | None],
) -> bytes:
    """Accuracy against the share of labels kept; the trivial judges as lines, certified thresholds as marks.

    baselines: name → accuracy; thresholds: by their target.
    """
    figure, (axes,) = new_figure(1)
    _, shares, accuracies = zip(*risk_coverage(ps, truths), strict=True)
    axes.plot(shares, accuracies, color=AFTER, linewidth=1.5, label="judge")
    for (name, right), style in zip(baselines.items(), ("--", ":", "-.", (0, (1, 4))), strict=False):
        axes.axhline(right, color=GREY, linewidth=1, linestyle=style, label=f"{name}, {right:.1%}")
    certified = sorted(filter(None, thresholds.values()), key=lambda at: at.target)
    strongest = {at.n: at for at in certified}  # of one point that keeps several promises
    for at in strongest.values():
        right = 1 - at.errors / at.n
        axes.plot(at.coverage, right, color=BEFORE, marker="v", markersize=7, linestyle="none")
        text = f"{at.target:.4g} certified\nfrom {at.confidence:.5g}"
        axes.annotate(text, (at.coverage, right), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=7)
    axes.margins(y=0.12)
    axes.set(xlabel="share of labels kept, surest first", ylabel="agreement with people", xlim=(0, 1.06))
    axes.set_title(f"Risk and coverage on {len(truths):,} pairs")
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="lower left")
    return png_of(figure)
