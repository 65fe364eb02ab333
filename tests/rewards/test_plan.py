"""What a plan says of rewards before any is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reward_judges import Rater, judge, law, rewards, user

from cai import read_calls
from cai.rewards.functions import FunctionReward, format_penalty
from cai.rewards.plan import estimate
from cai.rewards.reward import Weighted

ANYHOW: list[dict[str, Any]] = [
    {"logprobs": 20},
    {"logprobs": 0},
    {"logprobs": 0, "scoring": True},
    {"logprobs": 0, "decisions": 2, "decides": True},
]
WAYS = [("group", {"protocol": "reason"}), *((scoring, how) for scoring in ("point", "group") for how in ANYHOW)]


@pytest.mark.parametrize(("scoring", "how"), WAYS)
def test_a_plan_counts_the_calls_that_are_made(tmp_path: Path, scoring: str, how: dict[str, Any]) -> None:
    can = {name: value for name, value in how.items() if name != "protocol"}
    protocol = {"protocol": how["protocol"]} if "protocol" in how else {}
    rater = Rater(**can)
    reward = judge(tmp_path, rater, law(1, 1, 1), scoring=scoring, **protocol)
    planned = estimate([Weighted(1.0, reward)], [user("How?")], 5, tokens=6)["judge"]
    replies = [f"+{number} reply of six tokens" for number in range(5)]
    rewards(reward, replies)
    assert planned.calls == rater.calls <= reward.most_calls(5)
    sent = sum(len(repr(call.request)) for call in read_calls(tmp_path))
    assert 0.5 < 4 * planned.input_tokens / sent < 1.1  # without the names of the fields


def test_a_plan_knows_the_cost_and_leaves_out_what_asks_nothing(tmp_path: Path) -> None:
    rater = Rater()
    rater.provider = "rater"
    named = [
        Weighted(1.0, judge(tmp_path, rater, price="1,2")),
        Weighted(1.0, FunctionReward("format", format_penalty)),
    ]
    [(name, asked)] = estimate(named, [user("How?")] * 3, 8, tokens=100).items()
    assert name == "judge" and asked.calls == asked.output_tokens == 24
    assert asked.cost_usd == pytest.approx((asked.input_tokens + 2 * asked.output_tokens) / 1e6)
    unpriced = judge(tmp_path, rater, price=None)
    assert estimate([Weighted(1.0, unpriced)], [user("How?")], 8, tokens=100)["judge"].cost_usd is None
    assert not (tmp_path / "calls.sqlite").exists() and not rater.calls
