"""How long the statistics of an evaluation take, on made-up outcomes; nothing is asked of a model.

    python benchmarks/evaluate.py [--labels 100000] [--repeats 3]

Bradley-Terry: six models, 200 prompts, a game of every two models at each, 300 resamplings; the baseline is one that
keeps games in a list and fits them by 20 steps of gradient ascent for each resampling. The labels: four replies to each
prompt, with win rate, kappa, length control, stopping, gold and ratings, each by itself.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from _common import Times, conditions, table

from cai.evaluation.statistics.debias import debiased
from cai.evaluation.statistics.lengths import length_controlled
from cai.evaluation.statistics.ratings import bradley_terry
from cai.evaluation.statistics.stopping import always_valid, stops_after
from cai.evaluation.statistics.winrate import prompt_means, win_rate
from cai.judge.metrics import kappa

MODELS = ("base", "sft", "dpo", "orpo", "best of 4", "another")
PROMPTS, RESAMPLINGS, REPLIES = 200, 300, 4
RATING_BUDGET, LABEL_BUDGET = 2.0, 5.0  # seconds
Games = dict[int, list[tuple[str, str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    conditions()
    table([*ratings(arguments.repeats), *labels(arguments.labels, arguments.repeats)])


def timed(repeats: int, work: Callable[[], Any]) -> Times:
    times = Times()
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.values.append(time.perf_counter() - begun)
    return times


def ratings(repeats: int) -> Iterator[list[str]]:
    chance = random.Random(0)
    games: Games = {
        prompt: [
            (one, other, float(chance.random() < 1 / (1 + math.exp((MODELS.index(other) - MODELS.index(one)) / 5))))
            for one, other in combinations(MODELS, 2)
        ]
        for prompt in range(PROMPTS)
    }
    ours = timed(repeats, lambda: bradley_terry(games, "base", resamplings=RESAMPLINGS))
    theirs = timed(1, lambda: by_hand(games))
    what = f"Bradley-Terry: {len(MODELS)} models, {PROMPTS} prompts, {15 * PROMPTS:,} games, {RESAMPLINGS} resamplings"
    ratio = f"{theirs.best / ours.best:.1f}"
    yield [what, f"≤ {RATING_BUDGET:g} s", ours.show(2, "s"), theirs.show(2, "s"), ratio]


def by_hand(games: Games) -> None:
    """The common way: games drawn again one list after another, and fitted by gradient ascent."""
    chance = random.Random(0)
    for _ in range(RESAMPLINGS):
        drawn = [game for prompt in chance.choices(list(games), k=len(games)) for game in games[prompt]]
        strength = dict.fromkeys(MODELS, 0.0)
        for _ in range(20):
            slope = dict.fromkeys(MODELS, 0.0)
            for one, other, outcome in drawn:
                error = outcome - 1 / (1 + math.exp(strength[other] - strength[one]))
                slope[one] += error
                slope[other] -= error
            for model in MODELS:
                strength[model] += 2 * slope[model] / (len(MODELS) * len(games))


def labels(count: int, repeats: int) -> Iterator[list[str]]:
    chance = random.Random(1)
    outcomes: dict[int, list[float]] = {}
    pairs: dict[int, list[tuple[float, float]]] = {}
    for prompt in range(count // REPLIES):
        rate = chance.betavariate(2.02, 1.98)
        outcomes[prompt] = [float(chance.random() < rate) for _ in range(REPLIES)]
        pairs[prompt] = [(outcome, float(round(chance.gauss(100, 400)))) for outcome in outcomes[prompt]]
    ps = [chance.random() for _ in range(count)]
    truths = [float(chance.random() < p) for p in ps]
    means = list(prompt_means(outcomes).values())
    gold = [(mean, chance.random()) for mean in means[:500]]
    games: Games = {
        prompt: [(*sorted(chance.sample(MODELS[:3], 2)), outcome) for outcome in values]  # type: ignore[misc]
        for prompt, values in outcomes.items()
    }
    works: dict[str, Callable[[], Any]] = {
        "win rate with its interval": lambda: win_rate(outcomes),
        "kappa": lambda: kappa(ps, truths),
        "length control": lambda: length_controlled(pairs),
        "stopping, a look after each prompt that never decides": lambda: stops_after([0.0, 1.0] * (len(means) // 2)),
        "its interval": lambda: always_valid(len(means) // 2, len(means) // 2),
        "500 gold prompts": lambda: debiased(gold, means[500:]),
        f"Bradley-Terry of three models, {RESAMPLINGS} resamplings": lambda: bradley_terry(
            games, "base", resamplings=RESAMPLINGS
        ),
    }
    total = 0.0
    for name, work in works.items():
        times = timed(repeats, work)
        total += times.best
        yield [f"{count:,} labels, {REPLIES} a prompt: {name}", "–", times.show(3, "s"), "–", "–"]
    yield [f"{count:,} labels: all of it", f"≤ {LABEL_BUDGET:g} s", f"{total:.2f} s", "–", "–"]


if __name__ == "__main__":
    main()
