"""When an evaluation may stop: evidence that stays valid however often it is looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable

from cai.judge.certify import bisect

ALPHA = 0.05  # chance of ever stopping if neither model is better
CENTRED = 10  # both parameters of the Beta mixture: bets on rates within about 0.2 of a half


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_mixture(wins: int, losses: int) -> float:
    """The log likelihood of wins and losses under a Beta(10, 10) mixture of rates, relative to none."""
    return _log_beta(CENTRED + wins, CENTRED + losses) - _log_beta(CENTRED, CENTRED)


def log_evidence(wins: int, losses: int) -> float:
    """The log e-value of decided prompts against even chances: E = 2^(S+F) B(a+S, a+F) / B(a, a), a = 10.

    A likelihood ratio of a mixture (Ville 1939; Robbins 1970; Ramdas et al. 2023, arXiv 2210.01948, section 3): under
    even chances E is a martingale that starts at 1, so it ever reaches 1/alpha with a chance of at most alpha.
    """
    return (wins + losses) * math.log(2) + _log_mixture(wins, losses)


def stops_after(means: Iterable[float], alpha: float = ALPHA) -> int | None:
    """How many prompts, in the seeded order, decide which model is better (E >= 1/alpha); None: all leave it open.

    means: the mean outcome of each prompt, one look each; above a half it is a win, below a loss, a half changes
    nothing. Of what merely finished first it promises nothing: short replies finish first, and win less or more often.
    """
    wins = losses = 0
    for count, mean in enumerate(means, 1):
        wins += mean > 0.5
        losses += mean < 0.5
        if log_evidence(wins, losses) >= -math.log(alpha):
            return count
    return None


def always_valid(wins: int, losses: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of the share of decided prompts won, which holds at every look together, so at the stop too.

    {theta: B(a+S, a+F) / B(a, a) < theta^S (1-theta)^F / alpha}: what an e-value against theta does not exclude
    (Robbins 1970). Its ends are bisected to 1e-10.
    """
    level = _log_mixture(wins, losses) + math.log(alpha)

    def holds(theta: float) -> bool:
        return wins * math.log(theta) + losses * math.log1p(-theta) > level

    share = wins / (wins + losses) if wins + losses else 0.5
    low, _ = bisect(0.0, share, 1e-10, holds) if wins else (0.0, 0.0)
    _, high = bisect(share, 1.0, 1e-10, lambda theta: not holds(theta)) if losses else (1.0, 1.0)
    return low, high
