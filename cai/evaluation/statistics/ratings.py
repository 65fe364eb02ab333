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
LEAST = 1e-6  # of a random weight; one of nearly 0 would let a strength run away
MOST_STEPS = 100  # of Newton's method; ten suffice, or thirty if a model always wins
ELO = 400 / math.log(10)  # points of Elo per unit of log strength


class Ratings(NamedTuple):
    """Ratings on the Elo scale: 400 points are odds of 10 to 1."""

    elo: dict[str, Estimate]  # of each model, less that of BASE
    groups: tuple[tuple[str, ...], ...]  # of models that met, directly or through others; that of BASE first


def bradley_terry(
    games: Mapping[Hashable, Sequence[Game]], base: str, *, resamplings: int = 1000, seed: int = 0
) -> Ratings:
    """The strengths at which P(i beats j) = p_i / (p_i + p_j) makes the games of all prompts likeliest.

    Bradley and Terry 1952, with half a win each way between models that met. Intervals are the middle 95 % of
    `resamplings` fits in which each prompt has a random weight (the bootstrap of Rubin 1981), so replies to one prompt
    may be alike; so have the half wins, without which a model that always wins would look certain. For two models and
    one game a prompt it is the Jeffreys interval of the win rate. A model that never met BASE's group is not rated.
    """
    check([outcome for played in games.values() for *_, outcome in played], 0, 1)
    everyone = [_wins(played) for played in games.values()]
    groups = _groups([pair for wins in everyone for pair in wins], base)
    linked = [{pair: won for pair, won in wins.items() if pair[0] in groups[0]} for wins in everyone]
    alike = Counter(tuple(sorted(wins.items())) for wins in linked if wins)  # prompts with the same games
    prompts = [dict(wins) for wins in alike]
    counts = list(alike.values())
    met = list(dict.fromkeys(pair for wins in prompts for pair in wins))
    best = _strengths(_sum(dict.fromkeys(met, PRIOR), counts, prompts), dict.fromkeys(groups[0], 0.0), base)
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
    value = ELO * strength
    if not fits:
        return Estimate(value, n=n, reason="one prompt shows no spread, so there is no interval")
    low, high = (ELO * quantile(fits, share) for share in (0.025, 0.975))
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
    """The likeliest log strengths, that of BASE 0, by Newton's method.

    The MM algorithm of Hunter 2004 needs no matrix, but a million rounds if two groups of models are hardly linked:
    if one of them loses nearly all games to the other, for example.
    """
    models = [*(model for model in start if model != base), base]
    place = {model: number for number, model in enumerate(models)}
    log = [start[model] for model in models]
    last = place[base]
    games = [(place[one], place[other], won, won + total[other, one]) for (one, other), won in total.items()]
    for _ in range(MOST_STEPS):
        rows = [[0.0] * len(models) for _ in models[:-1]]  # minus the Hessian, and the gradient as the last column
        for one, other, won, played in games:
            if one == last:
                continue
            p = 1 / (1 + math.exp(log[other] - log[one]))
            weight = played * p * (1 - p)
            rows[one][one] += weight
            rows[one][last] += won - played * p
            if other != last:
                rows[one][other] -= weight
        step = _solved(rows)
        longest = max(map(abs, step), default=0.0)
        for number, move in enumerate(step):
            log[number] += move / max(1.0, longest)  # no step is longer than 1: none overshoots
        if longest < 1e-6:
            break
    return dict(zip(models, log, strict=True))


def _solved(rows: list[list[float]]) -> list[float]:
    """The solution of linear equations whose matrix is positive definite, the right side as the last column."""
    size = len(rows)
    for first, pivot in enumerate(rows):
        for row in rows[first + 1 :]:
            factor = row[first] / pivot[first]
            for column in range(first, size + 1):
                row[column] -= factor * pivot[column]
    values = [0.0] * size
    for number in reversed(range(size)):
        row = rows[number]
        known = sum(row[column] * values[column] for column in range(number + 1, size))
        values[number] = (row[size] - known) / row[number]
    return values
