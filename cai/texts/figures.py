"""Plots: an empty figure, and its PNG."""

from __future__ import annotations

import io
from typing import Any

BEFORE, AFTER, GREY = "#b5532d", "#22577a", "#8a8a8a"  # apart in lightness too: for print and for colour-blind eyes


def new_figure(rows: int, **grid: Any) -> tuple[Any, list[Any]]:
    """A figure of `rows` plots over one axis, and these; grid: ratios of their heights."""
    # Not pyplot: it keeps every figure, and picks a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw=grid)[:, 0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e6e6e6", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, list(axes)


def png_of(figure: Any) -> bytes:
    """The bytes of the figure as PNG: equal for equal figures."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
