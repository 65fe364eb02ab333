"""Which packages are installed, and which extra installs those that are missing."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from cai.errors import MissingExtra


@cache  # a millisecond a look, of which every run folder takes several
def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is not installed (a bare checkout)."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def need(what: str, extra: str, *packages: str) -> None:
    """Raise MissingExtra if one of the packages that `what` needs is not installed; `extra` installs them."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra(what, extra)
