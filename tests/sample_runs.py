"""Sample runs of models made for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from players import Player, digits

from cai.records import Completion
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import SampleSettings
from cai.sources.yamlfile import make_settings

PROMPTS = [{"id": f"q{n}", "prompt": f"Question {n}?"} for n in range(12)]


def seeded(payload: dict[str, Any]) -> Completion:
    """A reply that depends on the prompt and the seed."""
    return Completion(f"reply {digits(payload)}", "stop", "m-1", input_tokens=5, output_tokens=3)


def setup(prompts: Any, out: Path, *models: Player, player: Player | None = None, **given: Any) -> SampleRun:
    """A sample run of these models, and this judge of their replies, instead of those that it names."""

    def opened(specs: dict[str, str], connection: Any) -> dict[str, Player]:
        players = models if player is None else (*models, player)
        return dict(zip(specs, players, strict=True))

    given = {"model": [f"recorded:{model.name}" for model in models], "out": out} | given
    with patch("cai.runs.kinds.sample.open_models", opened):
        return SampleRun(prompts, make_settings(SampleSettings, given))


def run(prompts: Any, out: Path, *models: Player, **given: Any) -> SampleRun:
    made = setup(prompts, out, *models, **given)
    for part in made.sessions():
        part.finish()
    return made


def rows_of(folder: Path, name: str = "candidates.jsonl") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return sorted(rows, key=lambda row: row["position"])


def cutting(share: int) -> Callable[[dict[str, Any]], Completion]:
    """Replies of which one in `share` is cut."""

    def answer(payload: dict[str, Any]) -> Completion:
        whole = seeded(payload)
        return whole if digits(payload, "cut") % share else replace(whole, finish="length")

    return answer
