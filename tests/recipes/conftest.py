"""For the tests of recipes: one in a file, and the commands that it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from stub import Stub, stub

from cai.cli.recipe import commands
from cai.recipes.commands import Command
from cai.recipes.reading import read_recipe
from cai.recipes.recipe import Recipe

if TYPE_CHECKING:
    from recipe_runs import Bench

known: Callable[[], Mapping[str, Command]] = cache(commands)
Read = Callable[..., Recipe]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the text of a recipe."""

    def read(text: str, *assignments: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(dedent(text))
        return read_recipe(path, known(), assignments)

    return read


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub() as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, server: Stub) -> Bench:
    """A recipe in a folder, and what it runs."""
    from recipe_runs import Bench

    return Bench(tmp_path, server)
