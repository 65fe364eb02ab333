"""The bounds of `--fail-on`: which measure may change how far against BASE, and whether a bound was kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from cai.errors import UsageError
from cai.evaluation.arena.figures import Bound, Figure, Line, Result
from cai.evaluation.statistics.estimates import Estimate, units_to_exclude
from cai.texts.wording import nearest


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure that can be bounded.

    suite, name: where it is among the results. worse: 1 if more of it is worse, else -1.
    """

    suite: str
    name: str
    worse: int


MEASURES = {
    "winrate": Measure("preference", "win rate", -1),
    "harm": Measure("harm", "harm", 1),
    "overrefusal": Measure("refusals", "over-refusal", 1),
    "tax": Measure("tax", "accuracy", -1),
}


def read_bounds(text: str | None) -> dict[str, float]:
    """The bounds of an option such as harm=+0.02,tax=-0.02, by measure; raises UsageError."""
    bounds: dict[str, float] = {}
    if text is None:
        return bounds
    for part in map(str.strip, text.split(",")):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not part:
            raise UsageError(f"--fail-on {text!r} holds an empty bound: write bounds with commas, such as harm=+0.02")
        if name not in MEASURES:
            raise UsageError(f"--fail-on {part}: unknown measure {name!r}; {nearest(name, MEASURES)}")
        if name in bounds:
            raise UsageError(f"--fail-on bounds {name} twice: name one of them")
        try:
            bounds[name] = float(value)
        except ValueError:
            raise UsageError(f"--fail-on {part}: write a difference to BASE, such as {name}=+0.02") from None
        if not equals or not -1 <= bounds[name] <= 1:
            raise UsageError(f"--fail-on {part}: a difference of shares is between -1 and 1, such as {name}=+0.02")
    return bounds


def check_measured(bounds: Iterable[str], runs: Callable[[str], bool], skipped: Mapping[str, str]) -> None:
    """Raise UsageError for a bound that nothing can break or keep, as its suite is not asked for, or cannot run."""
    for name in bounds:
        suite = MEASURES[name].suite
        if not runs(suite):
            raise UsageError(f"--fail-on {name} is measured by the suite {suite}: name it in --suite, too")
        if suite in skipped:
            raise UsageError(f"--fail-on {name} cannot be measured: {skipped[suite]}")


def check_bounds(bounds: Mapping[str, float], results: Sequence[Result], models: Set[str]) -> Iterator[Bound]:
    """Whether each bound was kept by each of these models; a measure that is not there is undecided."""
    for name, bound in bounds.items():
        lines = [line for line in _lines(MEASURES[name], results) if line.model in models]
        if not lines:
            yield Bound(measure=name, model="", bound=bound, figure=None, verdict="undecided")
        for line in lines:
            assert line.difference is not None
            yield _checked(name, line.model, bound, line.difference)


def _lines(measure: Measure, results: Sequence[Result]) -> Iterator[Line]:
    for result in results:
        if result.suite == measure.suite:
            yield from (line for line in result.lines if line.measure == measure.name and line.difference is not None)


def _checked(name: str, model: str, bound: float, figure: Figure) -> Bound:
    """A bound is broken, or kept, only if the whole interval of the difference is on one side of it."""
    checked = Bound(measure=name, model=model, bound=bound, figure=figure, verdict="undecided")
    if figure.low is None or figure.high is None:
        return checked
    ends = sorted(end * MEASURES[name].worse for end in (figure.low, figure.high))
    limit = bound * MEASURES[name].worse
    if ends[0] > limit:
        return checked.model_copy(update={"verdict": "broken"})
    if ends[1] <= limit:
        return checked.model_copy(update={"verdict": "kept"})
    needed = units_to_exclude(Estimate(figure.value, figure.low, figure.high, figure.n), bound)
    return checked.model_copy(update={"more": None if needed is None else max(1, needed - figure.n)})
