"""Ratings of many models: the likeliest, with intervals that cover, and none between models that cannot be compared."""

from __future__ import annotations

import math
import random
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.evaluation.statistics.ratings import ELO, Game, bradley_terry

TRUTH = {"base": 0, "a": 50, "b": 120, "c": -60, "d": 200, "e": 0}
NAMES = st.sampled_from(["base", "a", "b", "c"])
GAMES = st.lists(
    st.tuples(NAMES, NAMES, st.sampled_from([0.0, 0.5, 1.0])).filter(lambda game: game[0] != game[1]),
    min_size=1,
    max_size=30,
)


def tournament(chance: random.Random, prompts: int, shared: float = 0.0) -> dict[int, list[Game]]:
    """Every two models once a prompt; `shared` is how much of the strength differs by prompt."""
    games: dict[int, list[Game]] = {}
    for prompt in range(prompts):
        strength = {name: elo + chance.gauss(0, shared) for name, elo in TRUTH.items()}
        games[prompt] = []
        for one, other in combinations(TRUTH, 2):
            p = 1 / (1 + 10 ** ((strength[other] - strength[one]) / 400))
            games[prompt].append((one, other, float(chance.random() < p)))
    return games


def likeliest(games: list[Game], models: list[str]) -> dict[str, float]:
    """Log strengths by Newton's method on one model at a time, half a win each way between models that met."""
    wins = {pair: 0.0 for pair in {(a, b) for a, b, _ in games} | {(b, a) for a, b, _ in games}}
    for a, b, outcome in games:
        wins[a, b] += outcome
        wins[b, a] += 1 - outcome
    wins = {pair: won + 0.5 for pair, won in wins.items()}
    log = dict.fromkeys(models, 0.0)
    for _ in range(500):
        for model in models[1:]:
            slope = bend = 0.0
            for (a, b), won in wins.items():
                if a == model:
                    p = 1 / (1 + math.exp(log[b] - log[a]))
                    slope += won - (won + wins[b, a]) * p
                    bend += (won + wins[b, a]) * p * (1 - p)
            log[model] += slope / bend
    return log


def test_two_models_have_the_odds_of_their_games() -> None:
    games = {i: [("a", "base", 1.0)] for i in range(7)} | {i: [("a", "base", 0.0)] for i in range(7, 10)}
    rating = bradley_terry({**games, 10: [("base", "a", 0.5)]}, "base").elo["a"]
    wins, losses = 7 + 0.5 + 0.5, 3 + 0.5 + 0.5  # half a tie, and half a win as prior
    assert rating.value == pytest.approx(400 * math.log10(wins / losses))
    assert rating.n == 11


@settings(max_examples=40)
@given(GAMES)
def test_ratings_are_those_of_the_likelihood(games: list[Game]) -> None:
    ratings = bradley_terry({1: games}, "base")
    first = list(ratings.groups[0])
    models = ["base", *(model for model in first if model != "base")]
    expected = likeliest([game for game in games if game[0] in first], models)
    for model in models:
        assert ratings.elo[model].value == pytest.approx(ELO * expected[model], abs=0.01)


def test_intervals_cover_the_differences_to_base_also_if_games_of_one_prompt_are_alike() -> None:
    held = []
    for seed in range(12):
        elo = bradley_terry(tournament(random.Random(seed), 60), "base", resamplings=60, seed=seed).elo
        for name, truth in list(TRUTH.items())[1:]:
            low, high = elo[name].low, elo[name].high
            assert low is not None and high is not None
            held.append(low <= truth <= high)
    assert 0.88 <= fmean(held) < 1


def test_prompts_that_differ_widen_the_intervals() -> None:
    def width(prompts: dict[int, list[Game]]) -> float:
        rating = bradley_terry(prompts, "base", resamplings=60).elo["d"]
        assert rating.low is not None and rating.high is not None
        return rating.high - rating.low

    one = tournament(random.Random(1), 40)
    four_alike = {prompt: games * 4 for prompt, games in one.items()}
    assert width(four_alike) == pytest.approx(width(one), rel=0.2)
    assert width(tournament(random.Random(1), 160)) < 0.7 * width(one)


@pytest.mark.parametrize(
    ("wins", "losses", "low", "high"),
    [(7, 3, 0.39418, 0.90731), (57, 3, 0.87255, 0.98572), (210, 90, 0.64641, 0.74975), (20, 0, 0.88336, 0.99998)],
)
def test_the_interval_of_two_models_is_that_of_jeffreys(wins: int, losses: int, low: float, high: float) -> None:
    games: dict[int, list[Game]] = {i: [("a", "base", float(i < wins))] for i in range(wins + losses)}
    rating = bradley_terry(games, "base", resamplings=4000).elo["a"]
    assert rating.low is not None and rating.high is not None
    assert [1 / (1 + math.exp(-end / ELO)) for end in (rating.low, rating.high)] == pytest.approx([low, high], abs=0.01)


def test_the_same_seed_gives_the_same_ratings_and_order_of_names_none() -> None:
    games = tournament(random.Random(2), 30)
    first, again, other = (bradley_terry(games, "base", resamplings=20, seed=seed) for seed in (4, 4, 5))
    assert first == again != other
    turned = {prompt: [(b, a, 1 - y) for a, b, y in reversed(rows)] for prompt, rows in games.items()}
    here, there = (bradley_terry(rows, "base", resamplings=20).elo for rows in (games, turned))
    for name in TRUTH:
        assert here[name].value == pytest.approx(there[name].value, abs=1e-3)
        assert here[name].low == pytest.approx(there[name].low, abs=1e-3)


def test_a_model_that_always_wins_has_a_finite_rating() -> None:
    elo = bradley_terry({i: [("a", "base", 1.0)] for i in range(20)}, "base").elo
    assert elo["a"].value == pytest.approx(400 * math.log10(20.5 / 0.5))


@pytest.mark.parametrize("links", [1, 10, 200])
def test_groups_that_are_hardly_linked_are_rated_as_well(links: int) -> None:
    games: dict[int, list[Game]] = {
        i: [("a", "base", float(i % 3 > 0)), ("c", "d", float(i % 4 > 0)), *[("a", "c", 1.0)][: i < links]]
        for i in range(200)
    }
    elo = bradley_terry(games, "base", resamplings=200).elo
    assert all(rating.low is None or rating.low < (rating.value or 0) < (rating.high or 0) for rating in elo.values())
    assert (elo["c"].value or 0) - (elo["d"].value or 0) == pytest.approx(400 * math.log10(150.5 / 50.5))
    assert (elo["a"].value or 0) - (elo["c"].value or 0) == pytest.approx(400 * math.log10((links + 0.5) / 0.5))


def test_models_that_never_met_the_group_of_base_have_no_rating_and_are_named() -> None:
    games: dict[int, list[Game]] = {
        1: [("a", "base", 1.0), ("x", "y", 1.0)],
        2: [("b", "a", 0.5), ("y", "z", 0.0)],
        3: [("p", "q", 1.0)],
    }
    ratings = bradley_terry(games, "base")
    assert ratings.groups == (("a", "b", "base"), ("p", "q"), ("x", "y", "z"))
    assert {name for name, rating in ratings.elo.items() if rating.value is None} == {"p", "q", "x", "y", "z"}
    assert "base" in ratings.elo["x"].reason
    alone = bradley_terry({1: games[1][:1], 2: games[2][:1]}, "base").elo
    assert all(ratings.elo[name].value == alone[name].value for name in ("a", "b", "base"))


def test_base_has_the_rating_0_and_one_prompt_gives_no_interval() -> None:
    elo = bradley_terry({1: [("a", "base", 1.0)], 2: []}, "base").elo
    assert elo["base"][:3] == (0, None, None)
    assert elo["a"].value == pytest.approx(400 * math.log10(3)) and elo["a"].low is None and elo["a"].reason
    assert bradley_terry({}, "base").elo["base"].value == 0


def test_an_outcome_that_is_none_stops_it() -> None:
    with pytest.raises(UsageError, match="not a finite number"):
        bradley_terry({1: [("a", "base", math.nan)]}, "base")
