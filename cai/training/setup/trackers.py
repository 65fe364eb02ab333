"""Trackers, the services that show metrics besides metrics.jsonl: the packages they need, and errors of these.

What is sent to them is up to transformers, whose callbacks they are.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from cai.errors import CaiError, UsageError
from cai.texts.wording import nearest, reason_of

YES = ("1", "ON", "YES", "TRUE")  # values of the environment that transformers takes for true


@dataclass(frozen=True, slots=True)
class Tracker:
    """One of transformers' trackers."""

    packages: tuple[str, ...]  # as they are imported; one is enough
    off: str = ""  # variable of the environment by which transformers leaves it out


TRACKERS: dict[str, Tracker] = {
    "wandb": Tracker(packages=("wandb",)),
    "tensorboard": Tracker(packages=("tensorboardX", "tensorboard")),
    "trackio": Tracker(packages=("trackio",)),
    "mlflow": Tracker(packages=("mlflow",), off="DISABLE_MLFLOW_INTEGRATION"),
}
NOWHERE = "none"  # in place of a name: what transformers calls no tracker


def check_trackers(names: Any) -> None:
    """UsageError for a tracker that does not exist, whose package is not installed, or that is switched off."""
    listed = [names] if isinstance(names, str) else names or []
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"report_to is {names!r}: it must be the name of a tracker, or a list of names")
    for name in listed:
        if name == NOWHERE:
            continue
        if name not in TRACKERS:
            raise UsageError(f"report_to: no tracker is called {name!r}; {nearest(name, TRACKERS)}")
        tracker = TRACKERS[name]
        if not any(map(importlib.util.find_spec, tracker.packages)):
            raise UsageError(f"report_to {name}: the package is not installed: pip install {name}")
        if os.environ.get(tracker.off, "").upper() in YES:
            raise UsageError(f"report_to {name}: {tracker.off} switches it off: unset it, or leave report_to out")


@contextmanager
def errors_of_trackers() -> Iterator[None]:
    """Make what a tracker raises about keys, servers and disks a CaiError of one line that begins with its name."""
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        name = _tracker_in(error.__traceback__)
        if name is None:
            raise
        raise CaiError(f"{name}: {reason_of(error)}") from error


def _tracker_in(trace: TracebackType | None) -> str | None:
    """The tracker whose code an error came through; None: that of no tracker."""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
        for name, tracker in TRACKERS.items():
            if package in tracker.packages:
                return name
        trace = trace.tb_next
    return None
