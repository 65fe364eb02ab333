"""Compares a judge's labels with people's, and makes the `calibration.json` that labelling uses. Asks no model."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from cai.disk.writing import unwritable, write_atomically
from cai.engine.letters import probability
from cai.errors import InputError, RunError
from cai.folder.info import find_info
from cai.folder.shards.join import join
from cai.judge.certify import DELTA, FILE, TARGETS, Binding, Calibration, certify_all, fit_temperature, weaknesses
from cai.judge.majority import People
from cai.judge.metrics import Metrics, at_least, credit, measure
from cai.judge.people import Judged, JudgedRows, read_judged
from cai.judge.trivial import TRIVIAL
from cai.judge.votes import labels_and_votes, read_people
from cai.records import Record, Values
from cai.sources.files import Source, read_records
from cai.texts.wording import counted, listed, report_lines

FOLDS = 5
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # confidences whose coverage is reported


class Baseline(Record):
    """A judge that reads nothing: how often it agrees with people; a pair it cannot decide counts half."""

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
    def coverage(self) -> dict[float, tuple[float, float | None]]:
        """For some levels, the share of pairs of at least this confidence as judged, and their accuracy."""
        return {level: at_least(self.ps, self.truths, level) for level in LEVELS}

    @property
    def truths(self) -> list[float]:
        """Whether people prefer the first reply: 1, 0, or 0.5 for a tie."""
        return [row.truth for row in self.rows]

    def summary(self) -> Values:
        """The report as JSON; its keys are a contract."""
        calibration = self.calibration.model_dump()
        held_out = {name: calibration[name] for name in ("before", "after")}
        return {
            "source": self.source,
            **self.metrics.model_dump(),
            "temperature": calibration["temperature"],
            "coverage": {
                str(level): {"coverage": share, "accuracy": right} for level, (share, right) in self.coverage.items()
            },
            "thresholds": self.calibration.promises(),
            "delta": calibration["delta"],
            "promise": calibration["promise"],
            "held_out": None if self.held_out is None else held_out,
            "baselines": {name: judge.model_dump() for name, judge in self.baselines.items()},
            "invalid": self.invalid,
            "unlabelled": self.unlabelled,
            "binding": calibration["binding"],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The report for people to read."""
        return report_lines(__file__, report=self, trivial=TRIVIAL)

    def save(self, folder: Path, *, plots: bool) -> list[str]:
        """Write calibration.json and, with `plots`, two diagrams; returns the names written. Raises RunError."""
        content = {FILE: self.calibration.model_dump_json(indent=2).encode() + b"\n"}
        if plots:
            from cai.judge.plots import plot_reliability, plot_risk_coverage

            temperature = self.calibration.temperature
            after = self.held_out or [probability(row.z, temperature) for row in self.rows]
            baselines = {TRIVIAL[name]: judge.accuracy for name, judge in self.baselines.items()}
            thresholds = self.calibration.thresholds
            content["reliability.png"] = plot_reliability(self.ps, after, self.truths)
            content["risk-coverage.png"] = plot_risk_coverage(self.ps, self.truths, baselines, thresholds)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error, "choose another --out") from error
        for name, data in content.items():
            write_atomically(folder / name, data)
        return list(content)


def calibrate_judge(
    source: Source,
    *,
    gold: str | Path | People | None = None,
    delta: float = DELTA,
    targets: Sequence[float] = TARGETS,
    binding: Binding | None = None,
) -> CalibrationReport:
    """Compare a judge's labels with people's; docs/judging.md has the arithmetic.

    source: a label run or its labels.jsonl, a file of rows with probabilities and human labels, or an iterable of such
    rows or `Label`s. gold: who says what people prefer, instead of the rows: a file of votes or of pairs with human
    labels; None: the gold.jsonl of a run whose rows do not say it. targets: agreements to certify. binding: the judge
    of the rows, if known; a label run names its own. Raises InputError, RunError or UsageError.
    """
    if not isinstance(source, str | Path):
        people = read_people(gold) if isinstance(gold, str | Path) else gold
        return _report(read_judged(enumerate(source, 1), "rows", people), "rows", binding, delta, targets, people)
    join(Path(source))
    votes = None if isinstance(gold, People) else gold
    file, votes = labels_and_votes(source, votes)
    people = gold if isinstance(gold, People) else None
    if votes is not None:
        people = read_people(votes)
    read = read_judged(read_records(file), file, people)
    info = find_info(file.parent) if read.labels else None
    if info is not None:
        try:
            binding = Binding.model_validate(info["identity"].get("binding"))
        except ValidationError:
            raise RunError(f"{file.with_name('run.json')} is not that of a label run: it names no judge") from None
    return _report(read, str(source), binding, delta, targets, people)


def _report(
    read: JudgedRows,
    source: str,
    binding: Binding | None,
    delta: float,
    targets: Sequence[float],
    people: People | None,
) -> CalibrationReport:
    rows = read.rows
    if not rows:
        raise _nothing_to_compare(read, source, people)
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
    # People skip what is hard. A tie is an error for thresholds: with skipped pairs as ties the promise holds for all
    # pairs that were drawn, whatever they would have been called.
    drawn = [*ps, *map(probability, read.undecided)]
    verdicts = [*truths, *(0.5 for _ in read.undecided)]
    calibration = Calibration(
        binding=binding,
        n=len(drawn),
        temperature=temperature,
        delta=delta,
        thresholds=certify_all(drawn, verdicts, temperature, delta, targets),
        before=before,
        after=after,
    )
    notes = (*_notes(metrics, baselines, calibration, read), *_notes_on_people(people, read))
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


def _nothing_to_compare(read: JudgedRows, source: str, people: People | None) -> InputError:
    counts = f"{read.unlabelled:,} have no human label"
    if read.invalid:
        counts += f", {read.invalid:,} have no valid vote of the judge"
    if read.dropped:
        counts += f", {len(read.dropped):,} were dropped ({read.dropped[0]})"
    advice = "label pairs whose better reply people named"
    if read.labels:
        advice = "label some of its pairs by hand (cai view), or name pairs with human labels as --gold"
    return InputError("; ".join([f"no row can be compared: {counts}", *_notes_on_people(people, read), advice]), source)


def _held_out(rows: Sequence[Judged]) -> tuple[float, ...] | None:
    """The p of every row at the temperature that the other folds fit; None with fewer than five keys.

    Keys are dealt to the folds in the order of their hashes, so the folds do not depend on the order of the rows.
    """
    keys = sorted({row.key for row in rows}, key=lambda key: sha256(key.encode("utf-8", "surrogatepass")).digest())
    if len(keys) < FOLDS:
        return None
    fold = {key: place % FOLDS for place, key in enumerate(keys)}
    temperatures = []
    for place in range(FOLDS):
        others = [row for row in rows if fold[row.key] != place]
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
    ties = sum(row.truth == 0.5 for row in read.rows)
    if ties:
        yield f"people call {counted(ties, 'pair')} a tie: half right, whatever the judge says; an error for thresholds"
    if read.normalised:
        yield f"{counted(read.normalised, 'pair')} of probabilities missed 1 in the sum by up to 0.1: divided by it"
    if read.dropped:
        yield f"{counted(len(read.dropped), 'row')} dropped: {listed(read.dropped, most=3)}"
    if read.numbering:
        yield f"human labels are read as: {read.numbering}"
    if calibration.binding is None:
        yield "the rows do not name their judge: cai label --calibration will refuse this calibration"


def _notes_on_people(people: People | None, read: JudgedRows) -> Iterator[str]:
    if people is None:
        return
    if read.undecided:
        drawn = len(read.rows) + len(read.undecided)
        share = f"{len(read.undecided):,} of {counted(drawn, 'pair')} drawn ({len(read.undecided) / drawn:.1%})"
        yield f"{share} were skipped or taken back: each is an error for thresholds, as people skip what is hard"
    if read.late:
        late = f"{counted(read.late, 'drawn pair')} would have come later in the random order of all these rows"
        yield f"{late}: the run has grown since, or pairs before them were opened and passed over"
    if read.strangers:
        yield f"{counted(read.strangers, 'pair')} of people not among the judge's: other replies, or never judged"
    yield from people.notes()
