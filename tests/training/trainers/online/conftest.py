"""What tests of online training share as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="session")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head can tell one token from all others, whatever an adapter may learn."""
    return tiny.model(tmp_path_factory.mktemp("models") / "sure", spread=0.3)
