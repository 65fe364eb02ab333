"""What an evaluation has to say: every figure as a dot on its interval, BASE first, with the difference to BASE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.disk.reading import read_object
from cai.errors import RunError
from cai.evaluation.arena.figures import FILE, Evaluation, Line, Result
from cai.records import Values
from cai.report.html.sections import (
    Cell,
    Fact,
    Part,
    Section,
    Table,
    columns,
    count,
    heading,
    name,
    paragraph,
    percent,
    title_of,
)
from cai.report.measures import WORDS, amount, bounds_table, interval, measure_tables, n_of
from cai.sources.yamlfile import first_fault

AGAIN = "run the same command of cai evaluate again"
MOST_FACTS = 8
MOST_COLUMNS = 8  # of a table of a suite's counts


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
    section = Section(title_of(folder), "evaluation", about=list(_about(evaluation)))
    section.warnings = list(map(paragraph, evaluation.warnings))
    if evaluation.stopped:
        section.warnings.append(paragraph(f"this evaluation is not finished: {evaluation.stopped}"))
    section.facts = list(_facts(evaluation))[:MOST_FACTS]
    section.notes = list(_notes(evaluation))
    base = next((each.name for each in evaluation.contestants if each.base), None)
    if evaluation.bounds:
        section.parts.append(Part("Bounds", tables=[bounds_table(evaluation.bounds)]))
    section.parts += [_part(result, base) for result in evaluation.results if result.skipped is None]
    skipped = [(result.suite, paragraph(result.skipped)) for result in evaluation.results if result.skipped is not None]
    if skipped:
        section.parts.append(Part("Not measured", tables=[Table("", columns("=suite | :why"), skipped)]))
    return section


def _facts(evaluation: Evaluation) -> Iterator[Fact]:
    """The first measure of every suite that is compared with BASE, of each model."""
    for result in evaluation.results:
        lines = [line for line in result.lines if line.difference is not None]
        yield from (_fact(line) for line in lines if line.measure == lines[0].measure)


def _fact(line: Line) -> Fact:
    figure, unit = line.figure, line.unit
    value = f"{amount(figure.value, unit)} {WORDS[unit]}".rstrip()
    basis = n_of(figure)
    if line.difference is not None and line.difference.value is not None:
        basis = f"{amount(line.difference.value, unit, signed=True)} against BASE, {basis}"
    return Fact(name(f"{line.measure}, {line.model}"), value, interval(figure, unit), basis)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """Against whom, on what, and who judged."""
    if evaluation.contestants:
        base = evaluation.contestants[0]
        yield paragraph(f"Against {base.name} ({base.spec}), on {evaluation.prompts}.")
    evaluator = evaluation.evaluator
    if evaluator is None:
        return
    how = [evaluator.protocol]
    if evaluator.protocol != "reward":  # which reads no constitution
        how.append(evaluator.constitution)
    words = f"Judged by {evaluator.spec} ({', '.join(how)})"
    accuracy = evaluator.accuracy
    if accuracy is None or accuracy.value is None:
        words += "; how often it agrees with people is not known"
    else:
        agrees = f"{percent(accuracy.value)} ({interval(accuracy, 'share')}, {n_of(accuracy)})"
        words += f"; it agrees with people in {agrees}" + (f", says {evaluator.source}" if evaluator.source else "")
    yield paragraph(f"{words}.")
    independent = {True: "independent", False: "not independent", None: "not known to be independent"}
    why = ""
    if evaluator.why:
        why = f": {evaluator.why}"
    yield paragraph(
        f"The evaluator is {independent[evaluator.independent]} of the labels that the models learnt from{why}."
    )


def _part(result: Result, base: str | None) -> Part:
    """One suite: a table for each of its measures."""
    part = Part(heading(result.title), list(map(paragraph, result.facts)), list(map(paragraph, result.warnings)))
    lines = [line for line in result.lines if line.figure.value is not None or line.note not in result.facts]
    part.tables += measure_tables(lines, base)
    part.tables += _details(result.details)
    return part


def _details(details: Values) -> Iterator[Table]:
    """Counts of a suite: numbers by name, and by what is under it."""
    for title, table in details.items():
        if not isinstance(table, dict) or not all(isinstance(value, dict) for value in table.values()):
            continue
        rows = {key: dict(_flat(value)) for key, value in table.items()}
        heads = list(dict.fromkeys(head for row in rows.values() for head in row))
        if not 0 < len(heads) <= MOST_COLUMNS:
            continue
        lines: list[list[Cell]] = [[name(key), *map(_number, map(row.get, heads))] for key, row in rows.items()]
        titles = " | ".join(name(head).replace("|", "/").lstrip("=:*") for head in heads)
        yield Table(heading(title.replace("_", " ")), columns(f"= | {titles}"), lines)


def _flat(value: Values, above: str = "") -> Iterator[tuple[str, float]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{above}{key}: ")
        elif isinstance(inner, int | float):
            yield f"{above}{str(key).replace('_', ' ')}", inner


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else count(value)


def _about(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    for each in evaluation.contestants:
        yield "BASE" if each.base else "model", paragraph(f"{each.name}: {each.spec}")
        for key, value in (each.trained or {}).items():
            if isinstance(value, str | int | float):
                yield "", paragraph(f"{key}: {value}")
    facts = evaluation.model_dump(include={"prompts", "seed", "command", "created", "cost_usd"})
    for key, value in {**facts, **evaluation.usage, **evaluation.versions}.items():
        if value is not None:
            yield key.replace("_", " "), paragraph(value)
