"""What a training has to say: its loss, how often the chosen reply of held-out pairs wins, what the model says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.disk.locks import is_in_use
from cai.disk.reading import exists, read_object
from cai.errors import RunError
from cai.folder.lines import BAD_ROW, is_torn
from cai.records import Values
from cai.report.html import charts
from cai.report.html.charts import SHARES, Curve, scale_of
from cai.report.html.rows import shown
from cai.report.html.samples import Strata
from cai.report.html.sections import (
    Cell,
    Fact,
    Sample,
    Section,
    Table,
    columns,
    count,
    decimal,
    name,
    paragraph,
    percent,
    percents,
    title_of,
)
from cai.report.runs import bars
from cai.sources.yamlfile import first_fault
from cai.texts.wording import clock
from cai.training.report.samples import FILE as SAMPLES
from cai.training.report.samples import Sample as Answers
from cai.training.report.summary import PairAccuracy, metric_text, pair_accuracy
from cai.training.setup.folder import ANEW, EVALS, METRICS, RECORD, SCHEMA

MOST_LINES = 12  # of the table beside a curve
MOST_TITLES = 60  # of the points of a curve
PLAN = ("name", "value", "origin", "why")  # of a setting


def training_section(folder: Path, strata: Strata) -> Section:
    """Of a training."""
    record = read_object(folder / RECORD, ANEW, orjson.loads)
    schema = record.get("schema")
    if schema != SCHEMA:
        raise RunError(f"{folder / RECORD} has schema {schema!r}, which this cai does not read: it reads {SCHEMA}")
    try:
        return _section(folder, record, strata)
    except BAD_ROW as error:
        raise RunError(
            f"{folder / RECORD} or a file beside it is damaged ({type(error).__name__}: {error}); {ANEW}"
        ) from None


def _section(folder: Path, record: Values, strata: Strata) -> Section:
    identity, data = record["identity"], record.get("data") or {}
    section = Section(title_of(folder), f"training ({name(identity['method'])})", about=list(_about(record)))
    section.warnings = list(_state(folder, record))
    summary = record.get("summary") or {}
    section.notes = list(map(paragraph, summary.get("notes", ())))
    if data:
        basis = f"{count(data['eval'])} held out"
        section.facts.append(Fact("rows that train", count(data["train"]), basis=basis))
    metrics = list(_lines(folder / METRICS))
    pairs = None
    if exists(folder / EVALS):
        pairs = pair_accuracy(_lines(folder / EVALS))
    if pairs is not None:
        after = pairs.after
        basis = f"{count(after.n)} held-out pairs"
        section.facts.append(Fact("chosen reply wins, after", percent(after.share), percents(after.interval), basis))
        section.tables.append(_wins(pairs))
    section.tables += [*_losses(metrics), *_settings(record)]
    if data.get("dropped"):
        section.tables.append(bars("Rows that do not train", "reason", "rows", data["dropped"]))
    section.sample = _answers(folder, strata)
    return section


def _state(folder: Path, record: Values) -> Iterator[str]:
    """What keeps the folder from being all of a training."""
    if is_in_use(folder):
        yield "this training is still running: the page has what was there when it was made"
    elif not record.get("finished"):
        yield "this training is not finished"
    for file in (METRICS, EVALS, SAMPLES):
        if exists(folder / file) and is_torn(folder / file):
            yield f"the last line of {file} is not whole, as after a kill or while it is written: it is left out"


def _lines(path: Path) -> Iterator[Values]:
    """The whole lines of a file."""
    if not exists(path):
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                raise RunError(
                    f"{path}: line {number} is damaged: delete that line, and use the same command"
                ) from None


def _wins(pairs: PairAccuracy) -> Table:
    """How often the chosen reply wins."""
    lines: list[list[Cell]] = []
    states = {"before": pairs.before, "after": pairs.after, "gained on the rejected one": pairs.implicit}
    for kind, wins in states.items():
        if wins is not None:
            is_base = kind == "before"
            cells = charts.share_cells(kind, wins.share, wins.interval, wins.n, mark=0.5, base=is_base)
            lines.append([kind, *cells])
    heads = f"=by {pairs.measure} | * | chosen reply wins | 95 % interval | pairs"
    notes = list(map(paragraph, pairs.lines()))
    return Table("Held-out pairs", columns(heads, charts.axis(SHARES)), lines, notes)


def _losses(metrics: Sequence[Values]) -> Iterator[Table]:
    """The loss of every step, and of held-out rows."""
    kinds = {"training": ("loss", "own"), "held out": ("eval_loss", "base")}
    curves = []
    unknown = 0
    for kind, (key, style) in kinds.items():
        losses = {line["step"]: line[key] for line in metrics if key in line}
        known = [(step, loss) for step, loss in losses.items() if loss is not None]
        unknown += len(losses) - len(known)
        if known:
            titles = [f"step {step}: {metric_text(loss)}" for step, loss in known[:MOST_TITLES]]
            curves.append(Curve(kind, known, style, titles))
    if not curves:
        return
    points = [point for curve in curves for point in curve.points]
    x, y = (scale_of(values, charts.plain) for values in zip(*points, strict=True))
    picture = charts.curves("loss by step", curves, x, y, ("step", "loss, nats a token"))
    losses_of = [dict(curve.points) for curve in curves]
    lines = []
    for step, _ in charts.thinned(sorted(set(points)), MOST_LINES):
        lines.append([f"{step:,}", *(decimal(losses.get(step)) for losses in losses_of)])
    notes = [f"{count(unknown)} losses are not a number (NaN), and are not in the picture."][: bool(unknown)]
    heads = " | ".join(["=step", *(curve.name for curve in curves)])
    yield Table("Loss", columns(heads), lines, notes, picture)


def _settings(record: Values) -> Iterator[Table]:
    """What was set, by whom, and why."""
    lines = [[paragraph(each.get(key, "")) for key in PLAN] for each in record.get("plan") or ()]
    if lines:
        yield Table("Settings", columns("=setting | :value | :from | :why"), lines)


def _answers(folder: Path, strata: Strata) -> Sample | None:
    """What the model says to held-out prompts before and after."""
    for place, _ in enumerate(_lines(folder / SAMPLES)):
        strata.offer("held-out prompts", place)

    def load(places: frozenset[int]) -> Iterator[tuple[int, Values]]:
        for place, line in enumerate(_lines(folder / SAMPLES)):
            if place in places:
                try:
                    yield place, shown(Answers.model_validate(line))
                except ValidationError as error:
                    raise RunError(f"{folder / SAMPLES}: line {place + 1} is damaged ({first_fault(error)})") from None

    return strata.sample(load)


def _about(record: Values) -> Iterator[tuple[str, Any]]:
    model, data = record.get("model") or {}, record.get("data") or {}
    yield "base model", paragraph(model.get("spec", "not known"))
    for file in data.get("files") or ():
        yield "data", paragraph(file.get("source"))
    yield "time", clock(record.get("seconds") or 0)
    versions = record.get("versions") or {}
    yield "versions", paragraph(", ".join(f"{key} {value}" for key, value in versions.items()))
