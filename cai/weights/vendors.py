"""Other packages: whether they are installed, and how they are kept quiet."""

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
    """Without the progress bars and reports of datasets, TRL and transformers."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    tqdm = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # TRL's bars over the reference's rows: our own progress covers them
    datasets.disable_progress_bars()
    try:
        with quiet():
            yield
    finally:
        del os.environ["TQDM_DISABLE"]
        if tqdm is not None:
            os.environ["TQDM_DISABLE"] = tqdm
        if not hidden:
            datasets.enable_progress_bars()


def need(what: str, extra: str, *packages: str) -> None:
    """Raise MissingExtra if one of the packages that `what` needs is not installed; `extra` installs them."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra(what, extra)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports: the screen is ours, and `loading` checks the weights itself."""
    from transformers.utils import logging as vendor

    shown = vendor.is_progress_bar_enabled()
    level = vendor.get_verbosity()
    vendor.disable_progress_bar()
    vendor.set_verbosity_error()
    hub = logging.getLogger("huggingface_hub")  # which logs every attempt to reach it
    hub_level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # these packages use deprecated names of each other
            warnings.filterwarnings("ignore", category=FutureWarning, module=VENDORS)
            yield
    finally:
        hub.setLevel(hub_level)
        vendor.set_verbosity(level)
        if shown:
            vendor.enable_progress_bar()
