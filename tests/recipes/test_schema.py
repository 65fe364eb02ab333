"""Editors are told what a recipe may hold: python tests/recipes/test_schema.py --write writes the schema of today."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai.cli.recipe import commands
from cai.recipes.recipe import built_ins
from cai.recipes.schema import schema_of
from cai.sources.files import folder

FILE = "recipe.schema.json"


def written() -> Path:
    return folder("recipes") / FILE


def made() -> str:
    return json.dumps(schema_of(commands()), indent=2) + "\n"


@pytest.fixture(scope="module")
def schema() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(json.loads(written().read_text()))


def test_the_schema_file_is_the_one_of_the_commands() -> None:
    assert written().read_text() == made(), "run python tests/recipes/test_schema.py --write"


@pytest.mark.parametrize("path", built_ins().values(), ids=built_ins())
def test_built_in_recipes_point_editors_at_the_schema_and_fit_it(schema: Any, path: Path) -> None:
    text = path.read_text()
    first = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", text.splitlines()[0])
    assert first and first[1] == FILE
    schema.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "stages",
    [
        "a: {genrate: {}}",
        "a: {generate: {round: 1}}",
        "a: {generate: {rounds: two}}",
        "a: {label: {judge: local}}",
        "a: {}",
    ],
)
def test_what_cannot_be_does_not_fit(schema: Any, stages: str) -> None:
    assert not schema.is_valid(yaml.safe_load(f"name: a\nstages:\n  {stages}\n"))


if __name__ == "__main__" and "--write" in sys.argv:
    written().write_text(made())
