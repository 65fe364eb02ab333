"""Rewards by a reward model that is told principles: its mean number under those that are drawn for a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from players import Player
from reward_judges import judge, law, rewards, value

from cai.errors import UsageError
from cai.records import Completion, Condition
from cai.rewards.completions import FILE


def told(**can: Any) -> Player:
    """Gives a reply what it says it is worth times ten, and under rule n as much more as n."""

    def answer(payload: dict[str, Any]) -> Completion:
        system, *_, last = payload["messages"]
        rule = float(system["content"].removeprefix("Rule: Rule ").removesuffix("."))
        return Completion("", "stop", "rm-1", 9, 0, scores=(10 * value(last["content"]) + rule,))

    return Player(
        answer, "rm", **{"chat": False, "reward": True, "condition": Condition("Rule: {principle}", ())} | can
    )


def test_a_reply_is_worth_the_mean_number_under_the_principles_by_their_weights(tmp_path: Path) -> None:
    model = told()
    found = rewards(judge(tmp_path, model, law(1, 3), principles=2), ["+1 a", "-2 b"])
    assert found == [pytest.approx(10.75), pytest.approx(-19.25)]  # on the model's own scale, not clipped
    assert model.asked.total() == 4
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    odds = {line["reply"]: {vote["principle"]: vote["odds"] for vote in line["votes"]} for line in lines}
    assert odds == {"+1 a": {"p0": 10.0, "p1": 11.0}, "-2 b": {"p0": -20.0, "p1": -19.0}}


def test_it_is_not_asked_to_compare_and_without_a_condition_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reads each reply by itself; use --scoring point"):
        judge(tmp_path, told(), scoring="group")
    with pytest.raises(UsageError, match="reads no principles: use it as --reward rater:one"):
        judge(tmp_path, told(condition=None))


def test_principles_that_it_was_not_trained_on_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewards(judge(tmp_path, told(condition=Condition("Rule: {principle}", ("Rule 0.",))), law(1, 1)), ["+1 a"])
    assert "was not trained on p1: what it makes of these is a guess" in caplog.text
