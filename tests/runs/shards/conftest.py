"""A run that was played as one, and the same in three shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sharded import generate, played, written
from steady import Steady


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Steady) -> Path:
    """A run without shards, which was cut at its end."""
    folder = tmp_path_factory.mktemp("whole")
    generate(written(folder / "prompts.jsonl"), folder / "run", server)
    return folder / "run"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, server: Steady) -> Path:
    """A run in three shards, which no test changes."""
    return played(tmp_path_factory.mktemp("three"), server, 3)


@pytest.fixture
def copy(three: Path, tmp_path: Path) -> Path:
    """The same run, which a test may change."""
    return Path(shutil.copytree(three, tmp_path / "run"))
