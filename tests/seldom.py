"""Leaves most values of a test to `pytest -m slow`: those that show little which the others do not."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def seldom(values: Iterable[Any], often: Container[Any]) -> list[Any]:
    """The values of one parameter, or tuples of several, of which only those in `often` are tried by default."""
    params = []
    for value in values:
        each = value if isinstance(value, tuple) else (value,)
        params.append(pytest.param(*each, marks=() if value in often else pytest.mark.slow))
    return params
