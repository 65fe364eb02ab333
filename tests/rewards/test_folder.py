"""The folder of a reward server is seen to be usable before anything is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reward_judges import Rater, judge, law, rewards

import cai.models
from cai.errors import RunError, UsageError
from cai.models import Provider
from cai.rewards.completions import FILE
from cai.rewards.folder import opened
from cai.rewards.settings import RewardSettings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> RewardSettings:
    def rater(name: str, connection: Any) -> Rater:
        made = Rater(reward=name == "scores")
        made.provider = "rater"
        return made

    monkeypatch.setitem(cai.models.PROVIDERS, "rater", Provider(rater, "rater:"))
    return RewardSettings(judge="rater:one", constitution=law(1.0), price="1,1", max_cost=1.0)


def test_a_folder_whose_costs_are_not_known_holds_no_cap(settings: RewardSettings, tmp_path: Path) -> None:
    rater = Rater()
    rater.provider = "rater"
    rewards(judge(tmp_path, rater, price=None), ["+1 a"])
    with pytest.raises(RunError, match=r"--max-cost cannot hold: .* name another --out"), opened(tmp_path, settings):
        pass


def test_a_damaged_line_is_said_at_once(settings: RewardSettings, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}\n")
    with pytest.raises(RunError, match=r"rewards\.jsonl: line 1 is damaged"), opened(tmp_path, settings):
        pass


@pytest.mark.parametrize(("changed", "option"), [({"scoring": "group"}, "--scoring"), ({"principles": 1}, "--princ")])
def test_a_reward_model_is_not_told_how_to_judge(
    settings: RewardSettings, tmp_path: Path, changed: dict[str, Any], option: str
) -> None:
    plain = RewardSettings(judge="rater:scores", price="1,1")
    with opened(tmp_path, plain) as reward:
        assert "rater" in reward.title
    with (
        pytest.raises(UsageError, match=f"{option}.* is for judges"),
        opened(tmp_path, plain.model_copy(update=changed)),
    ):
        pass
