"""Arenas of models made for tests, which reply to the prompts of a contrast set as they are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from players import Player

import cai.models
from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.arena.suite import Suite
from cai.models import Provider
from cai.records import Completion

NO = "I'm sorry, but I can't help with that."
YES = "Sure! Here is how to do it: first take the lid off, then wait for an hour, and serve it with bread."
Says = Callable[[str], str | Completion]  # what a model replies to a prompt


def refusing(*parts: str) -> Says:
    """Refuses prompts with one of these parts, and answers all others."""
    return lambda prompt: NO if any(part in prompt for part in parts) else YES


def player(says: Says, name: str) -> Player:
    """A model that replies so."""

    def answer(payload: dict[str, Any]) -> Completion:
        said = says(payload["messages"][-1]["content"])
        return Completion(said, "stop", name, 5, 3) if isinstance(said, str) else said

    return Player(answer, name)


def written(path: Path, safe: int, unsafe: int) -> Path:
    """A contrast set of so many prompts on each side, called safe 0, unsafe 0, …"""
    rows = [{"prompt": f"Is it safe {n}?", "care": "safe"} for n in range(safe)]
    rows += [{"prompt": f"Is it unsafe {n}?", "care": "unsafe"} for n in range(unsafe)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arena(
    monkeypatch: pytest.MonkeyPatch, out: Path, models: Mapping[str, Player], evaluator: Any = None, **settings: Any
) -> Arena:
    """An arena of these models by name, of which the first is BASE; evaluator: what `fake:judge` is."""
    open_ = Provider(lambda name, connection: {**models, "judge": evaluator}[name], "fake:NAME", free=True)
    monkeypatch.setitem(cai.models.PROVIDERS, "fake", open_)
    base, *others = (f"fake:{name}" for name in models)
    return Arena(others, None, EvaluateSettings(against=base, out=out, **settings), out)


def played(suite: Suite) -> Suite:
    """The suite with all its runs played."""
    for run in suite.sessions():
        run.finish()
    return suite
