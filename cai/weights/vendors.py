"""Other packages: needed, quiet, and their warnings left to themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def vendors_among_themselves() -> Iterator[None]:
    """Without their progress bars and reports."""
    import datasets

    from cai.weights.bases import quiet

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
