"""Evaluations of models of the tests' own server, and their figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steady import Steady

import cai
from cai.evaluation.arena.figures import Evaluation, Line

TEXTS = [f"Question {number}: what helps?" for number in range(12)]
Ask = Callable[..., Evaluation]


def asking(server: Steady, folder: Path, texts: list[str] = TEXTS) -> Ask:
    """Evaluates models of the server on a few prompts, in a folder `out`; by default only the suite `preference`."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))

    def evaluate(*models: str, against: str = "openai:base", out: str = "out", **settings: Any) -> Evaluation:
        values = {"judge": "openai:judge", "suite": "preference", "principles": 1, **settings}
        values["base_url"] = f"{server.url}/v1"
        return cai.evaluate(models, against, prompts, out=folder / out, **values)

    return evaluate


def lines_of(evaluation: Evaluation, suite: str = "preference") -> dict[tuple[str, str], Line]:
    """The lines of a suite by measure and model."""
    [result] = [result for result in evaluation.results if result.suite == suite]
    return {(line.measure, line.model): line for line in result.lines}
