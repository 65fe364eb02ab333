"""Who is compared: names, and what sets the models apart besides their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai.evaluation.arena.arena import Arena, sampling_warnings, template_warnings
from cai.evaluation.arena.figures import Contestant
from cai.evaluation.arena.settings import EvaluateSettings


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, True),
        ({"temperature": 0.7}, True),
        ({"extra_body": {"top_k": 4}}, True),
        ({"extra_body": {"top_k": 4, "repetition_penalty": 1.05}}, False),
        ({"temperature": 0.0}, False),
    ],
)
def test_the_embedded_model_beside_another_is_warned_of_unless_all_are_drawn_alike(
    settings: dict[str, Any], warned: bool
) -> None:
    warnings = list(sampling_warnings(["local", "hf:other"], EvaluateSettings(**settings)))
    assert any("local is drawn with" in warning for warning in warnings) == warned
    assert not list(sampling_warnings(["hf:one", "hf:other"], EvaluateSettings(**settings)))


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["openai:base", "openai:models/one"], ["base", "one"]),
        (["openai:a/same", "openai:b/same"], ["openai:a/same", "openai:b/same"]),
        (["openai:" + "long-" * 20, "openai:x"], ["long-long-long-long-long-lo…", "x"]),
    ],
)
def test_names_are_short_and_differ(tmp_path: Path, specs: list[str], names: list[str]) -> None:
    settings = EvaluateSettings(against=specs[0])
    arena = Arena(specs[1:], None, settings, tmp_path / "out")
    assert [contestant.name for contestant in arena.contestants] == names


def folder(path: Path, template: str) -> Contestant:
    path.mkdir()
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return Contestant(name=path.name, spec=f"hf:{path}")


def test_models_with_different_chat_templates_are_named(tmp_path: Path) -> None:
    one, two, three = (folder(tmp_path / name, name[0]) for name in ("a1", "a2", "b1"))
    assert not list(template_warnings([one, two]))
    [warning] = template_warnings([one, two, three])
    assert "a1, a2 and b1 have different chat templates" in warning
