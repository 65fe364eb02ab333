"""What a training has to say: its loss, how often the chosen reply of held-out pairs wins, what the model says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import RunError
from cai.folder.files import exists, read_object
from cai.folder.rows import BAD_ROW
from cai.records import Values
from cai.report.folders import is_in_use, is_torn
from cai.report.html import charts
from cai.report.html.charts import SHARES, Curve, scale_of
from cai.report.html.sections import (
    Column,
    Fact,
    Sample,
    Section,
    Table,
    count,
    decimal,
    name,
    paragraph,
    percent,
    percents,
)
from cai.report.rows import of_answers
from cai.report.runs import bars
from cai.report.samples import Strata
from cai.sources.yamlfile import first_fault
from cai.texts.wording import clock
from cai.training.report.samples import FILE as SAMPLES
from cai.training.report.samples import Sample as Answers
from cai.training.report.summary import PairAccuracy, Wins, metric_text, pair_accuracy
from cai.training.setup.folder import ANEW, EVALS, METRICS, RECORD, SCHEMA

MOST_LINES = 12  # of the table beside a curve


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
    section = Section(name(folder), f"training ({name(identity['method'])})", about=list(_about(record)))
    section.warnings = list(_state(folder, record))
    summary = record.get("summary") or {}
    section.notes = list(map(paragraph, summary.get("notes", ())))
    section.facts = (
        [Fact("rows that train", count(data["train"]), basis=f"{count(data['eval'])} held out")] if data else []
    )
    metrics = list(_lines(folder / METRICS))
    pairs = pair_accuracy(_lines(folder / EVALS)) if exists(folder / EVALS) else None
    if pairs is not None:
        section.facts.append(_fact("chosen reply wins, after", pairs.after))
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


def _fact(what: str, wins: Wins) -> Fact:
    return Fact(what, percent(wins.share), percents(wins.interval), f"{count(wins.n)} held-out pairs")


def _wins(pairs: PairAccuracy) -> Table:
    """How often the chosen reply wins."""
    kinds = {"before": pairs.before, "after": pairs.after, "gained on the rejected one": pairs.implicit}
    lines = []
    for kind, wins in kinds.items():
        if wins is None:
            continue
        title = f"{kind}: {percent(wins.share)}, 95 % interval {percents(wins.interval)}, {count(wins.n)} pairs"
        dot = charts.dot(SHARES, wins.share, wins.interval, title, mark=0.5, base=kind == "before")
        lines.append((kind, dot, percent(wins.share), percents(wins.interval), count(wins.n)))
    columns = [Column(f"by {pairs.measure}", "name"), Column(charts.axis(SHARES), "picture"),
               Column("chosen reply wins"), Column("95 % interval"), Column("pairs")]  # fmt: skip
    notes = [f"Step {pairs.step}, each tie a half."]
    if pairs.p_value is not None:
        turned = f"{count(pairs.gained or 0)} pairs turned to the chosen reply, {count(pairs.lost or 0)} away from it"
        notes.append(f"{turned}; sign test p = {pairs.p_value:.3g}.")
    ends = pairs.margin_interval
    interval = "" if ends is None else f" (95 % interval {decimal(ends[0])} to {decimal(ends[1])})"
    notes.append(f"Mean margin {decimal(pairs.margin)}{' nats' if pairs.measure != 'reward' else ''}{interval}.")
    if pairs.unmeasured:
        notes.append(f"{count(pairs.unmeasured)} pairs have a number that is not finite, and are not counted.")
    return Table("Held-out pairs", columns, lines, notes)


def _losses(metrics: Sequence[Values]) -> Iterator[Table]:
    """The loss of every step, and of held-out rows."""
    curves = []
    unknown = 0
    for kind, key, style in (("training", "loss", "own"), ("held out", "eval_loss", "base")):
        points = [(line["step"], line[key]) for line in metrics if key in line]
        unknown += sum(value is None for _, value in points)
        known = [point for point in points if point[1] is not None]
        if known:
            titles = [f"step {step}: {metric_text(value)}" for step, value in known] if len(known) <= 60 else ()
            curves.append(Curve(kind, known, style, titles))
    if not curves:
        return
    x = scale_of([step for curve in curves for step, _ in curve.points], charts.plain)
    y = scale_of([value for curve in curves for _, value in curve.points], charts.plain)
    picture = charts.curves("loss by step", curves, x, y, ("step", "loss, nats a token"))
    steps = sorted({step for curve in curves for step, _ in curve.points})
    if len(steps) > MOST_LINES:
        steps = [steps[round(at * (len(steps) - 1) / (MOST_LINES - 1))] for at in range(MOST_LINES)]
    found = [dict(curve.points) for curve in curves]
    lines = [(f"{step:,}", *(decimal(known.get(step)) for known in found)) for step in steps]
    notes = [f"{count(unknown)} losses are not a number (NaN), and are not in the picture."] if unknown else []
    yield Table("Loss", [Column("step", "name"), *(Column(curve.name) for curve in curves)], lines, notes, picture)


def _settings(record: Values) -> Iterator[Table]:
    """What was set, by whom, and why."""
    lines = [
        [paragraph(each.get(key, "")) for key in ("name", "value", "origin", "why")]
        for each in record.get("plan") or ()
    ]
    if lines:
        columns = [Column("setting", "name"), Column("value", "text"), Column("from", "text"), Column("why", "text")]
        yield Table("Settings", columns, lines)


def _answers(folder: Path, strata: Strata) -> Sample | None:
    """What the model says to held-out prompts before and after."""
    for place, _ in enumerate(_lines(folder / SAMPLES)):
        strata.offer("held-out prompts", place)

    def load(places: frozenset[int]) -> Iterator[tuple[int, Values]]:
        for place, line in enumerate(_lines(folder / SAMPLES)):
            if place in places:
                try:
                    yield place, of_answers(Answers.model_validate(line))
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
