"""`cai judge bench`: judges held against people, on pairs that people have labelled, side by side.

Every judge and protocol is a label run of its own, which goes on where it stopped. The comparison with people is
`calibration`'s; what both orders tell of a judge is counted here. Knows no formulas of its own, and prints nothing.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cai.calibrate import TARGETS, Binding, at_least, confidence, credit, probability
from cai.calibration import FEW, TRIVIAL, CalibrationReport, calibrate_rows
from cai.constitution import Constitution, load_constitution
from cai.contests import Source, read_contests
from cai.errors import ModelStopped, SourceError, UsageError
from cai.job import Job, Place
from cai.judge import log_ratio, mean_preference
from cai.labelling import LabelSettings, LabelSetup, resolve
from cai.records import BadPrompt, Label, Protocol, Record, Vote
from cai.settings import make_settings, open_models, spec_of
from cai.trial import NOT_ASKED, Play, quietly, read_labels

MEASURED = (
    "accuracy", "interval", "kappa", "ece", "brier", "nll", "auroc", "temperature", "coverage", "thresholds", "delta",
    "promise", "held_out", "baselines", "binding", "notes",
)  # fmt: skip
SURE = 0.7  # the confidence that is asked for where nothing is certified
NAME, LEAST, COLUMN = 28, 19, 26  # widths in a table: of what is told, and of a judge's column


class VoteFigures(Record):
    """What asking in both orders tells of a judge; a vote is one principle of one pair, asked in both."""

    votes: int
    invalid_vote_rate: float | None
    single_order_accuracy: float | None  # as judged in one order alone; None: no vote is valid
    accuracy_a_first: float | None  # its two halves
    accuracy_b_first: float | None
    consistent_accuracy: float | None  # of single votes, where one whose letter stays when the replies change is wrong
    position_consistency: float | None  # 1 - flip_rate
    flip_rate: float | None  # of valid votes, those that name the same place in both orders: |b| > |d|
    bias: float | None  # mean b, in nats towards the first; None: the judge gives no probabilities
    absolute_bias: float | None  # mean |b|
    mass: float | None  # median probability of both letters together, of all readings


class Spent(Record):
    """What one label took, on the average; None where it is not known."""

    calls: float | None
    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None
    seconds: float | None  # of the whole run, starting the model included, by the labels it made


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What one judge, asked by one protocol, came to."""

    judge: str  # the spec that was named
    model: str  # provider:name
    protocol: Protocol
    folder: str | None  # the label run; None: nothing is kept
    pairs: int  # that people labelled and the judge was given
    unlabelled: int  # pairs left out: nobody says which reply is better
    judged: int
    dropped: dict[str, int]  # by reason, those of the source included
    report: CalibrationReport | None  # None: the judge gave no valid vote at all
    figures: VoteFigures | None  # None: a reward model casts no votes
    longer: tuple[float, float] | None  # share of pairs in which the judge, and people, prefer the longer reply
    spent: Spent
    stopped: str | None  # why the run ended early

    @property
    def name(self) -> str:
        """The judge and how it was asked."""
        return f"{self.judge} ({self.protocol})"

    @property
    def sure(self) -> tuple[float, float] | None:
        """Mean confidence as judged, before any temperature, and the share of pairs of at least 0.7."""
        if self.report is None:
            return None
        ps = self.report.ps
        return statistics.fmean(map(confidence, ps)), at_least(ps, self.report.truths, SURE)[0]

    def summary(self) -> dict[str, Any]:
        """The result as JSON: the keys of `cai judge calibrate`, None where no vote is valid, and more."""
        names = ("judge", "model", "protocol", "folder", "pairs", "judged", "unlabelled", "dropped", "stopped")
        measured = {} if self.report is None else self.report.summary()
        sure, longer = self.sure or (None, None), self.longer or (None, None)
        return {
            **{name: getattr(self, name) for name in names},
            **{name: measured.get(name) for name in MEASURED},
            "n": measured.get("n", 0),
            "invalid": self.judged - measured.get("n", 0),
            **(dict.fromkeys(VoteFigures.model_fields) if self.figures is None else self.figures.model_dump()),
            "prefers_longer": longer[0],
            "people_prefer_longer": longer[1],
            "mean_confidence": sure[0],
            "confident": sure[1],
            "per_label": self.spent.model_dump(),
            "verdict": self.verdict(),
        }

    def verdict(self) -> str:
        """In a sentence: whether the judge is better than a coin, and than judges that read nothing."""
        if self.report is None:
            return f"{self.name}: no pair has a valid vote, so nothing can be said of its labels"
        found, (low, high) = self.report.metrics, self.report.metrics.interval
        name, best = max(self.report.baselines.items(), key=lambda item: item[1].accuracy)
        coin = (
            "is wrong more often than a coin" if high < 0.5
            else "cannot be told from a coin: the interval holds 50 %" if low <= 0.5
            else "is better than a coin"
        )  # fmt: skip
        trivial = (
            "is no better than" if found.accuracy <= best.accuracy
            else "is not clearly better than" if low <= best.accuracy
            else "is better than"
        )  # fmt: skip
        return (
            f"{self.name} agrees with people on {found.accuracy:.1%} of {found.n:,} pairs (95 % interval {low:.1%} to "
            f"{high:.1%}): it {coin}, and {trivial} the best trivial judge ({TRIVIAL[name]}, {best.accuracy:.1%})"
        )


@dataclass(frozen=True)
class BenchSetup(LabelSetup):
    """A label run over pairs that people have labelled. named: the judge's spec as it was given."""

    named: str = ""
    gold: tuple[Place, ...] = ()
    unlabelled: int = 0

    @property
    def cuts(self) -> bool:
        """These pairs measure a judge: nothing is trained on them."""
        return False

    @property
    def countable(self) -> bool:
        """They lie in memory."""
        return True

    def places(self) -> Iterator[Place]:
        """The labelled pairs, and the records that hold none."""
        return iter(self.gold)


def judge_bench(
    gold: Source,
    judges: str | Sequence[str],
    constitution: str | Path | Constitution = "hhh",
    *,
    protocols: Sequence[str] = (),
    out: str | Path | None = None,
    **settings: Any,
) -> list[BenchResult]:
    """Hold judges against people; one result for each judge and protocol, in the order given.

    gold: pairs as `cai label` reads them, of which people's choice is known. judges: model specs. protocols: none: the
    best that each judge can do; a reward model is always asked by its own. out: a folder for the label runs, one
    in a folder each, which go on where they stopped; None: nothing is kept. settings: fields of `LabelSettings` such as
    `principles`, `limit` (of labelled pairs) and `max_cost` (of all runs together).
    A judge that cannot go on has a result with `stopped`. Raises what else keeps a label run from beginning.
    """
    named = [judges] if isinstance(judges, str) else judges
    law = constitution if isinstance(constitution, Constitution) else load_constitution(constitution)
    with TemporaryDirectory(prefix="cai-") as scratch:
        found = run_bench(resolve_bench(gold, named, law, protocols, out or scratch, settings))
    return found if out else [replace(result, folder=None) for result in found]


def resolve_bench(
    gold: Source,
    judges: Sequence[str],
    law: Constitution,
    protocols: Sequence[str],
    out: str | Path,
    given: Mapping[str, Any],
) -> list[BenchSetup]:
    """Check everything that can be checked before the first call; `given` are fields of `LabelSettings`."""
    for name in NOT_ASKED:
        if name in given:
            raise UsageError(f"{name!r} is for labels that are kept for training: a bench keeps none")
    # 0.5: beliefs after reasoning are looked at as they are, not filtered
    settings = make_settings(LabelSettings, {**given, "min_confidence": 0.5})
    models = open_models(settings, {spec: spec for spec in judges})  # together: no key may go to another's server
    places, unlabelled = _labelled(gold, settings.limit)
    setups: dict[tuple[str, Protocol], BenchSetup] = {}
    folders: set[str] = set()
    for spec, model in models.items():
        for protocol in (None,) if model.can.reward else tuple(protocols) or (None,):
            base = resolve(gold, law, replace(settings, judge=spec, protocol=protocol))
            if (spec, base.protocol) in setups:
                continue
            folder = _slug(spec, base.protocol, folders)
            placed = replace(base.settings, out=Path(out) / folder)
            more = {"settings": placed, "named": spec, "gold": places, "unlabelled": unlabelled}
            setups[spec, base.protocol] = BenchSetup(
                **{each.name: getattr(base, each.name) for each in fields(base)} | more
            )
    return list(setups.values())


def run_bench(setups: Iterable[BenchSetup], play: Play = quietly) -> list[BenchResult]:
    """Play every run to its end, or as far as its judge goes, and measure its labels."""
    spent, results = 0.0, []
    for setup in setups:
        job: Job[Label] = Job(setup, setup.out, spent=spent)
        stopped = None
        try:
            play(job)
        except ModelStopped as error:
            stopped = str(error)
        spent += job.info.get("cost_usd") or 0.0
        results.append(_measured(setup, job.info, stopped))
    return results


def _labelled(gold: Source, limit: int | None) -> tuple[tuple[Place, ...], int]:
    """The pairs of which people's choice is known, with the bad records among them, and how many were left out."""
    places: list[Place] = []
    unlabelled = labelled = 0
    for position, item in read_contests(gold):
        if not isinstance(item, BadPrompt) and getattr(item, "human", None) is None:
            unlabelled += 1
            continue
        labelled += not isinstance(item, BadPrompt)
        places.append((position, item))
        if labelled == limit:
            break
    if not labelled:
        where = gold if isinstance(gold, str | Path) else None
        raise SourceError("no pair says which reply people prefer: chosen and rejected, or a label", where)
    return tuple(places), unlabelled


def _slug(spec: str, protocol: Protocol, taken: set[str]) -> str:
    """The name of a run's folder: provider, the end of the model's name, and protocol."""
    provider, _, name = spec.partition(":")
    name = re.sub(r"[^\w.]+", "-", name.rstrip("/").rpartition("/")[2])
    slug = numbered = "-".join(filter(None, (provider, name, protocol)))
    while numbered in taken:
        numbered = f"{slug}-{len(taken) + 1}"
    taken.add(numbered)
    return numbered


# What the labels say


def _measured(setup: BenchSetup, info: Mapping[str, Any], stopped: str | None) -> BenchResult:
    wanted = {position for position, item in setup.gold if not isinstance(item, BadPrompt)}
    rows = [label for label in read_labels(setup.out / "labels.jsonl") if label.position in wanted]
    rows.sort(key=lambda label: label.position)  # the same numbers in whatever order they were finished
    valid = any(label.z is not None for label in rows)
    report = calibrate_rows(rows, binding=Binding.model_validate(setup.identity["binding"])) if valid else None
    weighted = setup.settings.principles >= len(setup.constitution.principles_for("judge"))
    return BenchResult(
        judge=setup.named,
        model=spec_of(setup.players["judge"]),
        protocol=setup.protocol,
        folder=str(setup.out),
        pairs=len(wanted),
        unlabelled=setup.unlabelled,
        judged=len(rows),
        dropped=dict(info.get("dropped", {})),
        report=report,
        figures=None if setup.protocol == "reward" else vote_figures(rows, weighted=weighted),
        longer=None if report is None else _longer(report),
        spent=_spent(rows, info),
        stopped=stopped,
    )


def vote_figures(rows: Iterable[Label], *, weighted: bool) -> VoteFigures:
    """What the votes of labels with a human verdict tell; weighted: principles count by weight, not alike."""
    votes = mine = flips = right = 0
    biases: list[float] = []
    masses: list[float] = []
    halves: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        truth = row.human == "a"
        valid = [vote for vote in row.votes if vote.valid]
        votes, mine = votes + len(row.votes), mine + len(valid)
        for vote in row.votes:
            masses += [reading.mass for reading in (vote.ab, vote.ba) if reading.mass is not None]
        for vote in valid:
            flips += vote.ab.choice == vote.ba.choice is not None
            right += (vote.ab.choice, vote.ba.choice) == (("first", "second") if truth else ("second", "first"))
        biases += [vote.b for vote in valid if vote.b is not None]
        if valid:
            for half, p in zip(halves, one_order(valid, weighted=weighted), strict=True):
                half.append(credit(p, truth))
    first, second = (statistics.fmean(half) if half else None for half in halves)
    return VoteFigures(
        votes=votes,
        invalid_vote_rate=(votes - mine) / votes if votes else None,
        single_order_accuracy=None if first is None or second is None else (first + second) / 2,
        accuracy_a_first=first,
        accuracy_b_first=second,
        consistent_accuracy=right / mine if mine else None,
        position_consistency=1 - flips / mine if mine else None,
        flip_rate=flips / mine if mine else None,
        bias=statistics.fmean(biases) if biases else None,
        absolute_bias=statistics.fmean(map(abs, biases)) if biases else None,
        mass=statistics.median(masses) if masses else None,
    )


def one_order(votes: Sequence[Vote], *, weighted: bool) -> tuple[float, float]:
    """Probability that a is better by the valid votes of one order alone: with a shown first, and with b first.

    Of votes in words the share for a.
    """
    if any(vote.d is None for vote in votes):
        a_first = sum(vote.ab.choice == "first" for vote in votes) / len(votes)
        return a_first, sum(vote.ba.choice == "second" for vote in votes) / len(votes)
    halves = []
    for order, sign in (("ab", 1), ("ba", -1)):
        ratios = [(vote, log_ratio(getattr(vote, order)) or 0.0) for vote in votes]
        z = mean_preference([vote.model_copy(update={"d": sign * ratio}) for vote, ratio in ratios], weighted=weighted)
        halves.append(probability(z or 0.0))
    return halves[0], halves[1]


def _longer(report: CalibrationReport) -> tuple[float, float] | None:
    """How often the judge, and people, prefer the longer reply, among pairs whose lengths differ."""
    rows = [(row, row.guesses["longer"] == 1) for row in report.rows if row.guesses["longer"] != 0.5]
    if not rows:
        return None
    judge = statistics.fmean(credit(probability(row.z), first) for row, first in rows)
    return judge, statistics.fmean(row.truth == first for row, first in rows)


def _spent(rows: Sequence[Label], info: Mapping[str, Any]) -> Spent:
    made = info.get("rows") or 0
    cost = info.get("cost_usd")
    return Spent(
        calls=statistics.fmean(len(row.calls) for row in rows) if rows else None,
        input_tokens=_mean([row.usage.input_tokens for row in rows]),
        output_tokens=_mean([row.usage.output_tokens for row in rows]),
        cost_usd=cost / made if made and cost is not None else None,
        seconds=info["seconds"] / made if made else None,
    )


def _mean(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return statistics.fmean(known) if known and len(known) == len(counts) else None


# What people are told


def lines(results: Sequence[BenchResult]) -> Iterator[str]:
    """The results side by side, and a sentence on each."""
    told = [result.summary() for result in results]
    width = min(COLUMN, max(LEAST, *(len(row["judge"]) + 2 for row in told)))
    names = [row["judge"] if len(row["judge"]) < width else "…" + row["judge"][2 - width :] for row in told]
    yield f"{'':{NAME}}" + "".join(f"{name:>{width}}" for name in names)
    yield f"{'':{NAME}}" + "".join(f"{row['protocol']:>{width}}" for row in told)
    for section, entries in TABLE.items():
        yield section
        for name, show in entries.items():
            yield f"  {name:{NAME - 2}}" + "".join(f"{show(row):>{width}}" for row in told)
    left = results[0].unlabelled
    yield ""
    if left:
        yield f"{left:,} pairs left out: nobody says which reply is better"
    for result in results:
        yield result.verdict()
        if result.report is not None and result.report.metrics.n < FEW:
            yield f"  {result.report.metrics.n} pairs are too few for a temperature or a threshold: take 100 or more"
        if result.stopped is not None:
            yield f"{result.name} is not finished, the same command goes on where it stopped: {result.stopped}"


Show = Callable[[Mapping[str, Any]], str]  # of a result's summary: what stands in its column


def _number(*path: str, form: str = ".3f") -> Show:
    def show(row: Any) -> str:
        for key in path:
            row = None if row is None else row.get(key)
        return "–" if row is None else format(row, form)

    return show


def _share(*path: str) -> Show:
    return _number(*path, form=".1%")


def _interval(row: Mapping[str, Any]) -> str:
    return "–" if row["interval"] is None else "{:.1%} to {:.1%}".format(*row["interval"])


def _promise(target: str) -> Show:
    def show(row: Mapping[str, Any]) -> str:
        at = (row["thresholds"] or {}).get(target)
        return "none" if at is None else f"{at['lambda']:.3f}, keeps {at['coverage']:.0%}"

    return show


TABLE: dict[str, dict[str, Show]] = {
    "pairs": {
        "labelled by people": _number("pairs", form=","),
        "judged": _number("judged", form=","),
        "without a valid vote": _number("invalid", form=","),
        "invalid votes": _share("invalid_vote_rate"),
        "letter mass, median": _number("mass"),
    },
    "agreement with people": {
        "judge, both orders": _share("accuracy"),
        "  95 % interval": _interval,
        "  kappa": _number("kappa"),
        **{name: _share("baselines", key, "accuracy") for key, name in TRIVIAL.items()},
        "judge, one order alone": _share("single_order_accuracy"),
        "single votes, flips wrong": _share("consistent_accuracy"),
    },
    "position": {
        "same verdict both ways": _share("position_consistency"),
        "flips with the order": _share("flip_rate"),
        "bias b to the first, nats": _number("bias", form="+.3f"),
        "mean |b|, nats": _number("absolute_bias"),
    },
    "length": {
        "judge prefers the longer": _share("prefers_longer"),
        "people prefer the longer": _share("people_prefer_longer"),
    },
    "confidence": {
        "mean": _number("mean_confidence"),
        f"pairs of at least {SURE}": _share("confident"),
        "ECE": _number("ece"),
        "Brier": _number("brier"),
        "NLL": _number("nll"),
        "AUROC": _number("auroc"),
        "temperature T": _number("temperature", form=".3g"),
        "ECE held out, before T": _number("held_out", "before", "ece"),
        "ECE held out, after T": _number("held_out", "after", "ece"),
        "NLL held out, before T": _number("held_out", "before", "nll"),
        "NLL held out, after T": _number("held_out", "after", "nll"),
    },
    "certified agreement": {f"at least {target}": _promise(str(target)) for target in TARGETS},
    "one label takes": {
        "calls": _number("per_label", "calls", form=".1f"),
        "tokens in": _number("per_label", "input_tokens", form=",.0f"),
        "tokens out": _number("per_label", "output_tokens", form=",.0f"),
        "USD": _number("per_label", "cost_usd", form=".6f"),
        "seconds": _number("per_label", "seconds"),
    },
}
