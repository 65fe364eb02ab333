"""The finished calls of a run answer in place of the model that made them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from stub import stub

import cai
from cai.errors import InputError, ModelStopped
from cai.models import open_model
from cai.records import Call, Request, Sampling

PROMPTS = ["How do bees fly?", "What is rust?"]


def run(out: Path, model: str, **more: Any) -> list[dict[str, Any]]:
    rows = cai.generate(PROMPTS, "harmless", model=model, rounds=1, max_tokens=64, out=out, **more)
    return sorted((row.model_dump(include={"id", "initial", "rounds", "final"}) for row in rows), key=str)


def test_a_run_is_played_again_from_its_own_calls(tmp_path: Path) -> None:
    with stub() as server:
        first = run(tmp_path / "a", "openai:stub", base_url=server.url)
    assert first
    assert run(tmp_path / "b", f"recorded:{tmp_path / 'a'}") == first
    assert run(tmp_path / "c", f"recorded:{tmp_path / 'b' / 'calls.sqlite'}") == first


def test_what_was_never_asked_is_told_with_the_sampling_it_was_asked_for(tmp_path: Path) -> None:
    with stub() as server:
        run(tmp_path / "a", "openai:stub", base_url=server.url)
    with pytest.raises(ModelStopped, match=r"number 1 was asked for, at temperature 0\.5 and 64 tokens"):
        run(tmp_path / "b", f"recorded:{tmp_path / 'a'}", temperature=0.5)


def test_a_second_sample_is_not_the_first_one_again(tmp_path: Path) -> None:
    with stub() as server:
        run(tmp_path / "a", "openai:stub", base_url=server.url)
    model = open_model(f"recorded:{tmp_path / 'a'}")
    request = Request("assistant", ({"role": "user", "content": PROMPTS[0]},))

    def ask(sample: int) -> str:
        call = Call(request, "row", 0, 0, Sampling(1.0, 64), sample)
        return asyncio.run(model.send(model.payload(call))).text

    assert ask(0)
    with pytest.raises(ModelStopped, match="has 1 answers, and number 2 was asked for"):
        ask(1)


def test_a_folder_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        open_model(f"recorded:{tmp_path}")
