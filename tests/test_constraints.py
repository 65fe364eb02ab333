"""The tested versions: one of every package that cai names, within its range."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("local", "hf", "data", "plot", "train", "dev")  # all that one environment can hold
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
TESTED = {name.lower(): version for name, _, version in (line.partition("==") for line in LINES)}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] + [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    others = ("cai-toolkit", "pip")  # itself, and whatever installs the rest
    return [found for found in map(Requirement, texts) if found.name not in others]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_a_requirement_has_a_tested_version_in_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(TESTED[requirement.name.lower()])


def test_every_line_is_a_name_and_a_version_that_any_package_index_has() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
