"""Holds a judge's labels against people's: the report, and the `calibration.json` that labelling uses.

The arithmetic is in `calibrate`, the shapes of rows in `judged`. Asks no model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from cai.errors import InputError, RunError
from cai.folder.files import differences, write_atomically
from cai.judge.belief import probability
from cai.judge.certify import COLDEST, DELTA, HOTTEST, TARGETS, Binding, Calibration, certify_all, fit_temperature
from cai.judge.metrics import Metrics, at_least, credit, measure
from cai.judge.people import Judged, JudgedRows, read_judged
from cai.records import Record
from cai.sources.files import read_records

FILE = "calibration.json"
FORMAT = 1
FOLDS = 5
FEW = 50  # pairs: 25 leave a temperature at random, 50 to 100 suffice (three judges, 200 splits each)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # confidences whose coverage is told
TRIVIAL = {  # judges that read nothing, as people are told of them
    "always_first": "always the first",
    "longer": "the longer reply",
    "shorter": "the shorter reply",
    "not_refusing": "the one not refusing",
}


class Baseline(Record):
    """A judge that reads nothing: how often it agrees with people, where it cannot tell half."""

    accuracy: float
    n: int


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """How a judge's labels compare with people's."""

    source: str
    calibration: Calibration
    metrics: Metrics  # of all pairs, at temperature 1
    rows: tuple[Judged, ...]
    held_out: tuple[float, ...] | None  # p of every row at the temperature fitted on the other folds; None: too few
    baselines: dict[str, Baseline]
    invalid: int  # rows with a human label and no valid vote
    unlabelled: int  # rows without a human label
    notes: tuple[str, ...]

    @property
    def ps(self) -> list[float]:
        """The probabilities before any temperature."""
        return [probability(row.z) for row in self.rows]

    @property
    def truths(self) -> list[bool]:
        """Whether people prefer the first reply."""
        return [row.truth for row in self.rows]

    def summary(self) -> dict[str, Any]:
        """The report as JSON; its keys are a contract (DESIGN section 5)."""
        made, found = self.calibration, self.metrics.model_dump()
        coverage = {str(level): at_least(self.ps, self.truths, level) for level in LEVELS}
        held = None if made.before is None or made.after is None else (made.before, made.after)
        return {
            "source": self.source,
            **found,
            "temperature": made.temperature,
            "coverage": {level: {"coverage": kept, "accuracy": right} for level, (kept, right) in coverage.items()},
            "thresholds": {
                target: at
                and {
                    "lambda": at.confidence,
                    "calibrated": at.calibrated,
                    "coverage": at.coverage,
                    "upper_bound": at.upper_bound,
                    "n": at.n,
                    "errors": at.errors,
                }
                for target, at in made.thresholds.items()
            },
            "delta": made.delta,
            "promise": made.promise,
            "held_out": held and {name: m.model_dump() for name, m in zip(("before", "after"), held, strict=True)},
            "baselines": {name: judge.model_dump() for name, judge in self.baselines.items()},
            "invalid": self.invalid,
            "unlabelled": self.unlabelled,
            "binding": made.binding and made.binding.model_dump(mode="json"),
            "notes": list(self.notes),
        }

    def lines(self) -> Iterator[str]:
        """The report for people to read."""
        found, made = self.metrics, self.calibration
        yield (
            f"{self.source}: {found.n:,} pairs with a label of the judge and of people; "
            f"{self.invalid:,} without a valid vote, {self.unlabelled:,} without a human label"
        )
        yield ""
        low, high = found.interval
        yield "agreement with people"
        kappa = "undefined" if found.kappa is None else f"{found.kappa:.3f}"
        yield f"  {'the judge':22}{found.accuracy:6.1%}   95 % interval {low:.1%} to {high:.1%}, kappa {kappa}"
        for name, judge in self.baselines.items():
            of = "" if judge.n == found.n else f"   on {judge.n:,} pairs whose texts are known"
            yield f"  {TRIVIAL[name]:22}{judge.accuracy:6.1%}{of}"
        yield ""
        yield f"{'calibration':24}{'ECE':>8}{'Brier':>8}{'NLL':>8}{'AUROC':>8}"
        yield _metrics_line("as judged", found)
        if made.after is not None:
            yield _metrics_line("with T, held out", made.after)
        held = "" if made.after is None else "; held out: on four fifths, five times"
        yield f"  temperature T = {made.temperature:.3g}, fitted on all pairs{held}"
        yield ""
        yield f"{'confidence as judged':24}{'kept':>8}{'agree':>8}"
        for level in LEVELS:
            kept, right = at_least(self.ps, self.truths, level)
            yield f"  at least {level:<13}{kept:8.1%}{'–' if right is None else f'{right:.1%}':>8}"
        yield ""
        yield from self._promises()
        yield from self.notes

    def _promises(self) -> Iterator[str]:
        made = self.calibration
        head = f"{'lambda':>10}{'after T':>10}{'kept':>8}{'pairs':>7}{'errors':>8}{'error up to':>13}"
        yield f"{'certified agreement':24}{head}"
        for target, at in made.thresholds.items():
            name = f"  at least {float(target):.4g}"
            if at is None:
                yield f"{name:24}    none can be certified"
            else:
                yield (
                    f"{name:24}{at.confidence:10.6f}{at.calibrated:10.4f}{at.coverage:8.1%}{at.n:7,}{at.errors:8,}"
                    f"{at.upper_bound:13.1%}"
                )
        yield f"  each alone is wrong with a chance of at most {made.delta:g} (delta), and {made.promise}"

    def save(self, folder: Path, *, plots: bool) -> list[str]:
        """Write calibration.json and, with `plots`, two diagrams; returns the names written. Raises RunError."""
        content = {FILE: self.calibration.model_dump_json(indent=2).encode() + b"\n"}
        content |= self._images() if plots else {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in content.items():
                write_atomically(folder / name, data)
        except (OSError, RunError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            told = cause.strerror or cause if isinstance(cause, OSError) else error
            advice = "make room or permission there, or choose another --out"
            raise RunError(f"cannot write to {folder}: {told}; {advice}") from error
        return list(content)

    def _images(self) -> dict[str, bytes]:
        """The diagrams, by name."""
        from cai.judge.plots import plot_reliability, plot_risk_coverage

        made, ps = self.calibration, self.ps
        after = self.held_out or [probability(row.z, made.temperature) for row in self.rows]
        return {
            "reliability.png": plot_reliability(ps, after, self.truths),
            "risk-coverage.png": plot_risk_coverage(
                ps,
                self.truths,
                {TRIVIAL[name]: judge.accuracy for name, judge in self.baselines.items()},
                made.thresholds,
            ),
        }


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
    where = Path(path)
    if where.is_dir():
        where = where / "labels.jsonl"
        if not where.is_file():
            raise InputError("is a folder without a labels.jsonl; name the --out of a cai label, or a file", path)
    read = read_judged(read_records(where), where)
    return _report(read, str(path), _binding_of(where) if read.labels else None, delta, targets)


def calibrate_rows(
    rows: Iterable[Any], *, binding: Binding | None = None, delta: float = DELTA, targets: Sequence[float] = TARGETS
) -> CalibrationReport:
    """`calibrate_judge` for `Label`s, or rows as a file has them; binding: whose labels they are, if known."""
    return _report(read_judged(enumerate(rows, 1), "rows"), "rows", binding, delta, targets)


def load_calibration(path: str | Path) -> Calibration:
    """The calibration that a file, or the folder it was saved in, holds; raises InputError."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    again = "make it again with cai judge calibrate"
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}): name a {FILE} of cai judge calibrate", file) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error}); {again}", file) from None
    made = found.get("schema") if isinstance(found, dict) else None
    if isinstance(made, int) and made > FORMAT:
        problem = f"was made by a newer cai (schema {made}, this one reads {FORMAT}): upgrade cai-toolkit"
        raise InputError(problem, file)
    try:
        return Calibration.model_validate_json(orjson.dumps(found))
    except ValidationError as error:
        raise InputError(f"is no calibration, or damaged ({first_problem(error)}); {again}", file) from None


def first_problem(error: ValidationError) -> str:
    """What a calibration has wrong, and where in it."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))  # empty where values contradict each other
    return (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ")


def binding_problems(calibration: Calibration, binding: Mapping[str, Any]) -> list[str]:
    """Why a calibration does not speak of labels made as `binding` (the fields of `Binding`) says; empty: it does."""
    if calibration.binding is None:
        return ["it was made from rows that do not say which judge they are of; calibrate a label run of this judge"]
    return differences(calibration.binding.model_dump(), Binding.model_validate(dict(binding)).model_dump())


def _binding_of(labels: Path) -> Binding | None:
    """Whose labels the run.json beside them says they are; None where there is none."""
    file = labels.with_name("run.json")
    try:
        return Binding.model_validate(orjson.loads(file.read_bytes())["identity"]["binding"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{file} cannot be read as that of a label run ({type(error).__name__}); restore it") from error


def _report(
    read: JudgedRows, source: str, binding: Binding | None, delta: float, targets: Sequence[float]
) -> CalibrationReport:
    rows = read.rows
    if not rows:
        counts = f"{read.unlabelled:,} have no human label, {read.invalid:,} no valid vote of the judge"
        raise InputError(f"no row can be compared: {counts}; label pairs whose better reply people named", source)
    zs, truths = [row.z for row in rows], [row.truth for row in rows]
    ps = [probability(z) for z in zs]
    temperature, held = fit_temperature(zs, truths), _held_out(rows)
    metrics, baselines = measure(ps, truths), _baselines(rows)
    calibration = Calibration(
        binding=binding,
        n=len(rows),
        temperature=temperature,
        delta=delta,
        thresholds=certify_all(ps, truths, temperature, delta, targets),
        before=None if held is None else metrics,  # every pair is held out once
        after=None if held is None else measure(held, truths),
    )
    notes = tuple(_notes(metrics, baselines, calibration, read))
    return CalibrationReport(
        source=source,
        calibration=calibration.model_copy(update={"notes": notes}),
        metrics=metrics,
        rows=rows,
        held_out=held,
        baselines=baselines,
        invalid=read.invalid,
        unlabelled=read.unlabelled,
        notes=notes,
    )


def _held_out(rows: Sequence[Judged]) -> tuple[float, ...] | None:
    """Of every row its p at the temperature that the other folds fit; None with fewer than five keys.

    Keys are dealt to the folds in the order of their hashes: the same rows lie in the same folds in any order.
    """
    keys = sorted(
        {row.key for row in rows}, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    )
    if len(keys) < FOLDS:
        return None
    fold = {key: place % FOLDS for place, key in enumerate(keys)}
    fitted = []
    for number in range(FOLDS):
        others = [row for row in rows if fold[row.key] != number]
        fitted.append(fit_temperature([row.z for row in others], [row.truth for row in others]))
    return tuple(probability(row.z, fitted[fold[row.key]]) for row in rows)


def _baselines(rows: Sequence[Judged]) -> dict[str, Baseline]:
    names = dict.fromkeys(name for row in rows for name in row.guesses)
    found = {}
    for name in names:
        credits = [credit(row.guesses[name], row.truth) for row in rows if name in row.guesses]
        found[name] = Baseline(accuracy=math.fsum(credits) / len(credits), n=len(credits))
    return found


def _notes(metrics: Metrics, baselines: dict[str, Baseline], made: Calibration, read: JudgedRows) -> Iterator[str]:
    name, best = max(baselines.items(), key=lambda item: item[1].accuracy)
    if metrics.interval[0] <= best.accuracy:
        yield f"the judge is not clearly better than a trivial one: {TRIVIAL[name]} ({best.accuracy:.1%})"
    yield from _weaknesses(made)
    prompts = len({row.key for row in read.rows})
    if prompts < metrics.n:
        yield f"{metrics.n:,} pairs of {prompts:,} prompts: thresholds take them to be independent, which these are not"
    if read.numbering:
        yield f"human labels are read so: {read.numbering}"
    if made.binding is None:
        yield "the rows do not say which judge they are of: cai label --calibration will refuse this calibration"


def _weaknesses(made: Calibration) -> Iterator[str]:
    """Why a temperature means nothing."""
    if made.n < FEW:
        yield f"{made.n} pairs are too few for a temperature: 50 to 100 suffice, thresholds need 100 to 500"
    if made.temperature in (COLDEST, HOTTEST):
        why = "its confidences say nothing here" if made.temperature == HOTTEST else "every label is right here"
        yield f"the temperature is at the bound of what is tried ({made.temperature:g}): {why}"


def untrustworthy(report: CalibrationReport) -> str | None:
    """In a sentence, why no label should be corrected by this calibration; None: nothing is known against it."""
    return next(_weaknesses(report.calibration), None)


def _metrics_line(name: str, one: Metrics) -> str:
    auroc = "–" if one.auroc is None else f"{one.auroc:.3f}"
    return f"  {name:22}{one.ece:8.3f}{one.brier:8.3f}{one.nll:8.3f}{auroc:>8}"
