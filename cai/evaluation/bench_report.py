"""What a bench found of one judge, and how it is told: as JSON, in a sentence, and side by side with others in a table.

Knows names, units and widths; nothing of runs, nor of how anything is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai.judge.calibration import FEW
from cai.judge.calibration_report import TRIVIAL, CalibrationReport
from cai.judge.certify import TARGETS
from cai.judge.metrics import at_least, confidence
from cai.records import Protocol, Record

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
