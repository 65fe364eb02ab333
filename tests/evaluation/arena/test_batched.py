"""Evaluations whose calls go in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batched import Server, batch_server, cuts, hurry

import cai
from cai.errors import UsageError
from cai.evaluation.arena.figures import Evaluation


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    hurry(monkeypatch)
    with batch_server() as running:
        yield running


def evaluated(server: Server, out: Path, **settings: Any) -> Evaluation:
    prompts = [f"Question {number}: what helps?" for number in range(4)]
    common = {"judge": "openai:j", "suite": "preference", "principles": 1, "base_url": server.base("openai")}
    return cai.evaluate(["openai:a"], "openai:b", prompts, out=out, **{**common, **settings})


def test_replies_and_verdicts_are_those_of_an_online_evaluation(server: Server, tmp_path: Path) -> None:
    online = evaluated(server, tmp_path / "online")
    server.behave()
    batched = evaluated(server, tmp_path / "batched", batch=True)
    assert batched.results == online.results
    for part, name in (("replies", "candidates.jsonl"), ("labels", "labels.jsonl")):
        rows, others = (cuts(tmp_path / out / part)[name] for out in ("batched", "online"))
        assert rows == others
    assert [line.split()[-1] for line in server.did("create")] == ["4", "4", "8"]  # replies of each, and verdicts
    assert server.stats()["statuses"] == {"200": 16}


def test_a_part_whose_models_take_no_batches_is_refused_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base("openai"))
    with pytest.raises(UsageError, match="ollama:j takes no batches"):
        evaluated(server, tmp_path / "out", judge="ollama:j", base_url=None, batch=True)
    assert not server.did("upload") and server.stats()["statuses"] == {}
