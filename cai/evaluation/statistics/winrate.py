"""How often a model beats BASE, and how large a difference so many prompts can show."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from cai.evaluation.statistics.estimates import Estimate, mean_of
from cai.evaluation.statistics.paired import difference, sign_test

Key = TypeVar("Key", bound=Hashable)
Outcomes = Mapping[Key, Sequence[float]]  # by prompt, each 1 for a win, 0 for a loss, 0.5 for a tie
POWER = 1.96 + 0.84  # standard errors for a test at 5 % to see a difference in 80 % of all evaluations
HALF = 0.5  # standard deviation of a win or a loss at even chances, the largest that an outcome can have


def prompt_means(outcomes: Outcomes[Key]) -> dict[Key, float]:
    """The mean outcome of each prompt that has any."""
    return {prompt: fmean(values) for prompt, values in outcomes.items() if values}


def win_rate(outcomes: Outcomes[Key]) -> Estimate:
    """The mean over prompts of their mean outcomes, with an interval clustered by prompt (`mean_of`).

    Replies to one prompt are alike: at a correlation of 0.5 and 8 replies to each of 50 prompts, an interval over
    replies covers 68 % instead of 95 %.
    """
    return mean_of(list(prompt_means(outcomes).values()), 0, 1)


def sign_p(outcomes: Outcomes[Key]) -> float | None:
    """The exact p of the sign test on decided prompts; None if a prompt has several outcomes, or none is decided."""
    decided = [value for values in outcomes.values() for value in values if value != HALF]
    if not decided or any(len(values) > 1 for values in outcomes.values()):
        return None
    wins = sum(value > HALF for value in decided)
    return sign_test(wins, len(decided) - wins)


def win_difference(outcomes: Outcomes[Key], others: Outcomes[Key]) -> Estimate:
    """The win rate of one model less that of another, both against one BASE, paired by the prompts that both have."""
    means, base = prompt_means(outcomes), prompt_means(others)
    shared = [prompt for prompt in means if prompt in base]
    return difference([means[prompt] for prompt in shared], [base[prompt] for prompt in shared], 1)


def detectable(n: int, spread: float = HALF) -> float | None:
    """The smallest difference to 0.5 that n prompts can show: 2.8 spread/sqrt(n), at 5 % with a power of 80 %.

    spread: the standard deviation of the means of prompts, or of their differences. None: not even the largest, 0.5.
    """
    smallest = POWER * spread / math.sqrt(n) if n else math.inf
    return smallest if smallest <= HALF else None


def prompts_needed(smallest: float, spread: float = HALF) -> int | None:
    """How many prompts can show a difference, the inverse of `detectable`; None for no difference."""
    if not smallest:
        return None
    return math.ceil(round((POWER * spread / smallest) ** 2, 6))


def shrunk(true: float, accuracy: float) -> float:
    """What a true difference to 0.5 looks like to an evaluator with this accuracy: (2 accuracy - 1) true.

    It is wrong about wins as often as about losses: a rate W is seen as accuracy W + (1 - accuracy)(1 - W).
    """
    return (2 * accuracy - 1) * true


def true_difference(seen: float, accuracy: float, low: float) -> float | None:
    """The true difference to 0.5 behind one that is seen, the inverse of `shrunk`.

    low: the lower end of the accuracy's interval. None: it holds a half, so that the evaluator may be guessing, or not
    even the largest difference, 0.5, looks like this.
    """
    if low <= HALF:
        return None
    true = seen / (2 * accuracy - 1)
    return true if abs(true) <= HALF else None
