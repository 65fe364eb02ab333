"""The results of a bench, for one judge and for several side by side: as JSON, in a sentence, and as a table."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from cai.engine.letters import NO_MASS, probability
from cai.export.options import MIN_CONFIDENCE
from cai.judge.calibration import CalibrationReport
from cai.judge.certify import FEW, TARGETS
from cai.judge.metrics import at_least, average, confidence, credit
from cai.judge.trivial import TRIVIAL
from cai.records import Protocol, Record, Values
from cai.texts.wording import report_lines

MEASURED = (
    "accuracy", "interval", "kappa", "ece", "brier", "nll", "auroc", "temperature", "coverage", "thresholds", "delta",
    "promise", "held_out", "baselines", "binding", "notes",
)  # fmt: skip
WIDEST = 24  # characters of a judge's name in the table


class VoteFigures(Record):
    """What asking in both orders says about a judge; a vote is one principle of one pair, asked in both."""

    votes: int | None = None
    invalid_vote_rate: float | None = None
    single_order_accuracy: float | None = None  # as judged in a single order; None: no vote is valid
    accuracy_a_first: float | None = None  # its two halves
    accuracy_b_first: float | None = None
    consistent_accuracy: float | None = None  # of single votes; one that keeps its letter if the replies swap is wrong
    position_consistency: float | None = None  # 1 - flip_rate
    flip_rate: float | None = None  # of valid votes, those that name the same place in both orders: |b| > |d|
    bias: float | None = None  # mean b, in nats towards the first; None: the judge gives no probabilities
    absolute_bias: float | None = None  # mean |b|
    mass: float | None = None  # median probability of both letters together, of all readings; None: not known
    clipped: int = Field(default=0, exclude=True)  # typed questions whose probability was too near to 0 or 1


class LabelCost(Record):
    """What one label took on average; None if that is not known."""

    calls: float | None
    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None
    seconds: float | None  # of the whole run, starting the model included, by the labels it made


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The result of one judge, asked by one protocol."""

    judge: str  # the spec that was named
    model: str  # provider:name
    protocol: Protocol
    folder: str | None  # the label run; None: nothing is kept
    pairs: int  # that people labelled and the judge was asked about
    unlabelled: int  # pairs left out, as they have no human label
    judged: int
    dropped: dict[str, int]  # by reason, those of the source included
    report: CalibrationReport | None  # None: the judge gave no valid vote at all
    figures: VoteFigures | None  # None: a reward model casts no votes
    spent: LabelCost
    stopped: str | None  # why the run ended early

    @property
    def name(self) -> str:
        """The judge and how it was asked."""
        return f"{self.judge} ({self.protocol})"

    def summary(self) -> Values:
        """The result as JSON: the keys of `cai judge calibrate`, None if no vote is valid, and more."""
        names = ("judge", "model", "protocol", "folder", "pairs", "judged", "unlabelled", "dropped", "stopped")
        measured = {} if self.report is None else self.report.summary()
        figures = self.figures or VoteFigures()
        return {
            **{name: getattr(self, name) for name in names},
            **{name: measured.get(name) for name in MEASURED},
            "n": measured.get("n", 0),
            "invalid": self.judged - measured.get("n", 0),
            **figures.model_dump(),
            **self._lengths_and_confidences(),
            "per_label": self.spent.model_dump(),
            "verdict": self.verdict(),
            **self._of_decisions(figures),
        }

    def _of_decisions(self, figures: VoteFigures) -> Values:
        """What only typed questions have: why their mass is not known, and how many were clipped."""
        if self.protocol != "decide":
            return {}
        return {"mass_reason": NO_MASS, "clipped": figures.clipped}

    def _lengths_and_confidences(self) -> dict[str, float | None]:
        """How often the longer reply is preferred, if lengths differ; confidences before any temperature."""
        report = self.report
        if report is None:
            return dict.fromkeys(("prefers_longer", "people_prefer_longer", "mean_confidence", "confident"))
        unequal = [(row, row.guesses["longer"] == 1) for row in report.rows if row.guesses["longer"] != 0.5]
        return {
            "prefers_longer": average([credit(probability(row.z), longer) for row, longer in unequal]),
            "people_prefer_longer": average([credit(float(longer), row.truth) for row, longer in unequal]),
            "mean_confidence": average(list(map(confidence, report.ps))),
            "confident": at_least(report.ps, report.truths, MIN_CONFIDENCE)[0],
        }

    def verdict(self) -> str:
        """In a sentence: whether the judge is better than a coin, and than judges that read nothing."""
        if self.report is None:
            return f"{self.name}: no pair has a valid vote, so nothing can be said of its labels"
        metrics = self.report.metrics
        low, high = metrics.interval
        name, best = max(self.report.baselines.items(), key=lambda item: item[1].accuracy)
        coin = "is better than a coin"
        if high < 0.5:
            coin = "is wrong more often than a coin"
        elif low <= 0.5:
            coin = "cannot be told from a coin: the interval holds 50 %"
        trivial = "is better than"
        if metrics.accuracy <= best.accuracy:
            trivial = "is no better than"
        elif low <= best.accuracy:
            trivial = "is not clearly better than"
        return (
            f"{self.name} agrees with people on {metrics.accuracy:.1%} of {metrics.n:,} pairs (95 % interval {low:.1%} "
            f"to {high:.1%}): it {coin}, and {trivial} the best trivial judge ({TRIVIAL[name]}, {best.accuracy:.1%})"
        )


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The results of all judges on the same pairs."""

    gold: str
    results: tuple[BenchResult, ...]

    def summary(self) -> Values:
        """The results as JSON."""
        return {"gold": self.gold, "results": [result.summary() for result in self.results]}

    def lines(self) -> list[str]:
        """The results side by side, and a sentence on each."""
        return report_lines(
            __file__,
            report=self,
            judges=self.summary()["results"],
            trivial=TRIVIAL,
            targets=TARGETS,
            min_confidence=MIN_CONFIDENCE,
            few=FEW,
            widest=WIDEST,
            no_mass=NO_MASS,
        )
