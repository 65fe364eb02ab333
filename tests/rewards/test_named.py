"""What --reward can name, and what is said of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import CaiError, UsageError
from cai.rewards.calls import RewardCalls
from cai.rewards.completions import Completions
from cai.rewards.judge import JudgeReward
from cai.rewards.named import most_calls, read_rewards, weighted_names
from cai.rewards.settings import RewardSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("judge", [(1.0, "judge")]),
        ("1.0:judge,0.5:length", [(1.0, "judge"), (0.5, "length")]),
        (" 2:judge:harmless , judge:helpful", [(2.0, "judge:harmless"), (1.0, "judge:helpful")]),
        ("0.1:reward:runs/rm,format", [(0.1, "reward:runs/rm"), (1.0, "format")]),
        ("length:800,1e-2:my.rewards:short", [(1.0, "length:800"), (0.01, "my.rewards:short")]),
    ],
)
def test_rewards_are_named_with_their_weights(text: str, expected: list[tuple[float, str]]) -> None:
    assert weighted_names(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has an empty part"),
        ("judge,,length", "has an empty part"),
        ("1.0:", "has an empty part"),
        ("jugde", "did you mean 'judge'"),
        ("lenght:500", "did you mean 'length'"),
        ("quality", "name judge, reward:PATH, length, format or module:function"),
        ("0:judge", "a weight must be a finite number above 0"),
        ("-1:length", "a weight must be a finite number above 0"),
        ("nan:judge", "a weight must be a finite number above 0"),
        ("inf:judge", "a weight must be a finite number above 0"),
        ("judge,2:judge", "names judge twice"),
        ("reward", "names no model"),
        ("length:short", "write how many characters are free"),
        ("length:0", "write how many characters are free"),
        ("format:json", "format takes nothing after it"),
        ("judge:no-such-law", "no-such-law"),
    ],
)
def test_a_text_that_names_no_rewards_is_refused_in_a_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CaiError, match=problem) as error:
        calls = RewardCalls(tmp_path, RewardSettings(judge="recorded:none.jsonl"))
        read_rewards(text, calls, Completions(tmp_path))
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        names = weighted_names(text)
    except UsageError:
        return
    assert all(weight > 0 and name for weight, name in names)


def test_two_constitutions_are_two_rewards_of_one_judge(tmp_path: Path) -> None:
    settings = RewardSettings(judge="openai:gpt-4.1-mini", principles=2)
    calls = RewardCalls(tmp_path, settings)
    rewards = read_rewards("judge:harmless,0.5:judge:helpful,length", calls, Completions(tmp_path))
    helpful = rewards[1].reward
    assert isinstance(helpful, JudgeReward) and helpful.law.name == "helpful"
    assert [(weight, reward.name) for weight, reward in rewards] == [
        (1.0, "judge:harmless"), (0.5, "judge:helpful"), (1.0, "length"),
    ]  # fmt: skip
    assert most_calls(rewards, 8) == 8 * 2 * 2
    assert not (tmp_path / "run").exists()  # nothing is opened before the first call
