"""What an online training would ask of its rewards is what it asks, if replies are as long as they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reward_judges import law
from rewarded import FLAGS, likes_a, questions
from trainings import write_lines

from cai.errors import UsageError
from cai.training.plan import plan_rewards

JUDGING = {"judge": "openai:gpt-4.1-mini", "constitution": law(1.0, 1.0)}


def test_the_calls_of_steps_and_of_evaluations_are_counted() -> None:
    flags = FLAGS | {"split": 1.0}
    plan = plan_rewards("rloo", questions(24), flags=flags, reward="judge,length", judging=JUDGING)
    assert (plan.steps, plan.batches, plan.prompts, plan.replies, plan.evaluations) == (6, 6, 4, 4, 0)
    assert plan.rewards["judge"].calls == 6 * 4 * 4 * 2  # two principles, by point
    assert set(plan.rewards) == {"judge"}
    assert plan.cost_usd == plan.rewards["judge"].cost_usd and plan.cost_usd
    held = plan_rewards("rloo", questions(24), flags=FLAGS | {"eval_every": 3}, reward="judge", judging=JUDGING)
    trained = held.batches * held.prompts * held.replies
    assert held.evaluations == 1 + -(-held.steps // 3)
    assert held.rewards["judge"].calls == 2 * (trained + held.evaluations * held.held_out)


def test_steps_from_the_same_replies_ask_once() -> None:
    flags = FLAGS | {"split": 1.0, "generations": 2, "iterations": 2, "trl.max_steps": 8}
    plan = plan_rewards("ppo", questions(24), flags=flags, reward="judge", judging=JUDGING)
    assert (plan.steps, plan.batches, plan.prompts) == (8, 4, 8)
    assert plan.rewards["judge"].calls == 4 * 16 * 2


def test_a_held_out_reply_is_compared_with_nothing() -> None:
    judging = JUDGING | {"scoring": "group"}
    plan = plan_rewards("grpo", questions(24), flags=FLAGS, reward="judge", judging=judging)
    assert plan.held_out
    assert plan.rewards["judge"].calls == plan.batches * plan.prompts * 2 * plan.replies * 2


def test_a_function_asks_no_model() -> None:
    plan = plan_rewards("rloo", questions(24), flags=FLAGS, reward=likes_a)
    assert plan.cost_usd == 0
    assert plan.lines()[-1] == "no model is asked for rewards"


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        ("sft", {}, "'sft' asks for no rewards"),
        ("rloo", {"batch_size": 10}, "batch_size 10 is not made of groups of 4 replies"),
        ("rloo", {"batch_size": 400}, "batch_size 400 is not made of groups of 4 replies to some of the"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path: Path, method: str, flags: dict[str, Any], message: str) -> None:
    data = write_lines(tmp_path / "prompts.jsonl", list(questions()))
    with pytest.raises(UsageError, match=message):
        plan_rewards(method, data, flags=FLAGS | flags, reward="length")
