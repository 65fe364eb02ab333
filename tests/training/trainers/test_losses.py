"""The losses against their closed forms, and the numbers that go into them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import UsageError
from cai.training.setup.config import load_config
from cai.training.setup.methods import METHODS
from cai.training.trainers.dpo import (
    ANCHORED,
    NLL_WEIGHT,
    SMOOTHED,
    SOFT,
    Pairs,
    check_smoothing,
    cross_entropy,
    flip_rate,
    gap_scaled,
    with_nll,
)
from cai.training.trainers.kto import kto_weights

torch = pytest.importorskip("torch")

LOSSES = METHODS["dpo"].losses

gaps = st.floats(-30, 30)
ps = st.floats(0, 1)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slope(loss: Any, gap: float, p: float) -> float:
    x = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
    loss(x, p).backward()
    return float(x.grad)


def value(loss: Any, gap: float, p: float) -> float:
    return float(loss(torch.tensor(gap, dtype=torch.float64), p))


def hard(x: Any, p: float) -> Any:
    """The stock loss: it knows no p."""
    return -torch.nn.functional.logsigmoid(x)


@given(gaps)
def test_a_certain_label_is_the_stock_loss(gap: float) -> None:
    for loss in SOFT.values():
        assert value(loss, gap, 1.0) == pytest.approx(value(hard, gap, 1.0), abs=1e-12)
        assert slope(loss, gap, 1.0) == pytest.approx(slope(hard, gap, 1.0), abs=1e-12)


@given(gaps, ps)
def test_the_gradient_of_cdpo_mixes_those_of_both_orders(gap: float, p: float) -> None:
    better, worse = slope(hard, gap, 1.0), -slope(hard, -gap, 1.0)
    assert slope(cross_entropy, gap, p) == pytest.approx(p * better + (1 - p) * worse, abs=1e-12)
    assert slope(cross_entropy, gap, p) == pytest.approx(sigmoid(gap) - p, abs=1e-12)


@given(gaps, ps)
def test_the_gap_scaled_form_is_its_own_closed_form(gap: float, p: float) -> None:
    scale = 2 * p - 1
    assert value(gap_scaled, gap, p) == pytest.approx(math.log1p(math.exp(-scale * gap)), abs=1e-12)
    assert slope(gap_scaled, gap, p) == pytest.approx(-scale * sigmoid(-scale * gap), abs=1e-12)


@given(st.floats(0.5, 30), st.floats(0.51, 0.99))
def test_the_two_forms_agree_at_gap_zero_and_nowhere_else(gap: float, p: float) -> None:
    assert slope(cross_entropy, 0.0, p) == pytest.approx(slope(gap_scaled, 0.0, p), abs=1e-12)
    assert abs(slope(cross_entropy, gap, p) - slope(gap_scaled, gap, p)) > 1e-3 * (1 - p)


@given(gaps)
def test_an_even_label_teaches_nothing_in_the_gap_scaled_form_only(gap: float) -> None:
    assert slope(gap_scaled, gap, 0.5) == 0
    assert slope(cross_entropy, gap, 0.5) == pytest.approx(sigmoid(gap) - 0.5, abs=1e-12)


@given(gaps, ps)
def test_swapped_replies_with_the_other_probability_are_the_same_loss(gap: float, p: float) -> None:
    for loss in SOFT.values():
        assert value(loss, gap, p) == pytest.approx(value(loss, -gap, 1 - p), abs=1e-9)


@given(st.floats(0.01, 0.99))
def test_cdpo_is_least_where_the_model_believes_the_label(p: float) -> None:
    best = math.log(p / (1 - p))
    assert slope(cross_entropy, best, p) == pytest.approx(0, abs=1e-12)
    assert value(cross_entropy, best, p) <= min(value(cross_entropy, best + d, p) for d in (-0.1, 0.1))


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    gap, p = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.9, 0.5, 0.6])
    for loss in SOFT.values():
        alone = [float(loss(g, q)) for g, q in zip(gap, p, strict=True)]
        assert loss(gap, p).tolist() == pytest.approx(alone)


@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_the_losses_are_finite_at_huge_gaps(gap: float) -> None:
    for loss in SOFT.values():
        assert math.isfinite(value(loss, gap, 0.7)) and math.isfinite(slope(loss, gap, 0.7))


def test_losses_of_differences_are_mixed_with_the_nll_of_the_chosen_reply() -> None:
    for loss in LOSSES:
        rows = SimpleNamespace(loss=loss, loaded=load_config())
        assert next(Pairs.own_settings(rows)).value == (0.0 if loss in ANCHORED else NLL_WEIGHT)  # type: ignore[arg-type]
    for loss in set(LOSSES) - set(ANCHORED):
        assert with_nll(loss, NLL_WEIGHT) == ([loss, "sft"], [1.0, NLL_WEIGHT])
    assert with_nll("sigmoid", 0) == (["sigmoid"], [1.0])
    assert with_nll("apo_zero", 1.0) == (["apo_zero", "sft"], [1.0, 1.0])


def test_losses_with_a_part_of_their_own_are_known() -> None:
    assert {*SOFT, *ANCHORED, *SMOOTHED} < set(LOSSES)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in SMOOTHED])
def test_label_smoothing_is_refused_where_trl_would_ignore_it(loss: str) -> None:
    check_smoothing([loss], 0.0)
    with pytest.raises(UsageError, match=f"label_smoothing 0.1 has no effect on {loss}: use cdpo"):
        check_smoothing([loss], 0.1)


def test_label_smoothing_passes_where_it_is_read() -> None:
    for loss in SMOOTHED:
        check_smoothing([loss, "sft"], 0.1)
    for smoothing in (0.5, -0.1):
        with pytest.raises(UsageError, match="robust needs a label_smoothing"):
            check_smoothing(["robust"], smoothing)


@given(st.lists(st.floats(0.51, 1), min_size=1))
def test_the_share_of_flips_is_what_the_labels_admit(labels: list[float]) -> None:
    assert 0 <= flip_rate(labels) < 0.5
    assert flip_rate(labels) == pytest.approx(1 - sum(labels) / len(labels), abs=1e-9)


@pytest.mark.parametrize("labels", [[], [0.5], [0.9, 0.05]])
def test_a_share_of_flips_that_robust_cannot_use_is_refused(labels: list[float]) -> None:
    with pytest.raises(UsageError):
        flip_rate(labels)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_both_kinds_of_kto_rows_weigh_the_same_and_none_below_one(desirable: int, undesirable: int) -> None:
    good, bad = kto_weights(desirable, undesirable)
    assert min(good, bad) == 1.0
    assert good * desirable / (bad * undesirable) == pytest.approx(1, rel=0.006)  # two digits


@pytest.mark.parametrize(("desirable", "undesirable"), [(0, 3), (3, 0)])
def test_kto_needs_rows_of_both_kinds(desirable: int, undesirable: int) -> None:
    with pytest.raises(UsageError, match="kto needs rows of both labels"):
        kto_weights(desirable, undesirable)
