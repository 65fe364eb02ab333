"""Tables of figures: each measure of every model beside BASE, the bounds of `--fail-on`, and numbers in their units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cai.evaluation.arena.figures import Bound, Figure, Line, Unit
from cai.evaluation.suites.verdicts import WIN_RATE
from cai.report.html import charts
from cai.report.html.charts import SHARES, Scale
from cai.report.html.sections import (
    Cell,
    Ends,
    Table,
    columns,
    count,
    ends_of,
    heading,
    minus,
    name,
    paragraph,
    percents,
)

LESS = " less that of "  # in a measure that is a difference between two models
NARROW = 12  # characters of the labels over a column, if there are two pictures
EVEN = 0.5  # the win rate of a model against its like
DIGITS: dict[Unit, str] = {"share": ".1%", "number": ",.3f", "bits": ".3f", "elo": ",.0f"}
WORDS: dict[Unit, str] = {"share": "", "number": "", "bits": "bits", "elo": "Elo"}
POINTS: dict[Unit, str] = {"share": ", points", "number": "", "bits": "", "elo": ""}  # of differences
OF_BASE = " (BASE)"
DIFFERENCE = 0.1  # of shares: what a scale of differences spans at least


def measure_tables(lines: Sequence[Line], base: str | None) -> Iterator[Table]:
    """All measures of a suite: those that are shares together, each other one in a table of its own."""
    measures: dict[str, list[Line]] = {}
    for line in lines:
        measures.setdefault(line.measure, []).append(line)
    together: dict[str, list[Line]] = {}
    for measure, own in measures.items():
        if own[0].unit == "share" and not _is_difference(own):
            together[measure] = own
            continue
        if together:
            yield measure_table(together, base)
            together = {}
        yield measure_table({measure: own}, base)
    if together:
        yield measure_table(together, base)


def _is_difference(lines: Sequence[Line]) -> bool:
    """Whether the figures themselves are differences between two models."""
    below = any(line.unit == "share" and (line.figure.value or 0.0) < 0 for line in lines)
    return below or LESS in lines[0].measure


def measure_table(measures: Mapping[str, list[Line]], base: str | None) -> Table:
    """Measures of every model on one scale, BASE first."""
    every = [line for lines in measures.values() for line in lines]
    unit, signed = every[0].unit, _is_difference(every)
    scale = _scale(_numbers(line.figure for line in every), unit, signed)
    changes = _numbers(line.difference for line in every)
    shift = change_scale(changes, unit)
    cells: list[list[Cell]] = []
    notes = []
    for measure, lines in measures.items():
        if len(measures) > 1:
            cells.append([heading(measure)])
        lines.sort(key=lambda line: line.model != base)  # BASE is the first; the others stay in their order
        mark = _mark(measure, lines, base, signed)
        for line in lines:
            who = line.model
            if who == base:
                who += OF_BASE
            row = [name(who), *_cells(who, line.figure, unit, scale, mark, signed), count(line.figure.n)]
            if changes:
                row += _cells(who, line.difference, unit, shift, 0.0, True)
            cells.append(row)
            if line.note:
                notes.append(paragraph(f"{', '.join([measure, line.model][len(measures) == 1 :])}: {line.note}"))
    heads, axes = "=model | * | value | 95 % interval | n", [charts.axis(scale, NARROW)]
    if changes:
        heads += f" | * | against BASE{POINTS[unit]} | 95 % interval"
        axes.append(charts.axis(shift, NARROW))
    return Table(_title(list(measures), unit, signed), columns(heads, *axes), cells, notes)


def _scale(values: Sequence[float], unit: Unit, signed: bool) -> Scale:
    if signed:
        return change_scale(values, unit)
    if unit == "share":
        return SHARES
    return charts.scale_of(values, charts.plain)


def _mark(measure: str, lines: Sequence[Line], base: str | None, signed: bool) -> float | None:
    """What the models are compared with."""
    if signed:
        return 0.0
    if measure == WIN_RATE:
        return EVEN
    return next((line.figure.value for line in lines if line.model == base), None)


def _title(measures: Sequence[str], unit: Unit, signed: bool) -> str:
    """The one measure with its unit; several have headings of their own."""
    if len(measures) > 1:
        return ""
    title = measures[0]
    if signed:
        title += POINTS[unit]
    if WORDS[unit].lower() not in title.lower():
        title += f", {WORDS[unit]}"
    return heading(title)


def _cells(who: str, figure: Figure | None, unit: Unit, scale: Scale, mark: float | None, signed: bool) -> list[Cell]:
    """The dot on its interval, the number and the interval; dashes for what is not known."""
    if figure is None or figure.value is None:
        return ["", "–", "–"]
    value = amount(figure.value, unit, signed=signed)
    ends = interval(figure, unit, signed=signed)
    title = f"{who}: {value}, 95 % interval {ends}, {n_of(figure)}"
    base = who.endswith(OF_BASE)
    return [charts.dot(scale, figure.value, bounds_of(figure), title, mark=mark, base=base), value, ends]


def bounds_table(bounds: Sequence[Bound]) -> Table:
    """The limits of --fail-on."""
    values = _numbers(bound.figure for bound in bounds)
    scale = change_scale([*values, *(bound.bound for bound in bounds)], "share")
    lines = []
    notes = ["The dashed line is the bound. Broken: the whole interval is beyond it."]
    for bound in bounds:
        what = f"{bound.measure} of {bound.model}".removesuffix(" of ")
        cells = _cells(what, bound.figure, "share", scale, bound.bound, True)
        lines.append([name(what), amount(bound.bound, "share", signed=True), *cells, bound.verdict])
        if bound.more:
            more = f"about {count(bound.more)} more prompts would decide, if the difference stays as it is"
            notes.append(paragraph(f"{what}: {more}."))
    heads = "=measure | bound, points | * | difference, points | 95 % interval | :verdict"
    return Table("", columns(heads, charts.axis(scale)), lines, notes)


def n_of(figure: Figure) -> str:
    """What a figure rests on."""
    return f"n = {count(figure.n)}"


def amount(value: float | None, unit: Unit, *, signed: bool = False) -> str:
    """A number in its unit; a difference of shares is in points, which are hundredths."""
    if value is None:
        return "–"
    if signed and unit == "share":
        return minus(f"{100 * value:+.1f}")
    sign = "+" * signed
    return minus(f"{value:{sign}{DIGITS[unit]}}")


def interval(figure: Figure, unit: Unit, *, signed: bool = False) -> str:
    """The interval of a figure."""
    ends = bounds_of(figure)
    if ends is None:
        return "–"
    if unit == "share" and not signed:
        return percents(ends)
    return " to ".join(amount(end, unit, signed=signed) for end in ends)


def bounds_of(figure: Figure) -> Ends:
    """Both ends of an interval."""
    return ends_of(figure.low, figure.high)


def _numbers(figures: Iterable[Figure | None]) -> list[float]:
    """All numbers of some figures."""
    known = [figure for figure in figures if figure is not None]
    return [end for figure in known for end in (figure.value, figure.low, figure.high) if end is not None]


def change_scale(values: Sequence[float], unit: Unit) -> Scale:
    """A scale of differences, with no difference on it."""
    if unit == "share":
        return charts.scale_of([0.0, *values], lambda value: _signed(100 * value), least=DIFFERENCE)
    return charts.scale_of([0.0, *values], _signed)


def _signed(value: float) -> str:
    return minus(f"{value:+,.10g}") if value else "0"
