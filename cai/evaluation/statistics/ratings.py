"""Many models on one scale: Bradley-Terry ratings, with intervals from prompts weighted at random."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cai.evaluation.statistics.estimates import Estimate, check
from cai.evaluation.statistics.quantiles import quantile

Game = tuple[str, str, float]  # two models, and the outcome of the first: 1, 0.5 or 0
Wins = dict[tuple[str, str], float]  # by winner and loser; a tie is half a win each way
PRIOR = 0.5  # wins each way between two models that met: the ratings of a model that always wins stay finite
LEAST = 1e-9  # of a random weight: below, a strength may be 0
ELO = 400 / math.log(10)  # points of Elo per unit of log strength


class Ratings(NamedTuple):
    """Ratings on the Elo scale: 400 points are odds of 10 to 1."""

    elo: dict[str, Estimate]  # of each model, less that of BASE
    groups: tuple[tuple[str, ...], ...]  # of models that met, directly or through others; that of BASE first


def bradley_terry(
    games: Mapping[Hashable, Sequence[Game]], base: str, *, resamplings: int = 1000, seed: int = 0
) -> Ratings:
    """The strengths at which P(i beats j) = p_i / (p_i + p_j) makes the games of all prompts likeliest.

    Bradley and Terry 1952, fitted by the MM algorithm of Hunter 2004 (section 2), with half a win each way between
    models that met. Intervals are the middle 95 % of `resamplings` fits in which each prompt has a random weight
    (the bootstrap of Rubin 1981), so replies to one prompt may be alike; so have the half wins of the prior, without
    which a model that always wins would look certain. For two models and a game a prompt that is the Jeffreys interval
    of their win rate. A model that never met the group of BASE has no rating.
    """
    check([outcome for played in games.values() for *_, outcome in played], 0, 1)
    everyone = [_wins(played) for played in games.values()]
    groups = _groups([pair for wins in everyone for pair in wins], base)
    linked = [{pair: won for pair, won in wins.items() if pair[0] in groups[0]} for wins in everyone]
    alike = Counter(tuple(sorted(wins.items())) for wins in linked if wins)  # prompts with the same games
    prompts = [dict(wins) for wins in alike]
    counts = list(alike.values())
    met = list(dict.fromkeys(pair for wins in prompts for pair in wins))
    best = _strengths(_sum(dict.fromkeys(met, PRIOR), counts, prompts), dict.fromkeys(groups[0], 1.0), base)
    chance = random.Random(seed)
    fits = []
    for _ in range(resamplings if sum(counts) > 1 else 0):
        weights = [chance.gammavariate(count, 1) for count in counts]  # as the sum of one Exp(1) for each prompt
        prior = {pair: max(LEAST, chance.gammavariate(PRIOR, 1)) for pair in met}
        fits.append(_strengths(_sum(prior, weights, prompts), best, base))
    elo = {model: Estimate(None, reason=f"it met no model that met {base}") for group in groups for model in group}
    for model in groups[0]:
        own = sum(count for wins, count in zip(prompts, counts, strict=True) if any(model in pair for pair in wins))
        elo[model] = _rating(best[model], [fit[model] for fit in fits], own)
    elo[base] = Estimate(0.0, n=elo[base].n, reason="all others are compared with it")
    return Ratings(elo, groups)


def _rating(strength: float, fits: Sequence[float], n: int) -> Estimate:
    value = ELO * math.log(strength)
    if not fits:
        return Estimate(value, n=n, reason="one prompt shows no spread, so there is no interval")
    low, high = (ELO * math.log(quantile(fits, share)) for share in (0.025, 0.975))
    return Estimate(value, low, high, n, "bootstrap over prompts")


def _wins(played: Sequence[Game]) -> Wins:
    wins: Wins = defaultdict(float)
    for one, other, outcome in played:
        wins[one, other] += outcome
        wins[other, one] += 1 - outcome
    return wins


def _sum(prior: Wins, weights: Sequence[float], prompts: Sequence[Wins]) -> Wins:
    total = dict(prior)
    for weight, wins in zip(weights, prompts, strict=True):
        for pair, won in wins.items():
            total[pair] += weight * won
    return total


def _groups(pairs: Iterable[tuple[str, str]], base: str) -> tuple[tuple[str, ...], ...]:
    groups = [{base}]
    for pair in set(pairs):
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [joined, *(group for group in groups if not group & joined)]
    return tuple(sorted((tuple(sorted(group)) for group in groups), key=lambda group: (base not in group, group)))


def _strengths(total: Wins, start: Mapping[str, float], base: str) -> dict[str, float]:
    """The likeliest strengths, that of BASE 1: p_i <- W_i / sum_j n_ij / (p_i + p_j), until none moves by 1e-8."""
    strength = dict(start)
    met: dict[str, list[tuple[str, float]]] = defaultdict(list)
    wins = dict.fromkeys(start, 0.0)
    for (one, other), won in total.items():
        wins[one] += won
        met[one].append((other, won + total[other, one]))
    move = 1.0
    while move > 1e-8:
        move = 0.0
        for one, others in met.items():
            own = strength[one]
            new = wins[one] / sum(count / (own + strength[other]) for other, count in others)
            move = max(move, abs(new / own - 1))
            strength[one] = new
    return {model: value / strength[base] for model, value in strength.items()}
