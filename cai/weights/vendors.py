"""Keeps transformers and the packages around it from printing reports, progress bars and warnings of their own."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

VENDORS = r"(accelerate|peft|transformers|trl)\b"  # who calls, by the name of its module


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars and reports of transformers: `loading` checks the weights itself."""
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


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Hide the progress bars and reports of datasets, TRL and transformers."""
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
