"""A judge that takes no part says whether a reward still means what it did."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewarded import likes_a, named, questions, train
from trainings import lines, record, weights

from cai.errors import RunError, UsageError
from cai.training.trainers.online.goodhart import HeldOut, change
from cai.training.trainers.watch import Watch

NUMBERS = st.floats(-9, 9)
MAYBE = st.none() | NUMBERS
HATES_A = named("hates_a", lambda replies: [-float(reply.startswith("a")) for reply in replies])
GAMED = "learns to please the reward alone"


@given(st.lists(st.tuples(MAYBE, MAYBE), max_size=20), NUMBERS)
def test_a_change_is_that_of_the_prompts_that_have_both_numbers(
    pairs: list[tuple[float | None, float | None]], shift: float
) -> None:
    before, now = [first for first, _ in pairs], [later for _, later in pairs]
    found = change(before, now)
    both = [(first, later) for first, later in pairs if first is not None and later is not None]
    assert (found is None) == (len(both) < 2)
    shifted = change(before, [None if later is None else later + shift for later in now])
    if found is not None and shifted is not None:
        assert shifted == (pytest.approx(found[0] + shift, abs=1e-9), pytest.approx(found[1], abs=1e-9))
        assert change(now, before) == (pytest.approx(-found[0]), pytest.approx(found[1]))


def test_evaluations_are_compared_with_the_first_one_in_later_sessions_too(tmp_path: Path) -> None:
    held = HeldOut(tmp_path, writes=True)
    held.add([0.0, 1.0], [2.0, 4.0])
    held.add([2.0], [None])
    assert held.measures(first=True) == {
        "watch": 3.0, "reward_change": 0.0, "reward_error": 0.0, "watch_change": 0.0, "watch_error": 0.0,
    }  # fmt: skip
    resumed = HeldOut(tmp_path, writes=True)
    resumed.add([1.0, 2.0, 3.0], [0.0, 4.0, 9.0])
    measures = resumed.measures(first=False)
    assert (measures["reward_change"], measures["reward_error"]) == (1.0, 0.0)
    assert (measures["watch_change"], measures["watch_error"]) == (-1.0, pytest.approx(1.0))
    assert resumed.measures(first=False) == {}  # nothing was held out since
    anew = HeldOut(tmp_path, writes=True)
    anew.add([5.0, 5.0, 5.0], [5.0, 5.0, 5.0])
    assert anew.measures(first=True)["watch_change"] == 0.0


@given(st.floats(-3, 3), st.floats(0.01, 3), st.none() | st.floats(-3, 3), st.floats(0.01, 3))
def test_only_a_reward_that_surely_rises_while_the_rating_surely_falls_is_warned_of(
    rated: float, rated_error: float, pleased: float | None, pleased_error: float
) -> None:
    entry = {"eval_watch_change": rated, "eval_watch_error": rated_error}
    if pleased is not None:
        entry |= {"eval_reward_change": pleased, "eval_reward_error": pleased_error}
    falls, rises = rated < -2 * rated_error, pleased is None or pleased > 2 * pleased_error
    watch = Watch()
    warnings = watch.see(3, entry)
    assert bool(warnings) == (falls and rises) == (watch.gamed is not None)
    assert all(GAMED in line for line in warnings)
    assert watch.see(4, entry) == []  # once is enough


@pytest.mark.parametrize("stops", [False, True])
def test_a_model_that_games_its_reward_is_warned_of_and_stopped_if_asked(
    sure: Path, tmp_path: Path, stops: bool
) -> None:
    pytest.importorskip("trl")
    flags: dict[str, Any] = {"generations": 8, "batch_size": 64, "rows_at_once": 64, "trl.max_steps": 12}
    flags |= {"eval_every": 3, "split": 0.5, **({"stop_on_goodhart": True} if stops else {})}
    told: list[str] = []
    out = tmp_path / "out"
    summary = train("rloo", sure, out, data=questions(60), watch=HATES_A, flags=flags, tell=told.append, reward=likes_a)
    evaluations = [line for line in lines(out) if "eval_watch" in line]
    assert evaluations[0]["step"] == 0 and evaluations[0]["eval_watch_change"] == 0.0
    assert all(math.isclose(line["eval_watch"], -line["eval_reward"], abs_tol=1e-6) for line in evaluations)
    assert evaluations[-1]["eval_watch_change"] < -2 * evaluations[-1]["eval_watch_error"]
    assert sum(GAMED in line for line in told) == 1
    assert (summary.steps < 12) == stops
    assert any("stopped at step" in note and GAMED in note for note in summary.notes) == stops
    assert record(out)["finished"] and record(out)["identity"]["config"]["watch"] == "1:hates_a"


def test_a_training_that_was_stopped_so_and_killed_at_once_trains_no_further(sure: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    flags: dict[str, Any] = {"generations": 8, "batch_size": 64, "rows_at_once": 64, "trl.max_steps": 12}
    flags |= {"eval_every": 3, "save_every": 3, "split": 0.5, "stop_on_goodhart": True}
    more: dict[str, Any] = {"data": questions(60), "watch": HATES_A, "flags": flags, "reward": likes_a}
    out = tmp_path / "out"
    summary = train("rloo", sure, out, **more)
    learnt = weights(out)
    (out / "training.json").write_bytes(orjson.dumps(record(out) | {"finished": False}))
    again = train("rloo", sure, out, **more)
    assert again.steps == summary.steps < 12 and weights(out) == learnt
    assert any(f"stopped at step {summary.steps}" in note for note in again.notes)


@pytest.mark.parametrize(
    ("more", "flags", "message"),
    [
        ({"watch": HATES_A}, {"split": 1.0}, "has no held-out replies to rate"),
        ({}, {"stop_on_goodhart": True}, "stop_on_goodhart needs watch"),
        ({"watch": "openai:x@http://127.0.0.1:9/v1", "reward": "judge"}, {}, "gives the rewards itself"),
    ],
)
def test_a_watch_that_can_say_nothing_is_refused(
    base: Path, tmp_path: Path, more: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    pytest.importorskip("trl")
    judging = {"judge": "openai:x@http://127.0.0.1:9/v1"}
    with pytest.raises(UsageError, match=message):
        train("rloo", base, tmp_path / "out", flags=flags, judging=judging, **more)


def test_a_damaged_file_of_the_first_evaluation_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "watch.json").write_text('{"reward": [1.0')
    held = HeldOut(tmp_path, writes=True)
    held.add([1.0], [1.0])
    with pytest.raises(RunError, match=r"watch\.json cannot be read: .*delete it"):
        held.measures(first=False)
