"""Length is taken out of a win rate if it can be, and only then."""

from __future__ import annotations

import math
import random
from statistics import fmean, pstdev, stdev

import pytest

from cai.errors import UsageError
from cai.evaluation.statistics.lengths import Pair, length_controlled
from cai.evaluation.statistics.winrate import win_rate


def sigma(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def judged(
    chance: random.Random, prompts: int, shift: float, theta: float, *, replies: int = 1, alike: float = 0.0
) -> dict[int, list[Pair]]:
    """Replies longer by `shift` standard deviations on average, and a judge who likes them longer (phi = 1)."""
    rows: dict[int, list[Pair]] = {}
    for prompt in range(prompts):
        own = chance.gauss(0, alike)
        lengths = [chance.gauss(shift, 1) for _ in range(replies)]
        chances = [sigma(theta + own + math.tanh(length)) for length in lengths]
        rows[prompt] = [
            (float(chance.random() < p), round(400 * length)) for p, length in zip(chances, lengths, strict=True)
        ]
    return rows


def raw(pairs: dict[int, list[Pair]]) -> float:
    return win_rate({prompt: [outcome for outcome, _ in rows] for prompt, rows in pairs.items()}).value or 0


@pytest.mark.parametrize(("theta", "truth", "seen"), [(0.0, 0.5, 0.63), (0.4, 0.599, 0.713)])
def test_the_rate_at_equal_length_is_found_behind_a_shift_of_one_standard_deviation(
    theta: float, truth: float, seen: float
) -> None:
    chance = random.Random(1)
    evaluations = [judged(chance, 1000, 1.0, theta) for _ in range(12)]
    assert fmean(map(raw, evaluations)) == pytest.approx(seen, abs=0.01)
    rates = [length_controlled(pairs).rate.value or 0 for pairs in evaluations]
    assert fmean(rates) == pytest.approx(truth, abs=0.015)
    assert length_controlled(judged(chance, 2000, 1.0, theta)).rate.value == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize(
    ("prompts", "shift", "theta", "replies", "alike"),
    [(100, 0.7, 0.4, 1, 0.0), (200, 1.0, 0.0, 1, 0.0), (60, 0.5, 0.0, 4, 1.5), (40, 0.0, 0.4, 1, 0.0)],
)
def test_its_interval_covers_whether_or_not_replies_to_one_prompt_are_alike(
    prompts: int, shift: float, theta: float, replies: int, alike: float
) -> None:
    chance = random.Random(2)
    truth = sigma(theta)
    held = []
    for _ in range(150):
        rate = length_controlled(judged(chance, prompts, shift, theta, replies=replies, alike=alike)).rate
        if rate.low is not None and rate.high is not None:
            held.append(rate.low <= truth <= rate.high)
    assert len(held) > 130
    assert 0.92 <= fmean(held) < 1


def test_the_fit_is_where_the_likelihood_less_its_ridge_is_steep_in_no_direction() -> None:
    pairs = judged(random.Random(3), 80, 0.5, 0.3, replies=2)
    pairs[0] = pairs[0][:1]  # every prompt has the same weight, however many pairs it has
    fit = length_controlled(pairs)
    assert fit.rate.value is not None and fit.slope is not None
    theta = math.log(fit.rate.value / (1 - fit.rate.value))
    spread = stdev(length for rows in pairs.values() for _, length in rows)

    def likelihood(theta: float, phi: float) -> float:
        total = -(theta**2 + phi**2) * 0.01 / 2
        for rows in pairs.values():
            for outcome, length in rows:
                p = sigma(theta + phi * math.tanh(length / spread))
                total += (outcome * math.log(p) + (1 - outcome) * math.log(1 - p)) / len(rows)
        return total

    best = likelihood(theta, fit.slope)
    for angle in range(8):
        step = (1e-3 * math.cos(angle * math.pi / 4), 1e-3 * math.sin(angle * math.pi / 4))
        assert likelihood(theta + step[0], fit.slope + step[1]) < best


def test_longer_and_shorter_swapped_mirror_it() -> None:
    pairs = judged(random.Random(4), 100, 0.5, 0.4)
    turned = {prompt: [(1 - outcome, -length) for outcome, length in rows] for prompt, rows in pairs.items()}
    here, there = length_controlled(pairs), length_controlled(turned)
    assert [1 - (end or 0) for end in (there.rate.value, there.rate.high, there.rate.low)] == pytest.approx(
        list(here.rate[:3])
    )
    assert there.slope == pytest.approx(here.slope)


def test_a_judge_who_does_not_look_at_length_leaves_the_rate_as_it_is() -> None:
    chance = random.Random(5)
    pairs = {prompt: [(float(chance.random() < 0.7), chance.gauss(50, 100))] for prompt in range(2000)}
    assert length_controlled(pairs).rate.value == pytest.approx(raw(pairs), abs=0.02)


def test_replies_of_equal_length_need_no_control() -> None:
    outcomes = {prompt: [1.0, 0.5] if prompt % 3 else [0.0, 0.0] for prompt in range(60)}
    equal = length_controlled({prompt: [(value, 0) for value in values] for prompt, values in outcomes.items()})
    assert (equal.rate, equal.slope) == (win_rate(outcomes), None)


def test_pairs_of_equal_length_count_half_on_either_side() -> None:
    chance = random.Random(6)
    lengths = [0.0] * 60 + [90.0] * 40
    pairs = {prompt: [(float(chance.random() < 0.6), length)] for prompt, length in enumerate(lengths)}
    assert length_controlled(pairs).rate.value is not None


def no_figure(pairs: dict[int, list[Pair]]) -> str:
    """Why there is no figure."""
    result = length_controlled(pairs)
    assert (*result.rate[:3], result.slope) == (None, None, None, None)
    return result.rate.reason


@pytest.mark.parametrize(
    "lengths",
    [
        [random.Random(7).gauss(3, 1) for _ in range(200)],
        [-120.0] * 200,
        [50.0] * 181 + [-50.0] * 19,
        [1e-6] * 199 + [-1e9],
    ],
)
def test_lengths_that_do_not_overlap_give_no_figure(lengths: list[float]) -> None:
    assert "do not overlap" in no_figure({i: [(i % 2, length)] for i, length in enumerate(lengths)})


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
def test_equal_outcomes_give_no_figure(outcome: float) -> None:
    assert "all outcomes are equal" in no_figure({i: [(outcome, i % 7 - 3)] for i in range(100)})


def test_few_prompts_give_no_figure_however_many_pairs_each_has() -> None:
    assert "needs 30 prompts or more, and has 29" in no_figure(judged(random.Random(8), 29, 0.0, 0.0, replies=10))
    assert "needs 30 prompts or more, and has 0" in no_figure({1: []})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_judge_who_only_looks_at_length_gives_no_figure(sign: int) -> None:
    pairs = {i: [(float(sign * length > 0), length)] for i, length in enumerate([-3, -2, 2, 5] * 25)}
    assert "length alone explains" in no_figure(pairs)


def test_all_but_one_outcome_explained_by_length_stays_finite() -> None:
    pairs: dict[int, list[Pair]] = {i: [(float(length > 0), length)] for i, length in enumerate([-3, -2, 2, 5] * 25)}
    pairs[0] = [(1.0, -3)]
    rate = length_controlled(pairs).rate
    assert rate.value is not None and rate.low is not None and rate.high is not None
    assert 0 < rate.low < rate.value < rate.high < 1


@pytest.mark.parametrize("slope", [3.0, 30.0])
@pytest.mark.parametrize("theta", [-4.0, 4.0])
def test_an_interval_is_never_surer_than_pairs_of_equal_length_would_be(theta: float, slope: float) -> None:
    chance = random.Random(10)
    narrowest = 1.0
    for _ in range(40):
        lengths = [chance.gauss(0, 1) for _ in range(40)]
        chances = [sigma(max(-50.0, min(50.0, theta + slope * length))) for length in lengths]
        outcomes = [float(chance.random() < p) for p in chances]
        rate = length_controlled({i: [pair] for i, pair in enumerate(zip(outcomes, lengths, strict=True))}).rate
        if rate.low is not None and rate.high is not None:
            narrowest = min(narrowest, rate.high - rate.low)
    assert narrowest > 0.1  # 40 wins in 40 have the interval 0.91 to 1


def test_numbers_that_are_none_stop_it() -> None:
    for pair in ((math.nan, 1.0), (1.0, math.nan), (2.0, 1.0), (1.0, math.inf)):
        with pytest.raises(UsageError, match="not a finite number"):
            length_controlled({1: [pair]})


def test_the_simulated_lengths_have_the_shift_they_claim() -> None:
    lengths = [length for rows in judged(random.Random(9), 4000, 1.0, 0.0).values() for _, length in rows]
    assert fmean(lengths) / pstdev(lengths) == pytest.approx(1, abs=0.05)
