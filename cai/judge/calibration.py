"""Compares a judge's labels with people's, and makes the `calibration.json` that labelling uses. Asks no model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError, RunError
from cai.folder.files import differences
from cai.folder.run import find_info
from cai.judge.calibration_report import FILE, TRIVIAL, Baseline, CalibrationReport
from cai.judge.certify import COLDEST, DELTA, HOTTEST, TARGETS, Binding, Calibration, certify_all, fit_temperature
from cai.judge.flows import probability
from cai.judge.metrics import Metrics, credit, measure
from cai.judge.people import Judged, JudgedRows, labels_file, read_judged
from cai.sources.files import read_records
from cai.sources.yamlfile import first_fault

FORMAT = 1
FOLDS = 5
FEW = 50  # pairs: 25 leave a temperature at random, 50 to 100 suffice (three judges, 200 splits each)


def calibrate_judge(source: str | Path | Iterable[Any], *, delta: float = DELTA) -> CalibrationReport:
    """Compare a judge's labels with people's; docs/judging.md has the arithmetic.

    source: a label run or its labels.jsonl, a file of rows with probabilities and human labels, or an iterable of such
    rows or `Label`s. Raises InputError, RunError or UsageError.
    """
    if isinstance(source, str | Path):
        return calibrate_file(source, delta=delta)
    return calibrate_rows(source, delta=delta)


def calibrate_file(path: str | Path, *, delta: float = DELTA, targets: Sequence[float] = TARGETS) -> CalibrationReport:
    """`calibrate_judge` for a file, or a folder that holds a labels.jsonl; the run.json beside it names the judge."""
    file = labels_file(path)
    read = read_judged(read_records(file), file)
    binding = _binding_of(file) if read.labels else None
    return _report(read, str(path), binding, delta, targets)


def calibrate_rows(
    rows: Iterable[Any], *, binding: Binding | None = None, delta: float = DELTA, targets: Sequence[float] = TARGETS
) -> CalibrationReport:
    """`calibrate_judge` for `Label`s, or rows as a file has them; binding: whose labels they are, if known."""
    return _report(read_judged(enumerate(rows, 1), "rows"), "rows", binding, delta, targets)


def load_calibration(path: str | Path) -> Calibration:
    """The calibration that a file, or the folder it was saved in, holds; raises InputError."""
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    again = "make it again with cai judge calibrate"
    try:
        content = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}): name a {FILE} of cai judge calibrate", file) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error}); {again}", file) from None
    match content:
        case {"schema": int(schema)} if schema > FORMAT:
            problem = f"was made by a newer cai (schema {schema}, this one reads {FORMAT}): upgrade cai-toolkit"
            raise InputError(problem, file)
    try:
        return Calibration.model_validate_json(orjson.dumps(content))
    except ValidationError as error:
        raise InputError(f"is not a calibration, or damaged ({first_fault(error)}); {again}", file) from None


def binding_problems(calibration: Calibration, binding: Mapping[str, Any]) -> list[str]:
    """Why a calibration does not hold for labels of a `binding` (the fields of `Binding`); empty if it does."""
    if calibration.binding is None:
        return ["it was made from rows that do not name their judge; calibrate a label run of this judge"]
    return differences(calibration.binding.model_dump(), Binding.model_validate(dict(binding)).model_dump())


def _binding_of(labels: Path) -> Binding | None:
    """The judge that the run.json beside some labels names; None if there is no such file."""
    info = find_info(labels.parent)
    if info is None:
        return None
    try:
        return Binding.model_validate(info["identity"].get("binding"))
    except ValidationError:
        raise RunError(f"{labels.with_name('run.json')} is not that of a label run: it names no judge") from None


def _report(
    read: JudgedRows, source: str, binding: Binding | None, delta: float, targets: Sequence[float]
) -> CalibrationReport:
    rows = read.rows
    if not rows:
        counts = f"{read.unlabelled:,} have no human label, {read.invalid:,} no valid vote of the judge"
        raise InputError(f"no row can be compared: {counts}; label pairs whose better reply people named", source)
    zs = [row.z for row in rows]
    truths = [row.truth for row in rows]
    ps = [probability(z) for z in zs]
    temperature = fit_temperature(zs, truths)
    metrics = measure(ps, truths)
    before = after = None
    held_out = _held_out(rows)
    if held_out is not None:
        before = metrics  # every pair is held out once
        after = measure(held_out, truths)
    baselines = _baselines(rows)
    calibration = Calibration(
        binding=binding,
        n=len(rows),
        temperature=temperature,
        delta=delta,
        thresholds=certify_all(ps, truths, temperature, delta, targets),
        before=before,
        after=after,
    )
    notes = tuple(_notes(metrics, baselines, calibration, read))
    return CalibrationReport(
        source=source,
        calibration=calibration.model_copy(update={"notes": notes}),
        metrics=metrics,
        rows=rows,
        held_out=held_out,
        baselines=baselines,
        invalid=read.invalid,
        unlabelled=read.unlabelled,
        notes=notes,
    )


def _held_out(rows: Sequence[Judged]) -> tuple[float, ...] | None:
    """The p of every row at the temperature that the other folds fit; None with fewer than five keys.

    Keys are dealt to the folds in the order of their hashes, so the folds do not depend on the order of the rows.
    """
    keys = sorted({row.key for row in rows}, key=lambda key: sha256(key.encode("utf-8", "surrogatepass")).digest())
    if len(keys) < FOLDS:
        return None
    fold = {key: place % FOLDS for place, key in enumerate(keys)}
    temperatures = []
    for number in range(FOLDS):
        others = [row for row in rows if fold[row.key] != number]
        temperatures.append(fit_temperature([row.z for row in others], [row.truth for row in others]))
    return tuple(probability(row.z, temperatures[fold[row.key]]) for row in rows)


def _baselines(rows: Sequence[Judged]) -> dict[str, Baseline]:
    credits = defaultdict[str, list[float]](list)
    for row in rows:
        for name, guess in row.guesses.items():
            credits[name].append(credit(guess, row.truth))
    return {name: Baseline(accuracy=statistics.fmean(values), n=len(values)) for name, values in credits.items()}


def _notes(
    metrics: Metrics, baselines: dict[str, Baseline], calibration: Calibration, read: JudgedRows
) -> Iterator[str]:
    name, best = max(baselines.items(), key=lambda item: item[1].accuracy)
    if metrics.interval[0] <= best.accuracy:
        yield f"the judge is not clearly better than a trivial one: {TRIVIAL[name]} ({best.accuracy:.1%})"
    yield from weaknesses(calibration)
    prompts = len({row.key for row in read.rows})
    if prompts < metrics.n:
        yield f"{metrics.n:,} pairs of {prompts:,} prompts: thresholds assume independent pairs, which these are not"
    if read.numbering:
        yield f"human labels are read as: {read.numbering}"
    if calibration.binding is None:
        yield "the rows do not name their judge: cai label --calibration will refuse this calibration"


def weaknesses(calibration: Calibration) -> Iterator[str]:
    """Why a temperature means nothing, so that no label should be corrected by it; nothing if it can be used."""
    if calibration.n < FEW:
        yield f"{calibration.n} pairs are too few for a temperature: 50 to 100 suffice, thresholds need 100 to 500"
    bound = f"the temperature is at the bound of what is tried ({calibration.temperature:g})"
    if calibration.temperature == HOTTEST:
        yield f"{bound}: its confidences say nothing here"
    elif calibration.temperature == COLDEST:
        yield f"{bound}: every label is right here"
