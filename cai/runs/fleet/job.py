"""What a worker is sent: the run whose shard it plays, with its part of the limits."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.calls.model import spec_of
from cai.errors import RunError, UsageError
from cai.folder.shards.layout import SHARDS
from cai.judge.certify import FILE as CALIBRATION
from cai.models.serving.shared import adopt_servers, is_started_here
from cai.packages import need
from cai.records import Object, Values
from cai.runs.run import Run
from cai.sources.files import is_read_once
from cai.texts.wording import option

LIMITS = ("concurrency", "rpm", "tpm")  # that all workers keep together


@dataclass(frozen=True)
class Job:
    """One shard of a run.

    make: makes the run from its settings. sends_rows: whether its rows are wanted besides their counts. command: the
    line that makes the whole run again. servers: that are running already, as `adopt_servers` takes them. folder: the
    one that paths are seen from. mark: a file in the run's folder, which tells on another machine whether that is the
    same folder; None: it is this machine. environment: variables that another machine may lack.
    """

    make: Callable[[Any], Run[Any]]
    settings: Any
    sends_rows: bool
    level: int = logging.INFO
    command: str | None = None
    servers: Mapping[str, Values] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)
    mark: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def run(self) -> Run[Any]:
        """The run of the shard; RunError on a machine that has not the folders it needs."""
        if self.mark is not None:
            self._enter(self.mark)
        adopt_servers(self.servers)
        run = self.make(self.settings)
        run.command_line = self.command
        return run

    def _enter(self, mark: Path) -> None:
        """Be in the folder that paths are seen from."""
        host = socket.gethostname()
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise RunError(
                f"the node {host} cannot enter {self.folder} ({error.strerror}): start cai in a folder that all nodes "
                "of the cluster share, with what it reads"
            ) from None
        if not mark.exists():
            raise RunError(
                f"the node {host} does not see what is in {mark.parent.parent}: name an --out on storage that all "
                "nodes of the cluster share"
            )


def check(run: Run[Any]) -> None:
    """Raise UsageError for a run that workers cannot play."""
    settings = run.settings
    name = "--workers" if settings.ray is None else "--ray"
    if settings.shard is not None:
        raise UsageError(f"{name} plays all shards, and --shard one of them: name one of the two")
    if getattr(settings, "target", None) is not None:
        raise UsageError(f"--target counts the pairs of all workers together: leave out {name}")
    if settings.batch:
        raise UsageError(f"--batch gathers what all prompts wait for in one process: leave out {name}")
    if is_read_once(run.source) and not str(run.source).startswith("hf:"):
        raise UsageError(
            f"{name}: every worker reads the whole source, and this one can be read once: write it to a file"
        )
    if settings.ray is not None:
        need("--ray", "ray", "ray")
        served = [spec_of(model) for model in run.models if is_started_here(model)]
        if served:
            raise UsageError(
                f"--ray: a server that is started here for {served[0]} is not reached from other nodes: start it "
                "yourself where they reach it, and name it as openai:NAME@URL"
            )
    if settings.workers is not None:
        shares(run, settings.workers)


def shares(run: Run[Any], workers: int) -> list[Values]:
    """The part of each worker of the limits on calls; UsageError for one that cannot be divided by so many."""
    settings = run.settings
    whole = {name: getattr(settings, name) for name in LIMITS}
    if whole["concurrency"] is None:
        whole["concurrency"] = max(workers, *(model.concurrency for model in run.models))
    for name, most in whole.items():
        if most is not None and most < workers:
            raise UsageError(
                f"{option(name)} {most} cannot be divided among {workers} workers: raise it, or --workers {most}"
            )
    return [
        {name: most if most is None else most // workers + (number < most % workers) for name, most in whole.items()}
        for number in range(workers)
    ]


def settings_of(run: Run[Any], shard: str, share: Object, *, is_again: bool) -> Any:
    """The settings of one shard; is_again: one that has begun already keeps what it has, also with --force."""
    changes: Values = {"out": str(run.out), "shard": shard, "workers": None, "ray": None, **share}
    if is_again:
        changes["force"] = False
    if getattr(run.settings, "gold", None) is not None:  # which was judged for all of them
        changes |= {"gold": None, "calibration": str(run.out / CALIBRATION)}
    return run.settings.model_copy(update=changes)


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """A file in a run's folder by which other machines see that they have the same one."""
    mark = folder / SHARDS / f".{secrets.token_hex(8)}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
