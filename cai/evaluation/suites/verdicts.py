"""The figures on judged pairs: win rates against BASE, corrected and at equal length, and ratings of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from cai.evaluation.arena.figures import Evaluator, Figure, Line, figure_of
from cai.evaluation.arena.outcomes import Outcome, by_prompt
from cai.evaluation.statistics import winrate
from cai.texts.wording import counted

WIN_RATE = "win rate"


def counts_of(outcomes: Sequence[Outcome], contestant: int, other: int) -> dict[str, int]:
    """What became of the pairs of two contestants."""
    counts = Counter[str]()
    for outcome in outcomes:
        if {outcome.first, outcome.second} == {contestant, other}:
            counts["pairs"] += 1
            counts["flips"] += outcome.flips
            counts["same"] += outcome.same
            counts["ties"] += outcome.won == 0.5 and not outcome.same
            counts["invalid"] += outcome.judged and outcome.won is None
            counts["unjudged"] += not outcome.judged
    return dict(counts)


def note_of(counts: Mapping[str, int]) -> str:
    """What a reader of a win rate should know of its pairs."""
    words = {
        "flips": "flip with the order", "ties": "even", "same": "the same text", "invalid": "without a valid vote",
        "unjudged": "not judged",
    }  # fmt: skip
    parts = [f"{counts[name]:,} {what}" for name, what in words.items() if counts.get(name)]
    return f"{counted(counts.get('pairs', 0), 'pair')}{': ' if parts else ''}{', '.join(parts)}"


def shifted(figure: Figure, by: float) -> Figure:
    """A figure less a constant."""
    ends = [None if end is None else end - by for end in (figure.value, figure.low, figure.high)]
    return Figure(value=ends[0], low=ends[1], high=ends[2], n=figure.n)


def win_line(names: Sequence[str], outcomes: Sequence[Outcome], contestant: int) -> Line:
    """The win rate of a contestant against BASE; its difference is that to one half."""
    figure = figure_of(winrate.win_rate(by_prompt(outcomes, contestant, 0)))
    return Line(
        model=names[contestant],
        measure=WIN_RATE,
        unit="share",
        figure=figure,
        difference=shifted(figure, 0.5),
        note=note_of(counts_of(outcomes, contestant, 0)),
    )


def differences(names: Sequence[str], outcomes: Sequence[Outcome]) -> Iterator[Line]:
    """The win rates of two models against BASE, paired by prompt."""
    for later in range(2, len(names)):
        for earlier in range(1, later):
            estimate = winrate.win_difference(by_prompt(outcomes, later, 0), by_prompt(outcomes, earlier, 0))
            measure = f"win rate less that of {names[earlier]}"
            yield Line(model=names[later], measure=measure, unit="share", figure=figure_of(estimate))


def detectable_facts(n: int, evaluator: Evaluator | None) -> Iterator[str]:
    """What so many prompts can show, and what of that is left with the accuracy of the evaluator."""
    smallest = winrate.detectable(n)
    if smallest is None:
        yield f"{counted(n, 'prompt')} cannot show any difference: not even a win rate of 100 %"
        return
    yield f"{counted(n, 'prompt')} can show a win rate that is {100 * smallest:.1f} points from 50 %, or more"
    if evaluator is None:
        return
    accuracy = evaluator.accuracy
    if accuracy is None or accuracy.value is None or accuracy.low is None:
        yield (
            f"how often {evaluator.spec} agrees with people is not known (name --bench or --gold): a judge that is "
            "right in 63 % of cases shows a quarter of a true difference"
        )
        return
    right = f"{evaluator.spec} agrees with people in {_percent(accuracy)} of {counted(accuracy.n, 'pair')}"
    true = winrate.true_difference(smallest, accuracy.value, accuracy.low)
    if true is None:
        yield f"{right}: with it, so many prompts cannot show any true difference for certain"
    else:
        yield f"{right}: with it, that is a true difference of {100 * true:.1f} points, or more"


def _percent(figure: Figure) -> str:
    return f"{100 * (figure.value or 0):.1f} % ({100 * (figure.low or 0):.1f} to {100 * (figure.high or 0):.1f})"


def mean_longer(outcomes: Sequence[Outcome], contestant: int) -> float | None:
    """Characters by which the replies of a contestant are longer than those of BASE, on average."""
    lengths = [-outcome.longer for outcome in outcomes if (outcome.first, outcome.second) == (0, contestant)]
    return fmean(lengths) if lengths else None
