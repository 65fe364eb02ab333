"""One folder of a run, a training or an evaluation: what it is, how far it came, and what resumes it."""

from __future__ import annotations

import os
import shlex
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from cai.disk.locks import is_in_use
from cai.disk.reading import read_object
from cai.errors import RunError
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.folder.info import INTERRUPTED, find_info
from cai.folder.journal.inputs import DONE
from cai.folder.journal.store import Store
from cai.records import KINDS, Values
from cai.report.places import FOLDERS
from cai.training.setup.folder import ANEW, METRICS
from cai.training.setup.folder import RECORD as TRAINING

State = Literal["running", "done", "stopped", "unfinished", "damaged"]
JOURNAL = "calls.sqlite"
WRITTEN = (*FOLDERS, *(kind.rows_file for kind in KINDS.values()), JOURNAL, f"{JOURNAL}-wal", METRICS)
LARGE = 1 << 28  # bytes of a journal whose costs take seconds to add up: not those of a run that is not done
TYPED = {"test": "constitution test"}  # commands whose runs are named otherwise


class NotOurs(Exception):
    """A folder that only looks like one of ours."""


@dataclass
class Folder:
    """A run, a training, an evaluation, or what a command keeps of several runs.

    kind: the command that makes it. why: it is stopped or damaged. rows, dropped, cost_usd: None if not known. changed:
    when something was written there, in unix time. command: what was typed, in the folder `base`; None if that is not
    known. whole: the folder of the command that it is a part of. shard: i/n, of a run that plays one of n; of their
    whole, the first that is not done.
    """

    path: Path
    kind: str
    state: State = "unfinished"
    why: str = ""
    rows: int | None = None
    dropped: int | None = None
    cost_usd: float | None = None
    changed: float = 0.0
    command: str | None = None
    base: Path | None = None
    whole: Path | None = None
    shard: str = ""
    is_part: bool = False
    parts: list[Folder] = field(default_factory=list)

    def summary(self) -> Values:
        """For programs."""
        return {
            "folder": str(self.path),
            "kind": self.kind,
            "state": self.state,
            "why": self.why or None,
            "rows": self.rows,
            "dropped": self.dropped,
            "cost_usd": self.cost_usd,
            "changed": round(self.changed, 3),
            "age_seconds": round(max(0.0, time.time() - self.changed), 3),
            "resume": resuming(self),
            "parts": [part.summary() for part in self.parts],
        }


def read_folder(path: Path, names: set[str]) -> Folder | None:
    """What a folder holds; None if it is none of ours."""
    for name, read in READERS.items():
        if name in names:
            folder = Folder(path, "run", changed=_changed(path))
            try:
                read(folder)
            except NotOurs:
                return None
            except (RunError, OSError, KeyError, TypeError, ValueError) as error:
                folder.state, folder.why = "damaged", str(error)
            if is_in_use(path):
                folder.state, folder.why = "running", ""
            return folder
    return None


def _changed(path: Path) -> float:
    """When anything of a run or training was last written."""
    times = [0.0]
    for name in WRITTEN:
        with suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return max(times)


def _evaluation(folder: Folder) -> None:
    folder.kind = "evaluate"
    facts = read_object(folder.path / EVALUATION, "run the same command again", orjson.loads)
    folder.command, folder.cost_usd = facts.get("command"), facts.get("cost_usd")
    _set_state(folder, facts.get("stopped"))


def _training(folder: Folder) -> None:
    folder.kind = "train"
    record = read_object(folder.path / TRAINING, ANEW, orjson.loads)
    folder.kind = f"train {record['identity']['method']}"
    data = record.get("data") or {}
    folder.rows, folder.dropped = data.get("train"), sum((data.get("dropped") or {}).values())
    folder.command = record.get("typed")
    folder.base = _base(folder.path, record.get("started_in"))
    if not record["finished"]:
        folder.why = _step(folder.path / METRICS)
    elif any(folder.path.glob("*.safetensors")):
        folder.state = "done"
    else:
        folder.why = "its weights are gone"


def _step(metrics: Path) -> str:
    """How far a training came."""
    if not metrics.exists():
        return "before the first step"
    lines = metrics.read_bytes().splitlines()
    for line in reversed(lines):
        with suppress(ValueError):  # torn by a kill
            facts = orjson.loads(line)
            return f"at step {facts['step']:,} of {facts['steps']:,}"
    return "before the first step"


def _run(folder: Folder) -> None:
    info: Any = find_info(folder.path)
    identity = info["identity"]
    folder.kind = TYPED.get(identity["command"], identity["command"])
    folder.rows, folder.dropped = info.get("rows"), sum(info.get("dropped", {}).values())
    folder.cost_usd = info.get("cost_usd")
    folder.command = info.get("command")
    body = identity.get("extra_body") or identity.get("sampling", {}).get("extra_body")
    if folder.command is not None and body:
        folder.command += f" --extra-body {shlex.quote(orjson.dumps(body).decode())}"
    folder.base = _base(folder.path, info.get("started_in"))
    folder.shard = info.get("shard", "")
    if info.get("part_of"):
        folder.whole = (folder.path / info["part_of"]).resolve()
    _set_state(folder, info.get("stopped"))
    journal = folder.path / JOURNAL
    if folder.state != "done" and journal.exists():  # a kill leaves the counts of the session before
        with closing(Store(folder.path, briefly=True)) as store:
            counts = store.rows.count()
            folder.rows, folder.dropped = counts.pop(DONE, 0), counts.total()
            folder.cost_usd = None
            if journal.stat().st_size < LARGE:
                folder.cost_usd = store.spent().cost_usd


def _lost(folder: Folder) -> None:
    with closing(Store(folder.path, briefly=True)) as store:
        if store.is_empty():  # a start that was refused
            raise NotOurs
    raise RunError(f"{folder.path} has calls and no run.json: restore it, or run the same command with --force")


READERS = {EVALUATION: _evaluation, TRAINING: _training, "run.json": _run, JOURNAL: _lost}


def _set_state(folder: Folder, stopped: str | None) -> None:
    if stopped is None:
        folder.state = "done"
    elif stopped != INTERRUPTED:  # which also stands there while a run is played, or after a kill
        folder.state, folder.why = "stopped", stopped


def _base(path: Path, started_in: str | None) -> Path | None:
    """The folder in which a command was typed, as it is seen from the folder of the run."""
    if not started_in:
        return None
    return (path / started_in).resolve()


def resuming(folder: Folder) -> str | None:
    """What to type here to resume; None if nothing is to be done, or what was typed is not known."""
    if folder.command is None or folder.state in ("done", "running", "damaged"):
        return None
    path = folder.whole or folder.path.resolve()
    base = folder.base
    here = Path.cwd()
    if base is None or not base.is_dir():
        base = next((each for each in (here, *path.parents) if _has_sources(each, folder.command)), here)
    if path.is_relative_to(base):
        path = path.relative_to(base)
    shard = f" --shard {folder.shard}" if folder.shard else ""
    command = f"{folder.command}{shard} --out {shlex.quote(str(path))}"
    if base == here:
        return command
    return f"cd {shlex.quote(os.path.relpath(base))} && {command}"


def _has_sources(base: Path, command: str) -> bool:
    """Whether a file that a command names is there, if it is run in this folder."""
    return any((base / word).is_file() for word in shlex.split(command)[2:] if not word.startswith("-"))


def age(changed: float) -> str:
    """How long ago something was."""
    seconds = max(0.0, time.time() - changed)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"
