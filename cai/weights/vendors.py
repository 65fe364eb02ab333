"""Other packages: needed, quiet, and their warnings left to themselves."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cai.errors import MissingExtra

VENDORS = r"(accelerate|peft|transformers|trl)\b"  # who calls, by the name of its module


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Without their progress bars and reports."""
    import datasets

    hidden, tqdm = datasets.are_progress_bars_disabled(), os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # TRL's bars over the reference's rows: `progress` tells
    datasets.disable_progress_bars()
    try:
        with quiet():
            yield
    finally:
        os.environ.pop("TQDM_DISABLE") if tqdm is None else os.environ.update(TQDM_DISABLE=tqdm)
        if not hidden:
            datasets.enable_progress_bars()


def need(what: str, extra: str, *packages: str) -> None:
    """Raise MissingExtra if one of the packages that `what` needs is not installed; `extra` installs them."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra(what, extra)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports: one line on the screen is ours, and `loading` checks weights."""
    from transformers.utils import logging as vendor

    shown, level = vendor.is_progress_bar_enabled(), vendor.get_verbosity()
    vendor.disable_progress_bar()
    vendor.set_verbosity_error()
    hub = logging.getLogger("huggingface_hub")  # which tells of every try to reach it
    told = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # one vendor tells another that a name of its is old
            warnings.filterwarnings("ignore", category=FutureWarning, module=VENDORS)
            yield
    finally:
        hub.setLevel(told)
        vendor.set_verbosity(level)
        if shown:
            vendor.enable_progress_bar()
