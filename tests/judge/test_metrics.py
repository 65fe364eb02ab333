"""The arithmetic of trust: metrics by hand, temperature, and thresholds that keep their promise."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seldom import seldom
from shared import shared

from cai.engine.letters import probability
from cai.errors import UsageError
from cai.judge.certify import (
    COLDEST,
    HOTTEST,
    TARGETS,
    certify,
    certify_all,
    first_tested,
    fit_temperature,
    upper_bound,
)
from cai.judge.metrics import (
    FURTHEST,
    accuracy,
    auroc,
    binomial_cdf,
    brier,
    cohen,
    confidence,
    credit,
    ece,
    kappa,
    log_odds,
    measure,
    nll,
    reliability,
    risk_coverage,
    wilson,
)

Rows = list[tuple[float, bool]]
ANY_Z = st.floats(allow_nan=False)
PROBABILITY = st.floats(0, 1).map(lambda p: round(p, 3))  # rounded: so that ties occur, and the mirror 1 - p is near
ROWS = st.lists(st.tuples(PROBABILITY, st.booleans()), min_size=1, max_size=60)


def columns(rows: Rows) -> tuple[list[float], list[bool]]:
    return [p for p, _ in rows], [truth for _, truth in rows]


def judged(n: int, right: Callable[[float], float], chance: random.Random) -> Rows:
    """Pairs of a judge that is right with the chance `right(confidence)`; its confidences are spread evenly."""
    rows = []
    for _ in range(n):
        sure, truth = chance.uniform(0.5, 1), chance.random() < 0.5
        says = truth if chance.random() < right(sure) else not truth
        rows.append((sure if says else 1 - sure, truth))
    return rows


# Probabilities


@given(ANY_Z, st.floats(COLDEST, HOTTEST))
def test_swapped_log_odds_give_the_mirrored_probability_to_the_last_bit(z: float, temperature: float) -> None:
    p = probability(z, temperature)
    assert probability(-z, temperature) == 1 - p
    assert 0 <= p <= 1
    assert confidence(p) == confidence(1 - p)


@given(st.floats(-36, 36))
def test_log_odds_undo_probability(z: float) -> None:
    # Near 1 a float is 1.1e-16 wide, which is that much of 1 - p.
    assert log_odds(probability(z)) == pytest.approx(z, abs=1e-15 + 2.3e-16 * math.exp(abs(z)))


@given(st.floats(0.5, 1))
def test_log_odds_of_a_mirrored_probability_are_mirrored(p: float) -> None:
    assert log_odds(1 - p) == -log_odds(p)


def test_certainty_in_data_has_finite_log_odds() -> None:
    assert log_odds(1.0) == FURTHEST == -log_odds(0.0) == -log_odds(1e-300)
    assert round(FURTHEST, 1) == 36.7
    assert log_odds(1 - 2**-53) == pytest.approx(FURTHEST)
    assert log_odds(0.5) == 0


# Metrics


def test_metrics_of_four_pairs_are_those_found_by_hand() -> None:
    ps, truths = [0.9, 0.8, 0.3, 0.4], [True, False, False, True]
    result = measure(ps, truths)
    assert result.accuracy == 0.5  # right, wrong, right, wrong
    assert result.brier == pytest.approx((0.01 + 0.64 + 0.09 + 0.36) / 4)
    assert result.nll == pytest.approx(-(math.log(0.9) + math.log(0.2) + math.log(0.7) + math.log(0.4)) / 4)
    assert result.ece == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)  # each pair in a bin of its own
    assert result.auroc == pytest.approx(3 / 4)  # 0.9 and 0.7 right, 0.8 and 0.6 wrong: 0.7 < 0.8 alone is out of order
    assert result.kappa == pytest.approx(0)
    assert result.n == 4


def test_kappa_is_agreement_beyond_chance() -> None:
    ps = [0.9] * 20 + [0.9] * 5 + [0.1] * 10 + [0.1] * 15  # the textbook's table: 20, 5, 10, 15
    truths = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(ps, truths) == pytest.approx(0.4)


def test_what_is_undefined_is_none() -> None:
    assert kappa([0.9, 0.8], [True, True]) is None
    assert auroc([0.9, 0.2], [True, False]) is None
    assert auroc([0.9, 0.2], [False, True]) is None


def test_ties_count_half() -> None:
    assert accuracy([0.5, 0.9], [True, True]) == 0.75
    assert auroc([0.8, 0.8], [True, False]) == 0.5
    assert kappa([0.5, 0.5], [True, False]) == pytest.approx(0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_a_tie_is_half_a_pair_for_each_reply_in_every_figure(rows: list[tuple[float, float]]) -> None:
    ps, truths = [list(column) for column in zip(*rows, strict=True)]
    halves = [(p, side) for p, truth in rows for side in ((1.0, 0.0) if truth == 0.5 else (truth, truth))]
    twice, sides = [list(column) for column in zip(*halves, strict=True)]
    for metric in (accuracy, brier, nll, ece, auroc, kappa):
        expected = metric(twice, sides)
        assert metric(ps, truths) == (None if expected is None else pytest.approx(expected, abs=1e-9)), metric
    zs = [log_odds(p) for p in ps]
    doubled = [log_odds(p) for p in twice]
    assert fit_temperature(zs, truths) == pytest.approx(fit_temperature(doubled, sides), rel=1e-6)


def test_a_tie_is_an_error_for_a_threshold() -> None:
    ps = [0.9] * 100
    assert certify(ps, [1.0] * 95 + [0.5] * 5, 0.85) == certify(ps, [1.0] * 95 + [0.0] * 5, 0.85)


def test_equal_bins_of_confidence_hold_all_pairs() -> None:
    least, (place, pairs, sure, right) = reliability([0.5, 0.04, 0.96, 1.0, 0.0], [True] * 5)
    assert least == (0, 1, 0.5, 0.5)
    assert (place, pairs, right) == (9, 4, 0.5)
    assert sure == pytest.approx((0.96 + 0.96 + 1 + 1) / 4)


def test_a_sure_and_wrong_label_costs_no_more_than_a_float_can_tell() -> None:
    assert nll([1.0], [False]) == pytest.approx(FURTHEST)
    assert nll([1.0], [True]) == 0


@given(ROWS, st.randoms())
def test_metrics_do_not_depend_on_the_order_of_rows_or_of_replies(rows: Rows, chance: random.Random) -> None:
    rows = [(0.5 + round(p - 0.5, 3), truth) for p, truth in rows]
    other = [(1 - p, not truth) if chance.random() < 0.5 else (p, truth) for p, truth in rows]
    chance.shuffle(other)
    for metric in (accuracy, brier, nll, auroc):
        assert metric(*columns(other)) == (None if (f := metric(*columns(rows))) is None else pytest.approx(f))
    assert risk_coverage(*columns(other)) == risk_coverage(*columns(rows))
    assert ece(*columns(other)) == pytest.approx(ece(*columns(rows)))
    swapped = [(1 - p, not truth) for p, truth in rows]
    if (agreement := kappa(*columns(rows))) is not None:
        assert kappa(*columns(swapped)) == pytest.approx(agreement)


@given(ROWS)
def test_the_area_is_the_share_of_pairs_of_labels_in_order(rows: Rows) -> None:
    right = [confidence(p) for p, truth in rows if credit(p, truth) == 1]
    wrong = [confidence(p) for p, truth in rows if credit(p, truth) == 0]
    rows = [row for row in rows if row[0] != 0.5]
    if right and wrong:
        in_order = mean((a > b) + (a == b) / 2 for a, b in product(right, wrong))
        assert auroc(*columns(rows)) == pytest.approx(in_order)


@given(ROWS)
def test_risk_coverage_tells_how_right_what_is_kept_is(rows: Rows) -> None:
    curve = risk_coverage(*columns(rows))
    assert [sure for sure, _, _ in curve] == sorted({confidence(p) for p, _ in rows}, reverse=True)
    for sure, coverage, right in curve:
        kept = [row for row in rows if confidence(row[0]) >= sure]
        assert coverage == len(kept) / len(rows)
        assert right == pytest.approx(accuracy(*columns(kept)))


def test_the_interval_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1)


# Temperature


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.3, 3))
def test_log_odds_of_another_scale_get_a_temperature_of_that_scale(seed: int, scale: float) -> None:
    chance = random.Random(seed)
    zs = [chance.gauss(0, 2) for _ in range(100)]
    truths = [chance.random() < probability(z) for z in zs]
    plain = fit_temperature(zs, truths)
    if 0.2 < plain < 30:
        assert fit_temperature([z * scale for z in zs], truths) == pytest.approx(plain * scale, rel=1e-6)
        assert fit_temperature([-z for z in zs], [not truth for truth in truths]) == pytest.approx(plain)


def test_the_temperature_that_made_the_labels_is_found_and_is_the_best() -> None:
    chance = random.Random(3)
    zs = [chance.gauss(0, 6) for _ in range(4000)]
    truths = [chance.random() < probability(z, 2.5) for z in zs]
    result = fit_temperature(zs, truths)
    assert result == pytest.approx(2.5, rel=0.06)
    loss = {t: nll([probability(z, t) for z in zs], truths) for t in (result, result * 0.98, result * 1.02)}
    assert min(loss, key=lambda t: loss[t]) == result


def test_temperatures_are_bounded_where_the_labels_set_no_bound() -> None:
    assert fit_temperature([1.0, -2.0, 300.0], [True, False, True]) == COLDEST
    assert fit_temperature([1.0, -2.0, 300.0], [False, True, False]) == HOTTEST
    assert fit_temperature([0.0, 0.0], [True, False]) == 1
    with pytest.raises(UsageError, match="without a pair that has a human label"):
        fit_temperature([], [])


# Thresholds


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_binomial_tails_are_those_of_exact_fractions(n: int) -> None:
    for p in (Fraction(1, 100), Fraction(3, 20), Fraction(1, 2), Fraction(9, 10)):
        exact = Fraction(0)
        for k in range(n + 1):
            exact += math.comb(n, k) * p**k * (1 - p) ** (n - k)
            assert binomial_cdf(k, n, float(p)) == pytest.approx(float(exact), rel=1e-11)
    assert binomial_cdf(n, n, 0.3) == 1


def test_binomial_tails_stay_exact_among_many() -> None:
    exact = sum(Fraction(math.comb(3000, k) * 3 ** (3000 - k), 4**3000) for k in range(700))
    assert binomial_cdf(699, 3000, 0.25) == pytest.approx(float(exact), rel=1e-9)
    assert binomial_cdf(0, 10**6, 0.5) == 0


@given(st.integers(1, 200), st.data())
def test_the_upper_bound_is_where_so_few_errors_become_unlikely(n: int, data: st.DataObject) -> None:
    errors, delta = data.draw(st.integers(0, n)), data.draw(st.floats(0.01, 0.5))
    bound = upper_bound(errors, n, delta)
    if errors == 0:
        assert bound == pytest.approx(1 - delta ** (1 / n), abs=1e-11)
    if errors == n:
        assert bound == 1
    else:
        assert errors / n < bound < 1
        assert binomial_cdf(errors, n, bound) == pytest.approx(delta, abs=1e-8)


def test_the_first_test_has_room_for_an_error() -> None:
    assert [first_tested(target) for target in TARGETS] == [30, 30, 30, 30, 44, 90]
    for target in TARGETS:
        assert upper_bound(0, first_tested(target)) < 1 - target


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 200), st.sampled_from([0.7, 0.8, 0.9]))
def test_a_threshold_says_what_it_keeps(seed: int, n: int, target: float) -> None:
    chance = random.Random(seed)
    rough = [(round(log_odds(p), 1), truth) for p, truth in judged(n, lambda sure: 0.6 + 0.4 * sure, chance)]
    swapped = [(-z, not truth) if chance.random() < 0.5 else (z, truth) for z, truth in rough]
    chance.shuffle(swapped)
    rows, other = ([(probability(z), truth) for z, truth in some] for some in (rough, swapped))
    result = certify(*columns(rows), target)
    assert certify(*columns(other), target) == result
    if result is None:
        return
    kept = [row for row in rows if confidence(row[0]) >= result.confidence]
    assert len(kept) == result.n >= first_tested(target)
    assert result.errors == sum(credit(*row) < 1 for row in kept)
    assert result.coverage == len(kept) / n
    assert result.upper_bound == upper_bound(result.errors, result.n) <= 1 - target + 1e-9


def test_the_walk_ends_at_the_first_failure_though_later_ones_would_pass() -> None:
    rows = [(1 - i / 1000, True) for i in range(30)] + [(0.96 - i / 1000, False) for i in range(4)]
    rows += [(0.9 - i / 1000, True) for i in range(200)]
    result = certify(*columns(rows), 0.9)
    assert result is None  # 44 pairs come first, and 4 errors among them are too many
    result = certify(*columns(rows), 0.8)
    assert result is not None
    assert (result.n, result.errors) == (33, 3)
    assert upper_bound(4, 234) < 0.2 < upper_bound(4, 34)


def test_pairs_of_one_confidence_are_kept_or_left_together() -> None:
    rows = [(0.9, True)] * 40 + [(0.6, True)] * 5 + [(0.6, False)] * 40
    result = certify(*columns(rows), 0.8)
    assert result is not None
    assert (result.n, result.confidence) == (40, 0.9)


def test_a_label_that_names_neither_reply_is_an_error() -> None:
    assert certify([0.5] * 100, [True] * 100, 0.7) is None


def test_certain_labels_are_certified_down_to_the_last() -> None:
    result = certify([1.0] * 100 + [0.0] * 100, [True] * 100 + [False] * 100, 0.95)
    assert result is not None
    assert (result.confidence, result.coverage, result.errors) == (1, 1, 0)


@pytest.mark.parametrize(("target", "delta"), [(1.0, 0.1), (0.0, 0.1), (85, 0.1), (0.85, 0.0), (0.85, 1.0)])
def test_a_target_or_delta_that_cannot_be_is_refused(target: float, delta: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        certify([0.9], [True], target, delta)


def test_a_threshold_is_the_same_point_before_and_after_a_temperature() -> None:
    chance = random.Random(1)
    zs = [chance.gauss(0, 4) for _ in range(400)]
    truths = [chance.random() < probability(z, 2) for z in zs]
    raw = certify_all([probability(z) for z in zs], truths, temperature=2.0)
    hot = certify_all([probability(z, 2.0) for z in zs], truths)
    assert list(raw) == [str(target) for target in TARGETS]
    for target in raw:
        one, two = raw[target], hot[target]
        if one is None or two is None:
            assert one == two
        else:
            assert (one.n, one.errors, one.coverage) == (two.n, two.errors, two.coverage)
            assert one.calibrated == pytest.approx(two.confidence)
    assert hot["0.7"] is not None
    assert hot["0.7"].calibrated == pytest.approx(hot["0.7"].confidence)


def flat(at: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    return (lambda sure: at), (lambda sure: at)


def step(edge: float, above: float, below: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """A judge that is right in `above` of the cases from the confidence `edge` on, in `below` under it."""

    def kept(sure: float) -> float:
        high, low = 1 - max(edge, sure), max(0.0, edge - sure)
        return (high * above + low * below) / (high + low)

    return (lambda sure: above if sure >= edge else below), kept


def slope(bottom: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Accuracy that rises evenly from `bottom` at 0.5 to 1 at 1."""
    return (lambda sure: bottom + (1 - bottom) * (2 * sure - 1)), lambda sure: bottom + (1 - bottom) * sure


JUDGES = {  # (accuracy at a confidence, mean accuracy at or above it); 85 % is promised
    "just below the target everywhere": flat(0.85 - 1e-9),
    "on the target at the top, and worse under it": step(0.75, 0.85, 0.7),
    "on the target among the first pairs alone": step(0.95, 0.85, 0.0),
    "perfect at the top, never right under it": step(0.8, 1.0, 0.0),
    "rising": slope(0.6),
    "surest where it is wrong": step(0.9, 0.6, 0.95),
}


@pytest.mark.parametrize("name", seldom(JUDGES, ("rising", "surest where it is wrong")))
def test_thresholds_keep_their_promise_in_a_thousand_simulated_judges(name: str) -> None:
    right, kept = JUDGES[name]
    chance, trials, delta, broken = random.Random(name), 1000, 0.1, 0
    for _ in range(trials):
        result = certify(*columns(judged(300, right, chance)), 0.85, delta)
        broken += result is not None and kept(result.confidence) < 0.85
    assert broken <= delta * trials + 3 * math.sqrt(trials * delta * (1 - delta)), f"{broken} of {trials}"


def test_a_good_judge_is_certified_and_the_promise_is_not_kept_by_refusing() -> None:
    chance = random.Random(0)
    result = [certify(*columns(judged(300, slope(0.6)[0], chance)), 0.85) for _ in range(200)]
    shares = [0 if at is None else at.coverage for at in result]
    assert mean(shares) > 0.3  # 0.75 of the pairs could be kept by one who knows the judge


def test_a_coin_flip_judge_is_certified_nothing() -> None:
    chance = random.Random(0)
    for _ in range(300):
        ps = [probability(chance.gauss(0, 5)) for _ in range(200)]
        assert certify(ps, [chance.random() < 0.5 for _ in ps], 0.85) is None


# Real judgements


@pytest.fixture(scope="module")
def gpt4() -> Rows:
    with gzip.open(shared("judge_probs_gpt4turbo.jsonl.gz"), "rt", encoding="utf-8") as lines:
        result = [json.loads(line) for line in lines]
    return [(row["probs"][0], row["preferences"]["human"] == 1) for row in result]


@pytest.mark.shared_data
def test_the_metrics_of_a_real_judge_come_out(gpt4: Rows) -> None:
    result = measure(*columns(gpt4))
    assert result.accuracy == pytest.approx(0.784, abs=5e-4)
    assert result.ece == pytest.approx(0.133, abs=5e-4)
    assert result.brier == pytest.approx(0.163, abs=5e-4)
    assert result.auroc == pytest.approx(0.764, abs=5e-4)
    assert result.kappa == pytest.approx(0.568, abs=5e-4)
    [_, coverage, right] = [row for row in risk_coverage(*columns(gpt4)) if row[0] >= 0.9][-1]
    assert (coverage, right) == (pytest.approx(0.72, abs=0.005), pytest.approx(0.873, abs=5e-4))


@pytest.mark.shared_data
def test_a_hundred_labels_fit_the_temperature_of_a_real_judge(gpt4: Rows) -> None:
    chance = random.Random(0)
    zs = {row: log_odds(row[0]) for row in gpt4}
    fitted, gaps = [], []
    for _ in range(200):
        mixed = chance.sample(gpt4, len(gpt4))
        ours, rest = mixed[:100], mixed[100:]
        fitted.append(fit_temperature([zs[row] for row in ours], [truth for _, truth in ours]))
        gaps.append(ece([probability(zs[row], fitted[-1]) for row in rest], [truth for _, truth in rest]))
    assert median(fitted) == pytest.approx(3.4, abs=0.15)
    assert 0.045 < mean(gaps) < 0.065


@pytest.mark.shared_data
def test_the_certified_thresholds_of_a_real_judge_come_out(gpt4: Rows) -> None:
    result = certify_all(*columns(gpt4))
    at80, at85, at90 = result["0.8"], result["0.85"], result["0.9"]
    assert at80 is not None
    assert (at80.confidence, at80.coverage) == (pytest.approx(0.68, abs=0.01), pytest.approx(0.88, abs=0.005))
    assert at85 is not None
    assert 0.905 < at85.confidence < 0.925
    assert at85.coverage == pytest.approx(0.71, abs=0.005)
    assert at90 is None or at90.confidence > 0.997  # hangs on where the walk begins
    assert result["0.95"] is None


def test_kappa_is_that_of_cohens_table() -> None:
    # 20 yes-yes, 15 no-no, 5 and 10 apart: p_o = .7 (Wilson's interval for 35 of 50: .5625 to .8090), p_e = .5
    first = ["a"] * 25 + ["b"] * 25
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    kappa = cohen(first, second)
    assert kappa == pytest.approx((0.4, (0.5625 - 0.5) / 0.5, (0.8090 - 0.5) / 0.5), abs=1e-3)


def test_few_labels_that_all_agree_are_no_proof_of_a_kappa_of_1() -> None:
    few, many = (cohen(["a", "b"] * n, ["a", "b"] * n) for n in (2, 200))
    assert few is not None and many is not None
    assert few[0] == many[0] == 1 == pytest.approx(few[2]) == pytest.approx(many[2])
    assert few[1] < 0.1 and many[1] > 0.95


@given(st.lists(st.tuples(st.sampled_from("abt"), st.sampled_from("abt")), min_size=1))
def test_kappa_has_no_order_and_no_names(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    kappa = cohen(first, second)
    assert kappa == cohen(second, first)
    renamed = [[{"a": "b", "b": "t", "t": "a"}[label] for label in labels] for labels in (first, second)]
    assert cohen(*renamed) == pytest.approx(kappa)


def test_people_who_agree_by_chance_have_a_kappa_of_nothing() -> None:
    draw = random.Random(0)
    first, second = (draw.choices("ab", k=4_000) for _ in range(2))
    kappa = cohen(first, second)
    assert kappa is not None and kappa[1] < 0 < kappa[2]
