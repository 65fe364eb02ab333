"""Finds the data files that come with the toolkit: `constitutions/` and `prompts/`.

Package resources first (an installed wheel), then the root of a checkout (editable installs). Knows no file formats.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from cai.errors import CaiError


@cache
def folder(name: str) -> Path:
    """The folder `name` ("constitutions" or "prompts") of this installation."""
    installed = Path(str(files("cai"))) / "data" / name
    checkout = Path(__file__).resolve().parent.parent / name
    for path in (installed, checkout):
        if path.is_dir():
            return path
    raise CaiError(f"this installation lacks its data folder {name!r}: reinstall cai-toolkit")
