"""Pictures as inline SVG: dots with intervals, bars, curves; each has a title to point at, and none needs a script.

Those in a table are as wide as their column, so their places are percentages; curves have axes of their own. Colours
are classes of view.css.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from cai.judge.metrics import wilson
from cai.report.html.marks import visible
from cai.report.html.sections import Cell, Ends, count, minus, percent, percents

WIDE, HIGH = 360, 230  # units of a curve's picture, which are pixels unless the screen is narrower
LEFT, RIGHT, TOP, BELOW = 54, 20, 12, 38  # around its axes
KEY = 17  # of a line of its legend
TRACK = 22  # pixels: the height of a picture in a table
SAME = 1e-9  # of the larger of two numbers: a difference that is none
TINY = 1e-8  # what is smaller is nothing beside other figures
MOST_LABELS = 16  # characters of the labels over a column
MOST_POINTS = 400  # of a curve: more than its pixels

Form = Callable[[float], str]


def percentage(value: float) -> str:
    """The label of a share at an axis."""
    return f"{100 * value:.10g}%"


def plain(value: float) -> str:
    """The label of a number at an axis."""
    return minus(f"{value:,.10g}")


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from low to high."""

    low: float
    high: float
    ticks: tuple[float, ...]
    form: Form = percentage

    def at(self, value: float) -> float:
        """Where a value is, from 0 to 1; what is outside is at the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale_of(values: Iterable[float], form: Form = percentage, *, least: float = 0.0) -> Scale:
    """A scale that holds the values, from tick to tick; least: how much it spans, so that noise does not look big."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    span = high - low
    size = max(abs(low), abs(high))
    if span <= max(TINY, SAME * size):  # all alike but for their last digits
        span = 0.0
        least = least or (size / 5 if size > TINY else 1.0)
    room = max(least - span, 0.0) / 2
    low, high = low - room, high + room
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (times * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks, form)


SHARES = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
SURE = Scale(0.5, 1.0, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))  # of confidences


def _of_track(inside: Iterable[Markup], title: str) -> Markup:
    svg = Markup('<svg class="track" height="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>')
    text = visible(title)
    return svg.format(TRACK, text, text, Markup("").join(inside))


def axis(scale: Scale, most: int = MOST_LABELS) -> Markup:
    """The labels over a column of pictures: of every second tick, 0 included, if all have more than `most` letters."""
    labels = [(100 * scale.at(tick), scale.form(tick)) for tick in scale.ticks]
    if sum(len(label) for _, label in labels) > most:
        labels = labels[scale.ticks.index(0.0) % 2 if 0.0 in scale.ticks else 0 :: 2]
    text = Markup('<text class="tick" x="{:.2f}%" y="12" text-anchor="middle">{}</text>')
    inside = Markup("").join(text.format(*label) for label in labels)
    return Markup('<svg class="track axis" height="16" aria-hidden="true">{}</svg>').format(inside)


def _grid(scale: Scale, mark: float | None) -> Iterable[Markup]:
    line = Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="0" y2="{}"/>')
    for tick in scale.ticks:
        place = 100 * scale.at(tick)
        yield line.format("grid", place, place, TRACK)
    if mark is not None:
        place = 100 * scale.at(mark)
        yield line.format("mark", place, place, TRACK)


def dot(
    scale: Scale,
    value: float | None,
    ends: Ends,
    title: str,
    *,
    mark: float | None = None,
    base: bool = False,
) -> Markup:
    """A value as a dot on its interval; mark: a value to compare with, such as BASE's; base: it is that one."""
    inside = list(_grid(scale, mark))
    kind = "base" if base else "own"
    middle = TRACK / 2
    if ends is not None:
        low, high = (100 * scale.at(end) for end in ends)
        line = Markup('<line class="interval {}" x1="{:.2f}%" x2="{:.2f}%" y1="{}" y2="{}"/>')
        inside.append(line.format(kind, low, high, middle, middle))
    if value is not None:
        circle = Markup('<circle class="dot {}" cx="{:.2f}%" cy="{}" r="4.5"/>')
        inside.append(circle.format(kind, 100 * scale.at(value), middle))
    return _of_track(inside, title)


def share_cells(
    who: str, share: float, ends: Ends, n: int, *, mark: float | None = None, base: bool = False
) -> list[Cell]:
    """The cells of a share of n: the dot on its interval, the number, the interval, and n."""
    title = f"{who}: {percent(share)}, 95 % interval {percents(ends)}, n = {count(n)}"
    return [dot(SHARES, share, ends, title, mark=mark, base=base), percent(share), percents(ends), count(n)]


def part_cells(who: str, part: float, whole: int) -> list[Cell]:
    """The same cells of a part and its whole (Wilson, 95 %); dashes if there is no whole."""
    if not whole:
        return ["", "–", "–", "0"]
    return share_cells(who, part / whole, wilson(part, whole), whole)


def bar(value: float, most: float, title: str) -> Markup:
    """A value as a bar; most: the value as wide as the column."""
    width = 0.0
    if most:
        width = 100 * value / most
    rect = Markup('<rect class="bar" x="0" y="4" width="{:.2f}%" height="{}" rx="2"/>')
    return _of_track([rect.format(width, TRACK - 8)], title)


class Curve(NamedTuple):
    """Points in the order of x; style: a class of view.css. dots: mark each point, whose weight is its area."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "own"
    dots: Sequence[str] = ()  # their titles


def curves(title: str, lines: Sequence[Curve], x: Scale, y: Scale, names: tuple[str, str]) -> Markup:
    """Curves over two axes, with a legend if there are several. names: of the axes."""
    inside = [*_axes(x, y, names)]
    for line in lines:
        inside += _curve(line, x, y)
    keys = [line for line in lines if line.name]
    if len(keys) > 1:
        inside += _legend(keys)
    text = visible(title)
    svg = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDE, HIGH + KEY * len(keys) * (len(keys) > 1), text, Markup("").join(inside))


def _places(x: Scale, y: Scale, point: tuple[float, float]) -> tuple[float, float]:
    across = LEFT + x.at(point[0]) * (WIDE - LEFT - RIGHT)
    down = TOP + (1 - y.at(point[1])) * (HIGH - TOP - BELOW)
    return across, down


def _axes(x: Scale, y: Scale, names: tuple[str, str]) -> Iterable[Markup]:
    line = Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    bottom = HIGH - BELOW
    for tick in x.ticks:
        across, _ = _places(x, y, (tick, y.low))
        yield line.format(across, TOP, across, bottom)
        yield text.format(across, bottom + 15, "middle", x.form(tick))
    for tick in y.ticks:
        _, down = _places(x, y, (x.low, tick))
        yield line.format(LEFT, down, WIDE - RIGHT, down)
        yield text.format(LEFT - 6, down + 4, "end", y.form(tick))
    yield Markup('<text class="name" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
        (LEFT + WIDE - RIGHT) / 2, HIGH - 5, names[0]
    )
    yield Markup(
        '<text class="name" transform="translate(10 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format((TOP + bottom) / 2, names[1])


def _curve(line: Curve, x: Scale, y: Scale) -> Iterable[Markup]:
    points = thinned(line.points)
    places = [_places(x, y, point) for point in points]
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
    if len(places) > 1:
        shape = Markup('<polyline class="curve {}" points="{}"><title>{}</title></polyline>')
        yield shape.format(line.style, path, visible(line.name))
    circle = Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>')
    titles = line.dots or ([line.name] if len(places) == 1 else [])
    for (across, down), title in zip(places, titles, strict=False):
        yield circle.format(line.style, across, down, visible(title))


def _legend(lines: Sequence[Curve]) -> Iterable[Markup]:
    shape = Markup('<line class="curve {}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="tick" x="{}" y="{}">{}</text>')
    for number, line in enumerate(lines):
        down = HIGH + KEY * number + 8
        yield shape.format(line.style, LEFT, LEFT + 22, down, down)
        yield text.format(LEFT + 28, down + 4, visible(line.name))


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Sequence[tuple[float, float]]:
    """At most so many points: the first, the last, and as many between at equal distances."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(number * step)] for number in range(most)]
