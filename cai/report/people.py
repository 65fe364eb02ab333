"""A judge beside people: how often they agree, calibration, risk and coverage, thresholds; and people beside people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.errors import InputError
from cai.judge.calibration import TRIVIAL, CalibrationReport, calibrate_judge
from cai.judge.certify import Binding, Calibration, Threshold
from cai.judge.metrics import BINS, Metrics, reliability, risk_coverage, wilson
from cai.records import Label
from cai.report.annotators import COLUMN, annotator_tables, read_verdicts
from cai.report.html import charts
from cai.report.html.charts import SHARES, Curve, Scale
from cai.report.html.sections import Column, Fact, Section, Table, count, decimal, name, paragraph, percent, percents
from cai.sources.files import read_records

SURE = Scale(0.5, 1.0, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0))
MEASURES = (  # of `Metrics`, with what they mean
    ("kappa", "Cohen's kappa"),
    ("ece", "calibration error (ECE)"),
    ("brier", "Brier score"),
    ("nll", "negative log likelihood, nats"),
    ("auroc", "AUROC of confidence"),
)


def people_tables(section: Section, rows: Iterable[Label], binding: Any) -> list[Table]:
    """The tables that compare labels with people's; adds the agreement to the facts of the section."""
    try:
        bound = Binding.model_validate(binding)
    except ValidationError:
        bound = None  # a run of 0.1.0, or one that bench made: its rows name the judge
    try:
        report = calibrate_judge((row for row in rows if row.human is not None), binding=bound)
    except InputError as error:
        section.warnings.append(f"labels cannot be compared with people's: {error}")
        return []
    section.facts.append(agreement(report.metrics))
    section.warnings += map(paragraph, report.notes)
    return list(calibration_tables(report))


def file_section(path: Path) -> Section:
    """Of a file of rows: a judge's probabilities beside human labels, or the labels of several annotators."""
    section = Section(name(path), "file of labels")
    section.facts, section.tables = annotator_tables(read_verdicts(read_records(path)))
    try:
        report = calibrate_judge(_without_annotators(path))
    except InputError as error:
        if not section.tables:
            raise InputError(error.message, path, error.line) from None
        return section
    section.facts.insert(0, agreement(report.metrics))
    section.warnings += map(paragraph, report.notes)
    section.tables[:0] = calibration_tables(report)
    return section


def _without_annotators(path: Path) -> Iterator[Any]:
    for line, record in read_records(path):
        if not isinstance(record, dict):
            raise InputError("is not a row with columns", path, line)
        yield {column: value for column, value in record.items() if column != COLUMN}


def agreement(metrics: Metrics) -> Fact:
    """How often labels agree with people's."""
    return Fact(
        "agreement with people", percent(metrics.accuracy), percents(metrics.interval), f"{count(metrics.n)} pairs"
    )


def calibration_tables(report: CalibrationReport) -> Iterator[Table]:
    """All that is known of a judge beside people."""
    yield _agreements(report)
    yield _measures(report)
    yield _reliability(report)
    yield _coverage(report)
    yield thresholds(report.calibration)


def _agreements(report: CalibrationReport) -> Table:
    """The judge among judges that read nothing."""
    metrics = report.metrics
    lines = [_agreement("the judge", metrics.accuracy, metrics.interval, metrics.n, base=False)]
    for who, judge in report.baselines.items():
        interval = wilson(judge.accuracy * judge.n, judge.n)
        lines.append(_agreement(TRIVIAL[who], judge.accuracy, interval, judge.n, base=True))
    columns = [Column("judge", "name"), Column(charts.axis(SHARES), "picture"), Column("agreement"),
               Column("95 % interval"), Column("pairs")]  # fmt: skip
    notes = ["The others are judges that read nothing; a pair that one cannot decide counts half."]
    return Table("Agreement with people", columns, lines, notes)


def _agreement(who: str, share: float, interval: tuple[float, float], n: int, *, base: bool) -> tuple[Any, ...]:
    title = f"{who}: {percent(share)}, 95 % interval {percents(interval)}, {count(n)} pairs"
    dot = charts.dot(SHARES, share, interval, title, mark=0.5, base=base)
    return who, dot, percent(share), percents(interval), count(n)


def _measures(report: CalibrationReport) -> Table:
    """Calibration in numbers, before and after the temperature."""
    before, after = report.metrics, report.calibration.after
    lines = []
    for field, words in MEASURES:
        later = "–" if after is None else decimal(getattr(after, field))
        lines.append((words, decimal(getattr(before, field)), later))
    columns = [
        Column("measure", "name"),
        Column("as judged"),
        Column(f"at temperature {report.calibration.temperature:.2f}, held out"),
    ]
    return Table("Calibration in numbers", columns, lines)


def _reliability(report: CalibrationReport) -> Table:
    """Agreement against confidence."""
    shown = [Curve("confidence = agreement", [(0.5, 0.5), (1.0, 1.0)], "mark")]
    lines = [[f"{0.5 + place * 0.05:.2f} to {0.55 + place * 0.05:.2f}"] for place in range(BINS)]
    kinds = [("as judged", report.ps, "own"), ("after the temperature, held out", report.held_out, "base")]
    for kind, ps, style in kinds:
        if ps is None:
            continue
        filled = {place: (n, sure, right) for place, n, sure, right in reliability(ps, report.truths)}
        points = [(sure, right) for _, sure, right in filled.values()]
        titles = [
            f"{kind}: {n} pairs of confidence {sure:.3f}, {percent(right)} agree" for n, sure, right in filled.values()
        ]
        shown.append(Curve(kind, points, style, titles))
        for place, line in enumerate(lines):
            line += _in_bin(filled.get(place))
    picture = charts.curves(
        "agreement against confidence", shown, SURE, SHARES, ("confidence", "agreement with people")
    )
    columns = [Column("confidence", "name"), Column("pairs"), Column("agreement"), Column("95 % interval")]
    columns += [Column("pairs, held out"), *columns[2:]] if report.held_out is not None else []
    return Table("Calibration", columns, lines, picture=picture)


def _in_bin(filled: tuple[int, float, float] | None) -> tuple[str, str, str]:
    if filled is None:
        return "0", "–", "–"
    n, _, right = filled
    return count(n), percent(right), percents(wilson(right * n, n))


def _coverage(report: CalibrationReport) -> Table:
    """Agreement against the share of labels kept."""
    curve = risk_coverage(report.ps, report.truths)
    points = [(kept, right) for _, kept, right in curve]
    titles = [
        f"confidence {sure:.3f} and more: {percent(kept)} of pairs, {percent(right)} agree"
        for sure, kept, right in curve
    ]
    line = Curve("the judge", points, "own", titles if len(points) <= 60 else ())
    names = ("share of labels kept, surest first", "agreement with people")
    picture = charts.curves("agreement against coverage", [line], SHARES, SHARES, names)
    lines = []
    for level, (kept, right) in report.coverage.items():
        n = round(kept * report.metrics.n)
        interval = "–" if right is None else percents(wilson(right * n, n))
        lines.append((f"{level:g}", percent(kept), percent(right), interval, count(n)))
    columns = [
        Column("confidence of at least", "name"),
        Column("kept"),
        Column("agreement"),
        Column("95 % interval"),
        Column("pairs"),
    ]
    return Table("Risk and coverage", columns, lines, picture=picture)


def thresholds(calibration: Calibration) -> Table:
    """What is certified: labels of at least some confidence agree so often."""
    lines = [_threshold(target, at) for target, at in calibration.thresholds.items()]
    columns = [
        Column("agreement", "name"),
        Column("from confidence"),
        Column("keeps"),
        Column("errors"),
        Column("at most so many errors"),
    ]
    note = f"Each holds with a chance of {percent(1 - calibration.delta)}: {calibration.promise}."
    return Table(f"Thresholds certified on {count(calibration.n)} pairs", columns, lines, [note])


def _threshold(target: str, at: Threshold | None) -> tuple[str, ...]:
    if at is None:
        return percent(float(target)), "not certified", "–", "–", "–"
    kept = f"{count(at.n)} ({percent(at.coverage)})"
    return percent(at.target), decimal(at.confidence), kept, count(at.errors), percent(at.upper_bound)
