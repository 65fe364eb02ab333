"""The figures on judged pairs: win rates against BASE, corrected and at equal length, and ratings of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from statistics import fmean

from cai.evaluation.arena.figures import Evaluator, Figure, Line, line_of
from cai.evaluation.arena.outcomes import Outcome, by_prompt
from cai.evaluation.statistics import debias, lengths, ratings, stopping, winrate
from cai.evaluation.statistics.estimates import Estimate
from cai.judge.metrics import credit, wilson
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
    pairs = counted(counts.get("pairs", 0), "pair")
    return ": ".join(filter(None, (pairs, ", ".join(parts))))


def shifted(figure: Figure, by: float) -> Figure:
    """A figure less a constant."""
    ends = {"value": figure.value, "low": figure.low, "high": figure.high}
    known = {name: end - by for name, end in ends.items() if end is not None}
    return figure.model_copy(update=known)


def against_half(model: str, measure: str, estimate: Estimate, *notes: str) -> Line:
    """A share against one half, such as a win rate."""
    line = line_of(model, measure, "share", estimate, None, *notes)
    return line.model_copy(update={"difference": shifted(line.figure, 0.5)})


def win_line(model: str, outcomes: Sequence[Outcome], contestant: int) -> Line:
    """The win rate of a contestant against BASE; its difference is that to one half."""
    won = by_prompt(outcomes, contestant, 0)
    notes = [note_of(counts_of(outcomes, contestant, 0))]
    p = winrate.sign_p(won)
    if p is not None:
        notes.append(f"sign test p = {p:.2g}")
    return against_half(model, WIN_RATE, winrate.win_rate(won), *notes)


def differences(names: Sequence[str], outcomes: Sequence[Outcome]) -> Iterator[Line]:
    """The win rates of two models against BASE, paired by prompt."""
    for later in range(2, len(names)):
        for earlier in range(1, later):
            estimate = winrate.win_difference(by_prompt(outcomes, later, 0), by_prompt(outcomes, earlier, 0))
            measure = f"win rate less that of {names[earlier]}"
            yield line_of(names[later], measure, "share", estimate)


Gold = Mapping[tuple[str, str], float]  # by pair and a reply of it, whether people find that reply better: 1, 0, or ½

# Stopping early


def decision_of(outcomes: Sequence[Outcome], contestant: int, alpha: float) -> int | None:
    """After how many prompts, in the order of their positions, it is decided who is better; None: it is not."""
    means = winrate.prompt_means(by_prompt(outcomes, contestant, 0))
    return stopping.stops_after((means[prompt] for prompt in sorted(means)), alpha)


def decided_line(model: str, outcomes: Sequence[Outcome], contestant: int, alpha: float) -> Line:
    """The share of decided prompts that a contestant won, up to the stop, with the interval that holds there.

    Prompts after the stop were on their way, and are left out.
    """
    means = winrate.prompt_means(by_prompt(outcomes, contestant, 0))
    stop = decision_of(outcomes, contestant, alpha)
    counted_means = [means[prompt] for prompt in sorted(means)[:stop]]
    wins = sum(mean > 0.5 for mean in counted_means)
    losses = sum(mean < 0.5 for mean in counted_means)
    verdict = "not decided by all prompts"
    if stop is not None:
        comparison = "better" if wins > losses else "worse"
        verdict = f"decided after {counted(stop, 'prompt')}: {comparison} than BASE"
    notes = [f"of decided prompts; {verdict}"]
    if not wins + losses:
        estimate = Estimate(None, n=0, reason="no prompt is decided")
    else:
        low, high = stopping.always_valid(wins, losses, alpha)
        estimate = Estimate(wins / (wins + losses), low, high, wins + losses)
    ties = len(counted_means) - wins - losses
    if ties:
        notes.append(f"{counted(ties, 'prompt')} even, left out")
    return against_half(model, WIN_RATE, estimate, *notes)


# Without the judge's bias, and at equal length


def both_ways(outcomes: Sequence[Outcome], replies: Mapping[str, str], people: Mapping[str, float]) -> Gold:
    """What people say of the reply that each outcome has as `a`; people: of that in `replies`, by pair.

    Of two models that say the same to a prompt, a pair can be there both ways round.
    """
    gold = {}
    for outcome in outcomes:
        truth = people.get(outcome.key)
        if truth is not None:
            gold[outcome.key, outcome.a] = truth if outcome.a == replies[outcome.key] else 1 - truth
    return gold


def corrected_line(model: str, outcomes: Sequence[Outcome], contestant: int, gold: Gold) -> tuple[Line, float | None]:
    """The win rate that people would give, and the judge's bias in it.

    Pairs of the same text are ½ to people and judge alike, so the bias is taken out of the others alone.
    """
    people: dict[int, list[float]] = {}
    judged: dict[int, list[float]] = {}
    differ: set[int] = set()  # prompts with a pair that is not of the same text
    for outcome in outcomes:
        if outcome.won is None or outcome.same or (outcome.first, outcome.second) != (0, contestant):
            continue
        differ.add(outcome.prompt)
        truth = gold.get((outcome.key, outcome.a))
        if truth is not None:
            people.setdefault(outcome.prompt, []).append(1 - truth)
            judged.setdefault(outcome.prompt, []).append(1 - outcome.won)
    won = by_prompt(outcomes, contestant, 0)
    means = winrate.prompt_means(won)
    for outcome in outcomes:
        if outcome.same and outcome.prompt in people and (outcome.first, outcome.second) == (0, contestant):
            people[outcome.prompt].append(0.5)
            judged[outcome.prompt].append(0.5)
    pairs = [(fmean(people[prompt]), fmean(judged[prompt])) for prompt in people]
    rest = [mean for prompt, mean in means.items() if prompt in differ and prompt not in people]
    debiased = debias.debiased(pairs, rest)
    corrected = debias.with_ties(debiased.corrected, len(differ), len(means) - len(differ))
    by_judge, by_people = winrate.win_rate(won).value, corrected.value
    words, bias = "bias of the judge not known", None
    if by_judge is not None and by_people is not None:  # what is between the two figures, whichever pairs have labels
        bias = by_judge - by_people
        words = f"bias of the judge {100 * bias:+.1f} points"
    note = f"{words}; {counted(len(pairs), 'prompt')} with human labels, weight of the judge {debiased.weight:.2f}"
    return against_half(model, f"{WIN_RATE}, corrected by people", corrected, note), bias


def accuracy_on(outcomes: Sequence[Outcome], gold: Gold) -> Figure | None:
    """How often the judge agrees with people on the pairs that they labelled; None if it judged none of them.

    The interval is over prompts, whose pairs are not independent of each other.
    """
    credits: dict[int, list[float]] = {}
    for outcome in outcomes:
        truth = gold.get((outcome.key, outcome.a))
        if truth is not None and outcome.won is not None and not outcome.same:
            credits.setdefault(outcome.prompt, []).append(credit(outcome.won, truth))
    if not credits:
        return None
    if all(len(of_prompt) == 1 for of_prompt in credits.values()):
        low, high = wilson(math.fsum(each for [each] in credits.values()), len(credits))
        return Figure(value=fmean(each for [each] in credits.values()), low=low, high=high, n=len(credits))
    estimate = winrate.win_rate(credits)
    return Figure(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


def length_line(model: str, outcomes: Sequence[Outcome], contestant: int) -> Line:
    """The win rate at equal length."""
    pairs: dict[Hashable, list[tuple[float, float]]] = {}
    for outcome in outcomes:
        if outcome.won is not None and (outcome.first, outcome.second) == (0, contestant):
            pairs.setdefault(outcome.prompt, []).append((1 - outcome.won, float(-outcome.longer)))
    control = lengths.length_controlled(pairs)
    longer = [length for values in pairs.values() for _, length in values]
    notes = []
    if longer:
        mean = fmean(longer)
        side = "longer" if mean > 0 else "shorter"
        notes.append(f"replies are {abs(mean):,.0f} characters {side} than BASE's")
    if control.slope is not None:
        notes.append(f"φ = {control.slope:+.2f}")
    return against_half(model, f"{WIN_RATE} at equal length", control.rate, *notes)


# All together


def rating_lines(
    names: Sequence[str], outcomes: Sequence[Outcome], seed: int
) -> tuple[list[Line], tuple[tuple[str, ...], ...]]:
    """Ratings of all contestants on the Elo scale, BASE at 0; and the groups that never met, BASE's first."""
    games: dict[Hashable, list[tuple[str, str, float]]] = {}
    for outcome in outcomes:
        if outcome.won is not None:
            game = names[outcome.first], names[outcome.second], outcome.won
            games.setdefault(outcome.prompt, []).append(game)
    found = ratings.bradley_terry(games, names[0], seed=seed)
    lines = []
    for name in names:
        estimate = found.elo.get(name, Estimate(None, reason="none of its pairs has a valid vote"))
        line = line_of(name, "Elo", "elo", estimate)
        if name != names[0]:
            line = line.model_copy(update={"difference": line.figure})
        lines.append(line)
    return lines, found.groups


def detectable_facts(n: int, evaluator: Evaluator | None) -> Iterator[str]:
    """What n prompts can show, and what of that is left with the accuracy of the evaluator; nothing is said of none."""
    if not n:
        return
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
        yield f"{right}: with it, this many prompts cannot show any true difference for certain"
    else:
        yield f"{right}: with it, that is a true difference of {100 * true:.1f} points, or more"


def _percent(figure: Figure) -> str:
    return f"{100 * (figure.value or 0):.1f} % ({100 * (figure.low or 0):.1f} to {100 * (figure.high or 0):.1f})"
