"""What a training's log gives rise to, on logs written by hand."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cai.training.trainers.watch import FALL, WINDOW, Watch


def told(watch: Watch, entries: list[dict[str, Any]]) -> list[str]:
    return [line for step, entry in enumerate(entries, start=1) for line in watch.see(step * 10, entry)]


def entry(chosen: float, margin: float, beta: float = 0.1, reference: float = -100.0) -> dict[str, float]:
    """`chosen` in nats against the reference."""
    return {"rewards/chosen": beta * chosen, "rewards/margins": margin, "logps/chosen": reference + chosen}


def test_falling_chosen_replies_are_told_once_with_their_fall() -> None:
    lines = told(Watch(beta=0.1), [entry(-2.1 * i, 0.1 * i) for i in range(30)])
    assert len(lines) == 1
    assert "margins rise (0.2 to " in lines[0] and "chosen replies become less probable: 1" in lines[0]
    assert lines[0].startswith("step 80: ")  # the mean of steps 40 to 80 is the first beyond 10 nats of 100


def test_a_fall_within_a_tenth_is_common_and_not_told() -> None:
    assert told(Watch(beta=0.1), [entry(-100 * FALL * 0.99, 0.1 * i) for i in range(30)]) == []
    assert len(told(Watch(beta=0.1), [entry(-100 * FALL * 1.01, 0.1 * i) for i in range(30)])) == 1


def test_chosen_replies_that_fall_with_their_margins_are_another_matter() -> None:
    assert told(Watch(beta=0.1), [entry(-2.1 * i, -0.1 * i) for i in range(30)]) == []
    assert told(Watch(beta=0.1), [entry(+2.0 * i, 0.1 * i) for i in range(30)]) == []
    assert told(Watch(beta=None), [entry(-2.1 * i, 0.1 * i) for i in range(30)]) == []


@given(st.floats(0.01, 5))
def test_the_fall_is_counted_in_nats_whatever_beta(beta: float) -> None:
    lines = told(Watch(beta=beta), [entry(-2.1 * i, 0.1 * i, beta) for i in range(30)])
    assert [line.split(":")[0] for line in lines] == ["step 80"]


def held_out(chosen: float, margin: float) -> dict[str, float]:
    return {"eval_logps/chosen": chosen, "eval_rewards/margins": margin}


def test_without_a_reference_held_out_replies_show_the_fall() -> None:
    falling = [held_out(-100 - 6.0 * n, 0.1 * n) for n in range(5)]
    [line] = told(Watch(beta=0.0), falling)
    assert line.startswith(
        "step 30: margins rise (0 to 0.2) while the chosen replies become less probable: 12.0 nats a"
    )
    assert told(Watch(beta=0.1), falling) == []
    assert told(Watch(beta=0.0), [held_out(-100 - 6.0 * n, -0.1 * n) for n in range(5)]) == []
    assert told(Watch(beta=0.0), [held_out(-100 - 2.0 * n, 0.1 * n) for n in range(5)]) == []
    assert told(Watch(beta=0.0), [entry(-2.1 * n, 0.1 * n) for n in range(30)]) == []


def test_half_the_entropy_is_told_and_one_odd_batch_is_not() -> None:
    calm, low = {"entropy": 2.0}, {"entropy": 0.9}
    assert told(Watch(), [calm] * 10 + [{"entropy": 0.1}] + [calm] * 10) == []
    [line] = told(Watch(), [calm] * 10 + [low] * 10)
    assert line.startswith(f"step {10 * (10 + WINDOW)}: entropy fell from 2 to 0.9 nats a token")
    assert told(Watch(), [low] * 30) == []


def test_replies_that_grow_and_groups_without_a_better_reply_are_told() -> None:
    short, long = {"completions/mean_length": 20.0}, {"completions/mean_length": 41.0}
    [line] = told(Watch(), [short] * 10 + [long] * 10)
    assert "replies grew from 20 to 41 tokens" in line
    assert told(Watch(), [long] * 30) == []
    equal, various = {"frac_reward_zero_std": 0.9}, {"frac_reward_zero_std": 0.2}
    [line] = told(Watch(), [equal] * 10)
    assert "in 90% of the groups all replies got the same reward" in line
    assert told(Watch(), [various] * 30) == []


def test_nothing_is_told_before_there_is_enough_to_compare() -> None:
    watch = Watch(beta=0.1)
    assert told(watch, [entry(-90.0, 0.1 * i) | {"entropy": 1.0} for i in range(WINDOW)]) == []
    assert len(told(watch, [entry(-90.0, 9.0)])) == 1


def test_entries_of_an_evaluation_are_no_part_of_the_curve() -> None:
    assert told(Watch(beta=0.1), [{"eval_entropy": 0.1, "epoch": 1.0}] * 20) == []
