"""Rewards that no model is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_judges import rewards

from cai.errors import UsageError
from cai.rewards.functions import FunctionReward, format_penalty, function_of, length_penalty


@given(st.integers(1, 50), st.integers(0, 200))
def test_length_is_free_up_to_a_number_of_characters_and_a_whole_point_at_twice_that(most: int, length: int) -> None:
    [penalty] = rewards(FunctionReward("length", length_penalty(most)), ["x" * length])
    if length <= most:
        assert penalty == 0
    elif length >= 2 * most:
        assert penalty == -1
    else:
        assert penalty == pytest.approx(-(length - most) / most)


@pytest.mark.parametrize(
    ("reply", "penalty"),
    [
        ("Put the bread into a paper bag.", 0),
        ("", -1),
        (" \n", -1),
        ("Sure! Here is the revised response: put it into a bag.", -1),
        ("Put it into a bag.\n\nHuman: And then?\n\nAssistant: Eat it.", -1),
        ("Put it into a bag.<|im_end|>", -1),
    ],
)
def test_format_is_a_point_for_faults_that_keep_a_reply_out_of_training_files(reply: str, penalty: float) -> None:
    assert rewards(FunctionReward("format", format_penalty), [reply]) == [penalty]


async def slowly(prompts: Any, replies: Any) -> list[float | None]:
    return [None, *(1.0 for _ in replies[1:])]


def test_a_function_may_be_async_and_need_not_know_every_reward() -> None:
    assert rewards(FunctionReward("own", slowly), ["a", "b"]) == [None, 1.0]


def broken(prompts: Any, replies: Any) -> list[float]:
    return [1 / 0]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda prompts, replies: [math.nan] * 2, "returned nan: return None if a reward is unknown"),
        (lambda prompts, replies: [10**400] * 2, "which is not a number"),
        (lambda prompts, replies: [10**5000] * 2, "returned a int, which is not a number"),
        (lambda prompts, replies: [math.inf] * 2, "returned inf"),
        (lambda prompts, replies: [1.0], "returned 1 numbers for 2 replies"),
        (lambda prompts, replies: ["good", 1.0], "returned 'good', which is not a number"),
        (lambda prompts, replies: 1.0, "the reward own failed: TypeError"),
        (broken, "the reward own failed: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_function_may_not_return_is_said_in_a_line(function: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        rewards(FunctionReward("own", function), ["a", "b"])


def test_a_function_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards_of_a_test.py").write_text(
        "def short(prompts, replies):\n    return [-len(r) for r in replies]\n"
    )
    monkeypatch.chdir(tmp_path)
    function = function_of("own_rewards_of_a_test:short")
    assert rewards(FunctionReward("own", function), ["abc", ""]) == [-3, 0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("math:no_such", "the module math has no function no_such"),
        ("math:pi", "has no function pi"),
        ("pathlib:Path", "it is a class"),
    ],
)
def test_a_function_that_is_not_there_is_said_in_a_line(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"--reward {name}.*{problem}"):
        function_of(name)
