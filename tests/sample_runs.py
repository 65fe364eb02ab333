"""Sample runs of models made for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from players import Player, digits

from cai.records import Candidates, Completion
from cai.runs.play import run_job
from cai.runs.sample import SampleSetup, resolve
from cai.runs.session import Job
from cai.runs.settings import SampleSettings, make_settings

PROMPTS = [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(12)]


def seeded(payload: dict[str, Any]) -> Completion:
    """A reply that depends on the prompt and the seed."""
    return Completion(f"reply {digits(payload)}", "stop", "m-1", input_tokens=5, output_tokens=3)


def setup(prompts: Any, out: Path, *models: Player, **given: Any) -> SampleSetup:
    """A sample run of these models instead of those that it names."""
    dummies = []
    for model in models:
        dummy = out.parent / f"{model.name}.jsonl"
        dummy.touch()
        dummies.append(f"recorded:{dummy}")
    made = resolve(prompts, make_settings(SampleSettings, {"model": dummies, "out": out, **given}))
    players = dict(zip(made.players, models, strict=True))
    return replace(made, players=players, seats=tuple({"assistant": model} for model in models))


def run(prompts: Any, out: Path, *models: Player, **given: Any) -> Job[Candidates]:
    job = Job(setup(prompts, out, *models, **given), out)
    run_job(job)
    return job


def rows_of(folder: Path, name: str = "candidates.jsonl") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return sorted(rows, key=lambda row: row["position"])


def cutting(share: int) -> Callable[[dict[str, Any]], Completion]:
    """Replies of which one in `share` is cut."""

    def answer(payload: dict[str, Any]) -> Completion:
        whole = seeded(payload)
        return whole if digits(payload, "cut") % share else replace(whole, finish="length")

    return answer
