"""What the workers of a run say, summed up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from cai.errors import AuthenticationFailed, ModelStopped, RunError
from cai.records import Values
from cai.runs.fleet.hub import Hub, Standing, error_of
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings

TALLY = {
    "sent": 0, "answered": 0, "replayed": 0, "retries": 0, "throttled": 0, "in_flight": 0, "input_tokens": 0,
    "output_tokens": 0, "cost": 0.0,
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """The hub of a run of two shards, in which nothing has been asked yet."""
    settings = GenerateSettings(model="openai:m", out=tmp_path, workers=2)
    run: Any = GenerateRun(["One?", "Two?"], settings)
    shards = [Standing(f"shard {number}/2", tmp_path / "shards" / str(number)) for number in range(2)]
    return Hub(run, shards, lambda number, message: None)


def status(finished: int = 0, dropped: int = 0, skipped: int = 0, **tally: Any) -> Values:
    counts = {"read": finished + dropped + skipped, "skipped": skipped, "finished": finished}
    return {"status": {**counts, "dropped": {"empty": dropped}, "tally": TALLY | tally, "waiting": ""}}


def test_the_progress_of_a_run_is_that_of_all_its_workers(hub: Hub) -> None:
    hub.hear(0, status(finished=3, dropped=1, answered=9, in_flight=2))
    hub.hear(1, status(finished=2, skipped=5, answered=4, in_flight=1))
    run = hub.run
    assert (run.finished, run.skipped, run.read, dict(run.dropped)) == (5, 5, 11, {"empty": 1})
    assert (run.tally.answered, run.tally.in_flight) == (13, 3)


def test_what_a_worker_did_before_it_died_still_counts_once(hub: Hub) -> None:
    hub.hear(0, status(finished=3, dropped=1, skipped=2, answered=9, in_flight=2))
    assert hub.died(0, "SIGKILL")
    hub.hear(0, status(finished=1, skipped=6, answered=2, in_flight=1))  # six: two, and those of the worker before it
    run = hub.run
    assert (run.finished, run.skipped, dict(run.dropped)) == (4, 2, {"empty": 1})
    assert (run.tally.answered, run.tally.in_flight) == (11, 1)


def test_workers_that_die_without_an_answer_are_replaced_twice(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cai"):
        assert [hub.died(1, "SIGKILL") for _ in range(3)] == [True, True, False]
    assert isinstance(hub.error, RunError) and "shard 1/2: 3 workers have died" in str(hub.error)
    assert caplog.messages == ["shard 1/2: its worker has died (SIGKILL); another one asks what is missing"] * 2


def test_what_several_workers_warn_of_is_said_once_with_who_was_first(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cai"):
        for number in (1, 0, 1):
            hub.hear(number, {"log": [logging.WARNING, "the disk is slow"]})
    assert caplog.messages == ["shard 1/2: the disk is slow"]


def test_the_first_error_of_a_worker_is_that_of_the_run(hub: Hub) -> None:
    hub.hear(0, {"end": {"error": ["AuthenticationFailed", "check OPENAI_API_KEY"], "example": None}})
    hub.hear(1, {"end": {"error": ["RunError", "the disk is full"], "example": None}})
    assert isinstance(hub.error, AuthenticationFailed) and str(hub.error) == "check OPENAI_API_KEY"
    assert all(shard.is_over for shard in hub.shards)


def test_a_worker_that_was_stopped_has_not_come_to_its_end(hub: Hub) -> None:
    hub.hear(0, {"end": {"error": ["stopped", ""], "example": None}})
    assert hub.error is None and not hub.shards[0].is_over


def test_an_error_is_here_what_it_was_there() -> None:
    assert isinstance(error_of("ServerDown", "gone"), ModelStopped)
    assert str(error_of("SourceError", "prompts.jsonl:3: no JSON")) == "prompts.jsonl:3: no JSON"
