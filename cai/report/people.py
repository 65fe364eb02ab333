"""A judge beside people: how often they agree, calibration, risk and coverage, and thresholds that are certified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.errors import InputError
from cai.judge.calibration import CalibrationReport, calibrate_judge
from cai.judge.certify import Binding, Calibration
from cai.judge.majority import People
from cai.judge.metrics import BINS, Metrics, reliability, risk_coverage, wilson
from cai.judge.trivial import TRIVIAL
from cai.judge.votes import without_votes
from cai.records import Label
from cai.report.annotators import COLUMN, annotator_tables, read_verdicts
from cai.report.html import charts
from cai.report.html.charts import SHARES, SURE, Curve
from cai.report.html.sections import (
    Cell,
    Fact,
    Section,
    Table,
    columns,
    count,
    decimal,
    paragraph,
    percent,
    percents,
    title_of,
)
from cai.sources.files import read_records

MOST_DOTS = 60  # of a curve that have titles of their own
MEASURES = {  # fields of `Metrics`, with what they are
    "kappa": "Cohen's kappa",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "nll": "negative log likelihood, nats",
    "auroc": "AUROC of confidence",
}
AGREEMENT = "agreement with people"


def people_tables(section: Section, rows: Iterable[Label], binding: Any, people: People | None = None) -> list[Table]:
    """The tables that compare labels with people's; adds the agreement to the facts of the section.

    people: those who voted in gold.jsonl; None: the rows say what people prefer.
    """
    try:
        bound = Binding.model_validate(binding)
    except ValidationError:
        bound = None  # the test of a constitution, for example: the rows name the judge
    if people is None:
        rows = (row for row in rows if row.human is not None)
    try:
        report = calibrate_judge(rows, gold=people, binding=bound)
    except InputError as error:
        section.warnings.append(paragraph(f"labels cannot be compared with people's: {error}"))
        return []
    return _told(section, report)


def file_section(path: Path) -> Section:
    """Of a file of rows: a judge's probabilities beside human labels, or the labels of several annotators."""
    section = Section(title_of(path), "file of labels")
    people = People()
    verdicts = read_verdicts(without_votes(read_records(path), path, people))
    verdicts.update(people.verdicts())
    section.facts, section.tables = annotator_tables(verdicts)
    try:
        report = calibrate_judge(path if people.lines else _without_annotators(path))
    except InputError as error:
        if not section.tables:
            raise InputError(error.message, path, error.line) from None
        return section
    section.tables[:0] = _told(section, report)
    return section


def judges_section(path: Path, sections: Iterable[Section]) -> Section:
    """Of several judges beside people, such as those of a bench, the one that agrees most first."""
    lines: list[list[Cell]] = []
    metrics = [(section.title, section.metrics) for section in sections if section.metrics is not None]
    for title, judge in sorted(metrics, key=lambda item: -item[1].accuracy):
        cells = charts.share_cells(title, judge.accuracy, judge.interval, judge.n, mark=0.5)
        lines.append([title, *cells, *(decimal(getattr(judge, field)) for field in MEASURES)])
    titles = "=labels | * | agreement | 95 % interval | pairs | kappa | ECE | Brier | NLL | AUROC"
    notes = ["As judged, without a temperature. Judges of different pairs cannot be compared."]
    table = Table("Agreement with people", columns(titles, charts.axis(SHARES)), lines, notes)
    return Section(title_of(path), "judges side by side", tables=[table])


def _without_annotators(path: Path) -> Iterator[Any]:
    for line, record in read_records(path):
        if not isinstance(record, dict):
            raise InputError("is not a row with columns", path, line)
        yield {column: value for column, value in record.items() if column != COLUMN}


def _told(section: Section, report: CalibrationReport) -> list[Table]:
    """The tables, with the agreement and its notes added to the section."""
    metrics = report.metrics
    fact = Fact(AGREEMENT, percent(metrics.accuracy), percents(metrics.interval), f"{count(metrics.n)} pairs")
    section.facts.append(fact)
    section.metrics = metrics
    section.warnings += map(paragraph, report.notes)
    calibration = report.calibration
    return [
        _agreements(report),
        _measures(calibration, metrics),
        _reliability(report),
        _coverage(report),
        thresholds(calibration),
    ]


def _agreements(report: CalibrationReport) -> Table:
    """The judge among judges that read nothing."""
    judge = report.metrics
    who = "the judge"
    lines: list[list[Cell]] = []
    lines.append([who, *charts.share_cells(who, judge.accuracy, judge.interval, judge.n, mark=0.5)])
    for key, other in report.baselines.items():
        who = TRIVIAL[key]
        ends = wilson(other.accuracy * other.n, other.n)
        lines.append([who, *charts.share_cells(who, other.accuracy, ends, other.n, mark=0.5, base=True)])
    notes = ["The others are judges that read nothing; a pair that one cannot decide counts half."]
    heads = columns("=judge | * | agreement | 95 % interval | pairs", charts.axis(SHARES))
    return Table("Agreement with people", heads, lines, notes)


def _measures(calibration: Calibration, before: Metrics) -> Table:
    """Calibration in numbers, before and after the temperature."""
    lines = []
    for field, words in MEASURES.items():
        after = decimal(getattr(calibration.after, field, None))
        lines.append((words, decimal(getattr(before, field)), after))
    heads = columns(f"=measure | as judged | at temperature {calibration.temperature:.2f}, held out")
    return Table("Calibration in numbers", heads, lines)


def _reliability(report: CalibrationReport) -> Table:
    """Agreement against confidence."""
    curves = [Curve("confidence = agreement", [(0.5, 0.5), (1.0, 1.0)], "mark")]
    lines = [[f"{0.5 + place * 0.05:.2f} to {0.55 + place * 0.05:.2f}"] for place in range(BINS)]
    heads = "=confidence | pairs | agreement | 95 % interval"
    curves.append(_add_bins(lines, "as judged", "own", reliability(report.ps, report.truths)))
    if report.held_out is not None:
        heads += " | pairs, held out | agreement | 95 % interval"
        held_out = reliability(report.held_out, report.truths)
        curves.append(_add_bins(lines, "after the temperature, held out", "base", held_out))
    picture = charts.curves("agreement against confidence", curves, SURE, SHARES, ("confidence", AGREEMENT))
    return Table("Calibration", columns(heads), lines, picture=picture)


def _add_bins(lines: list[list[str]], kind: str, style: str, filled: list[tuple[int, int, float, float]]) -> Curve:
    """Add the cells of a curve to the lines, one a stretch of confidence; returns the curve."""
    cells = [["0", "–", "–"]] * BINS
    titles = []
    for place, n, sure, right in filled:
        titles.append(f"{kind}: {count(n)} pairs of confidence {sure:.3f}, {percent(right)} agree")
        cells[place] = [count(n), percent(right), percents(wilson(right * n, n))]
    for line, more in zip(lines, cells, strict=True):
        line += more
    return Curve(kind, [(sure, right) for _, _, sure, right in filled], style, titles)


def _coverage(report: CalibrationReport) -> Table:
    """Agreement against the share of labels kept."""
    points = []
    titles = []
    for sure, kept, right in risk_coverage(report.ps, report.truths):
        points.append((kept, right))
        titles.append(f"confidence {sure:.3f} and more: {percent(kept)} of pairs, {percent(right)} agree")
    if len(points) > MOST_DOTS:
        titles = []
    names = ("share of labels kept, surest first", AGREEMENT)
    picture = charts.curves(
        "agreement against coverage", [Curve("the judge", points, "own", titles)], SHARES, SHARES, names
    )
    lines = []
    for level, (kept, right_of_kept) in report.coverage.items():
        n = round(kept * report.metrics.n)
        ends = None if right_of_kept is None else wilson(right_of_kept * n, n)
        lines.append((f"{level:g}", percent(kept), percent(right_of_kept), percents(ends), count(n)))
    heads = columns("=confidence of at least | kept | agreement | 95 % interval | pairs")
    return Table("Risk and coverage", heads, lines, picture=picture)


def thresholds(calibration: Calibration) -> Table:
    """What is certified: labels of at least some confidence agree so often."""
    lines = []
    for target, at in calibration.thresholds.items():
        line = [percent(float(target)), "not certified", "–", "–", "–"]
        if at is not None:
            kept = f"{count(at.n)} ({percent(at.coverage)})"
            line[1:] = [decimal(at.confidence), kept, count(at.errors), percent(at.upper_bound)]
        lines.append(line)
    heads = columns("=agreement | from confidence | keeps | errors | at most so many errors")
    note = f"Each holds with a chance of {percent(1 - calibration.delta)}: {calibration.promise}."
    return Table(f"Thresholds certified on {count(calibration.n)} pairs", heads, lines, [note])
