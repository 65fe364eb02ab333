"""What tests of evaluations start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import Ask, asking
from steady import Steady


@pytest.fixture
def ask(server: Steady, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Evaluates models of the server on a few prompts, in a folder of the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return asking(server, tmp_path)
