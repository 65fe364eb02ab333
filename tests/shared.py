"""Real data that is no part of the repository: in the folder CAI_SHARED_DATA, or in the one beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared(*names: str) -> Path:
    """The file or folder of that name; the test is skipped where it is absent."""
    path = Path(os.environ.get("CAI_SHARED_DATA", ROOT.parent / "shared" / "data")).joinpath(*names)
    if not path.exists():
        pytest.skip(f"CAI_SHARED_DATA has no {'/'.join(names)}")
    return path
