"""What an evaluation says: figures with their intervals, by suite and model, as rows of `evaluation.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cai.evaluation.statistics.estimates import NOTHING, Estimate
from cai.records import Record
from cai.texts.wording import report_lines

Unit = Literal["share", "number", "bits", "elo"]  # a share is in [0, 1]; a difference of shares in [-1, 1]
FILE = "evaluation.json"
AGAIN = "run the same command again"


class Figure(Record):
    """A number and its 95 % interval."""

    value: float | None  # None: it cannot be known; the note of its line says why
    low: float | None = None  # None, as `high`: no interval can be given
    high: float | None = None
    n: int  # independent units that it rests on: prompts, or items of a probe


def figure_of(estimate: Estimate) -> Figure:
    """An estimate as a figure."""
    return Figure(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


class Line(Record):
    """One measure of one model."""

    model: str  # the name of a contestant
    measure: str  # such as "win rate"; a suite says the same of every model
    unit: Unit
    figure: Figure
    difference: Figure | None = None  # to BASE, paired by prompt or item; None: the model is BASE, or it is not known
    note: str = ""


def line_of(model: str, measure: str, unit: Unit, value: Estimate, change: Estimate | None = None, *notes: str) -> Line:
    """A line whose note says of what is not known why it is not; change: the difference to BASE."""
    reasons = [*filter(None, notes)]
    if value.reason and not (reasons and value.value is None and value.reason == NOTHING):
        reasons.append(value.reason)
    if change is not None and change.reason not in ("", value.reason):
        why = "no prompt or item is shared with it" if change.reason == NOTHING else change.reason
        reasons.append(f"against BASE: {why}")
    return Line(
        model=model,
        measure=measure,
        unit=unit,
        figure=figure_of(value),
        difference=None if change is None else figure_of(change),
        note="; ".join(reasons),
    )


class Result(Record):
    """What one suite found."""

    suite: str
    title: str
    skipped: str | None = None  # why nothing was measured; None: it was
    facts: tuple[str, ...] = ()  # to be read before the figures, such as the smallest difference that can be shown
    lines: tuple[Line, ...] = ()
    warnings: tuple[str, ...] = ()
    details: dict[str, Any] = Field(
        default_factory=dict
    )  # of the suite, as JSON: counts, curves, what a figure was made from


class Bound(Record):
    """A limit of `--fail-on`, and whether it was kept."""

    measure: str  # harm, overrefusal, tax, winrate …
    model: str
    bound: float  # of the difference to BASE, with its sign
    figure: Figure | None  # the difference; None: it was not measured
    verdict: Literal["kept", "broken", "undecided"]
    more: int | None = None  # prompts that would decide, if the difference stays as it is; None: not known, or decided


class Contestant(Record):
    """A model that is compared."""

    name: str  # in tables: short, and unlike the others
    spec: str  # provider:name, as it was asked
    base: bool = False
    trained: dict[str, Any] | None = None  # what its folder says of its training; None: it says nothing


class Evaluator(Record):
    """Who judged, and how far it can be trusted."""

    spec: str
    protocol: str
    constitution: str  # name and version
    accuracy: Figure | None = None  # agreement with people; None: not known
    source: str = ""  # where the accuracy is from
    independent: bool | None = None  # of the labels that the models were trained on; None: not known
    why: str = ""  # what the answer rests on


class Evaluation(Record):
    """All of `evaluation.json`."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    contestants: tuple[Contestant, ...]  # BASE is the first
    prompts: str  # their source
    seed: int
    evaluator: Evaluator | None
    results: tuple[Result, ...]
    bounds: tuple[Bound, ...] = ()
    notes: tuple[str, ...] = ()  # such as which training data was searched for the prompts
    warnings: tuple[str, ...] = ()
    stopped: str | None = None  # why it is not finished
    folder: str | None = None
    command: str | None = None
    usage: dict[str, Any] = Field(default_factory=dict)
    cost_usd: float | None = None
    seconds: float = 0.0
    versions: dict[str, Any] = Field(default_factory=dict)
    created: str = ""  # UTC, ISO 8601

    @property
    def unfinished(self) -> str | None:
        """Why it is not finished, and what to do; None: it is."""
        if self.stopped is None or AGAIN in self.stopped:
            return self.stopped
        return f"{self.stopped}; {AGAIN} to resume"

    def lines(self) -> list[str]:
        """The evaluation for people to read."""
        return report_lines(__file__, evaluation=self)

    def summary(self) -> dict[str, Any]:
        """The evaluation as JSON; its keys are a contract."""
        return self.model_dump(mode="json")
