"""What held-out pairs show: shares, intervals, margins, and how many pairs turned."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.judge.metrics import wilson
from cai.training.report.summary import pair_accuracy, sign_test, wins


def logp(step: int, name: str, now: tuple[float | None, float], before: tuple[float, float]) -> dict[str, Any]:
    return {
        "step": step, "id": name, "logp_chosen": now[0], "logp_rejected": now[1],
        "ref_logp_chosen": before[0], "ref_logp_rejected": before[1],
    }  # fmt: skip


def reward(step: int, name: str, chosen: float, rejected: float) -> dict[str, Any]:
    return {"step": step, "id": name, "reward_chosen": chosen, "reward_rejected": rejected, "p_chosen": 0.8}


PAIRS = [
    logp(9, "won and kept", (-10, -20), (-11, -18)),  # D = 10 - 7 = 3
    logp(9, "gained", (-20, -21), (-22, -20)),  # D = 1 + 2 = 3
    logp(9, "lost", (-30, -29), (-28, -29)),  # D = -1 - 1 = -2
    logp(9, "won and kept, less", (-5, -9), (-4, -14)),  # D = 4 - 10 = -6
    logp(9, "lost and kept, better", (-9, -5), (-14, -4)),  # D = -4 + 10 = 6
]


def test_shares_before_and_after_and_the_implicit_reward_are_counted_apart() -> None:
    accuracy = pair_accuracy(PAIRS)
    assert accuracy is not None and accuracy.before is not None and accuracy.implicit is not None
    assert (accuracy.measure, accuracy.step, accuracy.before_step) == ("log probability", 9, None)
    assert (accuracy.before.won, accuracy.after.won, accuracy.implicit.won) == (3, 3, 3)
    assert (accuracy.gained, accuracy.lost, accuracy.p_value) == (1, 1, 1.0)
    assert accuracy.after.interval == wilson(3, 5)
    assert accuracy.margin == pytest.approx((3 + 3 - 2 - 6 + 6) / 5)


def test_only_the_last_step_counts_as_after() -> None:
    early = [logp(3, line["id"], (-1, -9), (-2, -2)) for line in PAIRS]
    assert pair_accuracy([*PAIRS, *early]) == pair_accuracy(PAIRS)


def test_a_tie_counts_half_on_its_side() -> None:
    accuracy = pair_accuracy([logp(1, "a", (-5, -5), (-5, -6)), logp(1, "b", (-1, -2), (-3, -3))])
    assert accuracy is not None and accuracy.before is not None and accuracy.implicit is not None
    assert (accuracy.after.share, accuracy.after.ties) == (0.75, 1)
    assert (accuracy.before.share, accuracy.before.ties) == (0.75, 1)
    assert (accuracy.gained, accuracy.lost) == (1, 1)  # from a tie to a win, and from a win to a tie
    assert (accuracy.implicit.won, accuracy.implicit.ties) == (1, 0)


def test_a_reward_model_is_compared_with_its_first_evaluation() -> None:
    accuracy = pair_accuracy(
        [
            *(reward(0, "a", 0.1, 0.2), reward(0, "b", 0.3, 0.1), reward(0, "c", 0.0, 0.5)),
            *(reward(5, "c", 2.0, 0.5), reward(5, "a", 1.0, -1.0), reward(5, "b", 0.5, 1.0)),
        ]
    )
    assert accuracy is not None and accuracy.before is not None
    assert (accuracy.measure, accuracy.step, accuracy.before_step, accuracy.implicit) == ("reward", 5, 0, None)
    assert "at step 0 in 33.3%" in list(accuracy.lines())[1]
    assert (accuracy.before.won, accuracy.after.won, accuracy.gained, accuracy.lost) == (1, 2, 2, 1)
    assert accuracy.margin == pytest.approx((1.5 + 2.0 - 0.5) / 3)


def mean_logp(step: int, name: str, whole: tuple[float, float], mean: tuple[float, float]) -> dict[str, Any]:
    return {
        "step": step, "id": name, "logp_chosen": whole[0], "logp_rejected": whole[1],
        "mean_logp_chosen": mean[0], "mean_logp_rejected": mean[1],
    }  # fmt: skip


def test_without_a_reference_replies_are_compared_with_the_first_evaluation_by_what_is_learnt() -> None:
    accuracy = pair_accuracy([mean_logp(0, "a", (-9, -4), (-3, -2)), mean_logp(5, "a", (-8, -4), (-1, -2))])
    assert accuracy is not None and accuracy.before is not None
    assert (accuracy.measure, accuracy.before_step, accuracy.implicit) == ("log probability a token", 0, None)
    assert (accuracy.before.won, accuracy.after.won, accuracy.margin) == (0, 1, 1)
    first, second, third = accuracy.lines()
    assert first.startswith("chosen has the higher log probability a token in 100.0%")
    assert second.startswith("at step 0 in 0.0%") and third == "mean margin +1 nats a token"
    whole = [{"step": step, "id": "a", "logp_chosen": -4.0, "logp_rejected": -4.0 - step} for step in (0, 5)]
    summed = pair_accuracy(whole)
    assert summed is not None and summed.before is not None
    assert (summed.measure, summed.before.ties, summed.after.won) == ("log probability", 1, 1)
    assert list(summed.lines())[-1] == "mean margin +5 nats"


def test_a_reward_model_evaluated_once_has_no_before() -> None:
    accuracy = pair_accuracy([reward(5, "a", 1.0, -1.0)])
    assert accuracy is not None
    assert (accuracy.before, accuracy.gained, accuracy.lost, accuracy.p_value, accuracy.margin_interval) == (None,) * 5
    assert accuracy.before_step is None
    assert list(accuracy.lines()) == [
        "chosen has the higher reward in 100.0% (20.7% to 100.0%) of 1 pair", "mean margin +2"
    ]  # fmt: skip


def test_rows_that_share_an_id_are_told_apart_by_their_order() -> None:
    accuracy = pair_accuracy([reward(0, "a", 0, 1), reward(0, "a", 1, 0), reward(4, "a", 1, 0), reward(4, "a", 1, 0)])
    assert accuracy is not None
    assert (accuracy.gained, accuracy.lost) == (1, 0)


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])
def test_a_pair_without_a_number_is_in_no_count_but_its_own(value: float | None) -> None:
    accuracy = pair_accuracy([*PAIRS, logp(9, "broken", (value, -2), (-1, -2))])
    assert accuracy is not None
    assert (accuracy.after.n, accuracy.unmeasured) == (5, 1)
    assert accuracy.model_copy(update={"unmeasured": 0}) == pair_accuracy(PAIRS)
    assert "not counted, because a number is missing: 1 pair" in list(accuracy.lines())[-1]
    assert pair_accuracy([logp(9, "broken", (value, -2), (-1, -2))]) is None


def test_no_lines_are_no_accuracy() -> None:
    assert pair_accuracy([]) is None


def test_the_words_give_every_share_with_its_interval() -> None:
    accuracy = pair_accuracy(PAIRS)
    assert accuracy is not None
    assert list(accuracy.lines()) == [
        "chosen has the higher log probability in 60.0% (23.1% to 88.2%) of 5 pairs",
        "under the reference in 60.0% (23.1% to 88.2%) of 5 pairs; since then 1 turned to the chosen reply, 1 away "
        "from it (p 1)",
        "implicit reward prefers chosen in 60.0% (23.1% to 88.2%) of 5 pairs",
        "mean margin +0.8 (-3.38 to +4.98) nats",
    ]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1))
def test_swapping_the_replies_mirrors_every_share(pairs: list[tuple[int, int]]) -> None:
    def accuracy(sign: int) -> Any:
        return pair_accuracy([logp(1, str(i), (sign * a, 0.0), (sign * b, 0.0)) for i, (a, b) in enumerate(pairs)])

    one, other = accuracy(1), accuracy(-1)
    assert one.after.share == pytest.approx(1 - other.after.share)
    assert (one.gained, one.lost) == (other.lost, other.gained)
    assert one.margin == pytest.approx(-other.margin)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (7, 1, 18 / 256), (4, 4, 1.0), (1, 0, 1.0)]
)
def test_the_sign_test_is_the_exact_binomial_one(gained: int, lost: int, p: float) -> None:
    assert sign_test(gained, lost) == pytest.approx(p)


def test_the_sign_test_holds_for_many_pairs() -> None:
    assert sign_test(50_500, 49_500) == pytest.approx(math.erfc((1_000 - 1) / math.sqrt(100_000) / math.sqrt(2)), 1e-3)


def test_wins_of_nothing_cannot_be_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        wins([])
