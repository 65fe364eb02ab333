"""Finds files: those that come with the toolkit, `constitutions/` and `prompts/`, and those that a person names.

Package resources first (an installed wheel), then the root of a checkout (editable installs). Knows no file formats.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from cai.errors import CaiError, UsageError


@cache
def folder(name: str) -> Path:
    """The folder `name` ("constitutions" or "prompts") of this installation."""
    installed = Path(str(files("cai"))) / "data" / name
    checkout = Path(__file__).resolve().parents[2] / name
    for path in (installed, checkout):
        if path.is_dir():
            return path
    raise CaiError(f"this installation lacks its data folder {name!r}: reinstall cai-toolkit")


def path_of(name: str) -> Path:
    """A path as a person writes it; UsageError where it names the home of nobody, or holds a NUL."""
    if "\0" in name:
        raise UsageError(f"{name!r} holds a NUL byte, which no path can")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UsageError(f"{name}: there is no home folder of that name; a file called that is ./{name}") from None
