"""What an evaluation has to say: every figure as a dot on its interval, BASE first, with the difference to BASE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import RunError
from cai.evaluation.arena.figures import FILE, Bound, Evaluation, Figure, Line, Result, Unit
from cai.evaluation.suites.verdicts import WIN_RATE
from cai.folder.files import read_object
from cai.records import Values
from cai.report.html import charts
from cai.report.html.charts import SHARES, Scale, scale_of
from cai.report.html.sections import (
    Cell,
    Column,
    Fact,
    Part,
    Section,
    Table,
    count,
    minus,
    name,
    paragraph,
    percent,
    percents,
)
from cai.sources.yamlfile import first_fault

AGAIN = "run the same command of cai evaluate again"
EVEN = 0.5  # the win rate of a model against its like
MOST_FACTS = 8
MOST_COLUMNS = 8  # of a table of a suite's counts
DIGITS: dict[Unit, str] = {"share": ".1%", "number": ",.3f", "bits": ".3f", "elo": ",.0f"}
WORDS: dict[Unit, str] = {"share": "", "number": "", "bits": "bits", "elo": "Elo"}


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in a folder; raises RunError."""
    path = folder / FILE
    content = read_object(path, AGAIN, orjson.loads)
    match content:
        case {"schema": int(schema)} if schema > 1:
            raise RunError(f"{path} was made by a newer cai (schema {schema}, this one reads 1): upgrade cai-toolkit")
    try:
        return Evaluation.model_validate_json(orjson.dumps(content))
    except ValidationError as error:
        raise RunError(f"{path} is not an evaluation, or damaged ({first_fault(error)}); {AGAIN}") from None


def evaluation_section(folder: Path) -> Section:
    """Of an evaluation."""
    evaluation = read_evaluation(folder)
    section = Section(name(folder), "evaluation", about=list(_about(evaluation)))
    section.warnings = list(map(paragraph, evaluation.warnings))
    if evaluation.stopped:
        section.warnings.append(paragraph(f"this evaluation is not finished: {evaluation.stopped}"))
    section.facts = list(_facts(evaluation))
    section.notes = list(_notes(evaluation))
    base = next((each.name for each in evaluation.contestants if each.base), None)
    if evaluation.bounds:
        section.parts.append(Part("Bounds", tables=[_bounds(evaluation.bounds)]))
    section.parts += [_part(result, base) for result in evaluation.results if result.skipped is None]
    skipped = [(result.suite, paragraph(result.skipped)) for result in evaluation.results if result.skipped is not None]
    if skipped:
        columns = [Column("suite", "name"), Column("why", "text")]
        section.parts.append(Part("Not measured", tables=[Table("", columns, skipped)]))
    return section


def _facts(evaluation: Evaluation) -> Iterator[Fact]:
    """The first figure of every suite, for each model but BASE."""
    facts = []
    for result in evaluation.results:
        measures = [line.measure for line in result.lines if line.difference is not None]
        first = [line for line in result.lines if line.difference is not None and line.measure == measures[0]]
        facts += [_fact(line) for line in first]
    yield from facts[:MOST_FACTS]


def _fact(line: Line) -> Fact:
    figure, unit = line.figure, line.unit
    value = f"{amount(figure.value, unit)} {WORDS[unit]}".rstrip()
    basis = _n(figure)
    if line.difference is not None and line.difference.value is not None:
        basis = f"{amount(line.difference.value, unit, signed=True)} against BASE, {basis}"
    return Fact(name(f"{line.measure}, {line.model}"), value, interval(figure, unit), basis)


def _n(figure: Figure) -> str:
    return f"n = {count(figure.n)}"


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """Against whom, on what, and who judged."""
    if evaluation.contestants:
        base = evaluation.contestants[0]
        yield paragraph(f"Against {base.name} ({base.spec}), on {evaluation.prompts}.")
    evaluator = evaluation.evaluator
    if evaluator is None:
        return
    words = f"Judged by {evaluator.spec} ({evaluator.protocol}, {evaluator.constitution})"
    accuracy = evaluator.accuracy
    if accuracy is None or accuracy.value is None:
        words += "; how often it agrees with people is not known"
    else:
        agrees = f"{percent(accuracy.value)} ({interval(accuracy, 'share')}, {_n(accuracy)})"
        words += f"; it agrees with people in {agrees}" + (f", says {evaluator.source}" if evaluator.source else "")
    yield paragraph(f"{words}.")
    independent = {True: "independent", False: "not independent", None: "not known to be independent"}
    why = f": {evaluator.why}" if evaluator.why else ""
    yield paragraph(
        f"The evaluator is {independent[evaluator.independent]} of the labels that the models learnt from{why}."
    )


def _part(result: Result, base: str | None) -> Part:
    """One suite: a table for each of its measures."""
    part = Part(heading(result.title), list(map(paragraph, result.facts)), list(map(paragraph, result.warnings)))
    for measure in dict.fromkeys(line.measure for line in result.lines):
        lines = [line for line in result.lines if line.measure == measure]
        lines.sort(key=lambda line: line.model != base)  # BASE is the first; the others stay in their order
        part.tables.append(_measure(measure, lines, base))
    part.tables += _details(result.details)
    return part


def _measure(measure: str, lines: Sequence[Line], base: str | None) -> Table:
    """One measure of every model."""
    unit = lines[0].unit
    scale = SHARES if unit == "share" else scale_of(_ends(line.figure for line in lines), charts.plain)
    of_base = next((line.figure.value for line in lines if line.model == base), None)
    if measure == WIN_RATE:
        of_base = EVEN
    changes = [line.difference for line in lines if line.difference is not None and line.difference.value is not None]
    title = f"{measure}, {WORDS[unit]}" if WORDS[unit] else measure
    columns = [Column("model", "name"), Column(charts.axis(scale), "picture"), Column("value"),
               Column("95 % interval"), Column("n")]  # fmt: skip
    shift = None
    if changes:
        shift = change_scale(_ends(changes), unit)
        against = "against BASE, points" if unit == "share" else "against BASE"
        columns += [Column(charts.axis(shift), "picture"), Column(against), Column("95 % interval")]
    cells = [[*_own(line, scale, of_base, base), *_change(line, shift)] for line in lines]
    notes = [paragraph(f"{line.model}: {line.note}") for line in lines if line.note]
    return Table(heading(title), columns, cells, notes)


def _own(line: Line, scale: Scale, of_base: float | None, base: str | None) -> Iterator[Cell]:
    figure, unit = line.figure, line.unit
    is_base = line.model == base
    yield name(f"{line.model} (BASE)" if is_base else line.model)
    title = f"{line.model}: {amount(figure.value, unit)}, 95 % interval {interval(figure, unit)}, {_n(figure)}"
    yield charts.dot(scale, figure.value, bounds_of(figure), title, mark=of_base, base=is_base)
    yield amount(figure.value, unit)
    yield interval(figure, unit)
    yield count(figure.n)


def _change(line: Line, scale: Scale | None) -> Iterator[Cell]:
    if scale is None:
        return
    change, unit = line.difference, line.unit
    if change is None or change.value is None:
        yield from ("", "–", "–")
        return
    title = (
        f"{line.model} against BASE: {amount(change.value, unit, signed=True)}, {interval(change, unit, signed=True)}"
    )
    yield charts.dot(scale, change.value, bounds_of(change), f"{title}, {_n(change)}", mark=0)
    yield amount(change.value, unit, signed=True)
    yield interval(change, unit, signed=True)


def _bounds(bounds: Sequence[Bound]) -> Table:
    """The limits of --fail-on."""
    figures = [bound.figure for bound in bounds if bound.figure is not None]
    scale = change_scale([*_ends(figures), *(bound.bound for bound in bounds)], "share")
    columns = [Column("measure", "name"), Column("bound, points"), Column(charts.axis(scale), "picture"),
               Column("difference, points"), Column("95 % interval"), Column("verdict", "text")]  # fmt: skip
    lines: list[Sequence[Cell]] = []
    notes = ["The dashed line is the bound. Broken: the whole interval is beyond it."]
    for bound in bounds:
        dot: Cell = ""
        what = f"{bound.measure} of {bound.model}" if bound.model else bound.measure
        limit = amount(bound.bound, "share", signed=True)
        figure = bound.figure or Figure(value=None, n=0)
        if figure.value is not None:
            dot = charts.dot(scale, figure.value, bounds_of(figure), f"{what}: bound {limit}", mark=bound.bound)
        if bound.more:
            more = f"about {count(bound.more)} more prompts would decide, if the difference stays as it is"
            notes.append(paragraph(f"{what}: {more}."))
        difference = amount(figure.value, "share", signed=True), interval(figure, "share", signed=True)
        lines.append([name(what), limit, dot, *difference, bound.verdict])
    return Table("", columns, lines, notes)


def _details(details: Values) -> Iterator[Table]:
    """Counts of a suite: what is a number by name, or by two or three."""
    for title, table in details.items():
        if not isinstance(table, dict):
            continue
        rows = {key: dict(_flat(value)) for key, value in table.items() if isinstance(value, dict)}
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        if heads and len(heads) <= MOST_COLUMNS:
            lines = [(name(key), *(_number(row.get(head)) for head in heads)) for key, row in rows.items()]
            columns = [Column("", "name"), *(Column(name(head)) for head in heads)]
            yield Table(heading(title.replace("_", " ")), columns, lines)


def _flat(value: Values, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{above}{key}: ")
        elif isinstance(inner, int | float | None):
            yield f"{above}{str(key).replace('_', ' ')}", inner


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return count(value) if isinstance(value, int) else f"{value:,.4g}"


def heading(text: str) -> str:
    """A name as a heading."""
    return name(text[:1].upper() + text[1:])


# Numbers


def amount(value: float | None, unit: Unit, *, signed: bool = False) -> str:
    """A number in its unit; a difference of shares is in points, which are hundredths."""
    if value is None:
        return "–"
    if signed and unit == "share":
        return minus(f"{100 * value:+.1f}")
    sign = "+" if signed else ""
    return minus(f"{value:{sign}{DIGITS[unit]}}")


def interval(figure: Figure, unit: Unit, *, signed: bool = False) -> str:
    """The interval of a figure."""
    ends = bounds_of(figure)
    if ends is None:
        return "–"
    if unit == "share" and not signed:
        return percents(ends)
    return " to ".join(amount(end, unit, signed=signed) for end in ends)


def bounds_of(figure: Figure) -> tuple[float, float] | None:
    """Both ends of an interval."""
    return None if figure.low is None or figure.high is None else (figure.low, figure.high)


def _ends(figures: Any) -> list[float]:
    """All numbers of some figures."""
    return [end for figure in figures for end in (figure.value, figure.low, figure.high) if end is not None]


def change_scale(values: Sequence[float], unit: Unit) -> Scale:
    """A scale of differences, with no difference on it."""

    def label(value: float) -> str:
        text = minus(f"{100 * value if unit == 'share' else value:+.10g}")
        return text if value else "0"

    return scale_of([0.0, *values], label, least=0.1 if unit == "share" else 0.0)


def _about(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    for each in evaluation.contestants:
        yield "BASE" if each.base else "model", paragraph(f"{each.name}: {each.spec}")
        for key, value in (each.trained or {}).items():
            if isinstance(value, str | int | float) and value != "":
                yield "", paragraph(f"{key}: {value}")
    if evaluation.evaluator is not None:
        yield "evaluator", paragraph(evaluation.evaluator.spec)
    yield "prompts", paragraph(evaluation.prompts)
    yield "seed", str(evaluation.seed)
    if calls := evaluation.usage.get("calls"):
        yield "calls", f"{calls:,}"
    if evaluation.cost_usd is not None:
        yield "cost", f"${evaluation.cost_usd:,.4f}"
    if evaluation.command:
        yield "command", paragraph(evaluation.command)
    if evaluation.versions:
        yield "versions", paragraph(", ".join(f"{key} {value}" for key, value in evaluation.versions.items()))
    if evaluation.created:
        yield "made", name(evaluation.created)
