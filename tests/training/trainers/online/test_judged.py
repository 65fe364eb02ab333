"""A judge under a constitution as the reward of a training: what it costs, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
from reward_judges import Rater, law
from rewarded import train
from trainings import losses, record, weights

import cai.models
from cai import read_calls
from cai.errors import BudgetReached, RunError
from cai.models import Provider
from cai.recipes.state import cost_of

FLAGS = {"split": 1.0, "epochs": 1.0, "save_every": 100}


def likes_a(reply: str, rule: str) -> float:
    return 2.0 if reply.startswith("a") else -2.0


@pytest.fixture
def rater(monkeypatch: pytest.MonkeyPatch) -> Rater:
    """The judge of `rater:one`, whose calls cost money."""
    judge = Rater(mind=likes_a)
    judge.provider = "rater"  # else its calls would be free
    monkeypatch.setitem(cai.models.PROVIDERS, "rater", Provider(lambda name, connection: judge, "rater:"))
    return judge


def judged(base: Path, out: Path, **more: Any) -> Any:
    judging = {"judge": "rater:one", "constitution": law(1.0), "price": "1,1", **more.pop("judging", {})}
    return train("rloo", base, out, reward="judge", judging=judging, flags=FLAGS, **more)


def test_a_cap_that_is_reached_stops_the_training_and_a_higher_one_resumes_it_without_paying_twice(
    base: Path, tmp_path: Path, rater: Rater
) -> None:
    judged(base, tmp_path / "whole")
    calls = rater.calls
    cost = sum(call.cost_usd or 0 for call in read_calls(tmp_path / "whole"))
    told: list[str] = []
    with pytest.raises(BudgetReached):
        judged(base, tmp_path / "cut", judging={"max_cost": 0.6 * cost}, tell=told.append)
    assert any(line.startswith("stopped; run the same command again") for line in told)
    assert 0 < max(losses(tmp_path / "cut")) < max(losses(tmp_path / "whole"))
    judged(base, tmp_path / "cut", judging={"max_cost": 2 * cost})
    assert rater.calls == 2 * calls
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "cut" / "rewards.jsonl").read_text().splitlines()]
    assert {row["by"] for row in rows} == {"judge"}
    assert all(row["votes"] for row in rows)
    assert record(tmp_path / "cut")["cost_usd"] == pytest.approx(cost)
    assert cost_of(tmp_path / "cut") == pytest.approx(cost)  # as a recipe counts it
    with pytest.raises(RunError, match="another training"):
        judged(base, tmp_path / "cut", judging={"constitution": law(1.0, 1.0)})
