"""The runs, trainings and evaluations under a folder: finds them, and puts together what one command made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cai.errors import RunError, UsageError
from cai.folder.shards.layout import shard_of
from cai.folder.shards.parts import folders_of
from cai.training.setup.folder import RECORD as TRAINING
from cai.viewer.terminal.folders import Folder, read_folder

DEFAULTS = ("runs", ".")  # where runs are looked for: in the first of these that is there
DEPTH = 6  # of folders below the one that is named: parts of an evaluation are two below it
MOST_FOLDERS = 20_000
NOT_OURS = {"node_modules", "site-packages", "__pycache__"}
BENCH = "judge bench"


@dataclass
class Shelf:
    """What there is under a folder, the newest first. unreadable: folders that may not be entered."""

    top: Path
    folders: list[Folder] = field(default_factory=list)
    unreadable: int = 0
    whole: bool = True  # whether all folders were looked at


def find_folders(top: str | Path | None = None) -> Shelf:
    """The runs, trainings and evaluations under a folder; None: under `runs`, or here if there is no such folder.

    What cannot be read is listed as damaged. Changes nothing, and may look on while runs are written. Raises UsageError
    if there is no such folder.
    """
    if top is None:
        top = next(filter(os.path.isdir, DEFAULTS))
    shelf = Shelf(Path(top))
    if not shelf.top.is_dir():
        raise UsageError(f"{top} is not a folder: name one with runs in it, such as runs")
    folders = [read_folder(path, names) for path, names in _walk(shelf)]
    shelf.folders = _gathered([each for each in folders if each is not None], shelf.top.resolve())
    return shelf


# Looking for them


def _walk(shelf: Shelf) -> Iterator[tuple[Path, set[str]]]:
    """Every folder with the names in it, each once, however many links lead to it; the parents first."""
    waiting = [(shelf.top, 0)]
    visited = set[tuple[int, int]]()
    while waiting:
        path, depth = waiting.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError:
            shelf.unreadable += 1
            continue
        if len(visited) > MOST_FOLDERS:
            shelf.whole = False
            return
        names = {entry.name for entry in inside}
        yield path, names
        if TRAINING in names or "pyvenv.cfg" in names:  # what is inside is not ours, or a checkpoint
            continue
        for entry in inside:
            if not entry.name.startswith(".") and entry.name not in NOT_OURS and _is_folder(entry):
                if depth == DEPTH:
                    shelf.whole = False
                else:
                    waiting.append((path / entry.name, depth + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


# What belongs together


def _gathered(folders: Iterable[Folder], top: Path) -> list[Folder]:
    """Commands with their parts, the newest first; top: what was looked through."""
    known = {folder.path.resolve(): folder for folder in folders}
    own = {each for path, folder in known.items() if folder.whole is None for each in path.parents}
    tops = []
    for path, folder in list(known.items()):
        whole = folder.whole
        if whole is None and folder.base is None:  # of an earlier version, which wrote neither
            whole = next((each for each in reversed(path.parents) if each in known), None)
        if whole not in known and whole is not None:  # nothing but parts is there yet, or parts were moved
            if whole in own or top not in (whole, *whole.parents):
                whole = None
            else:
                known[whole] = Folder(_seen_as(whole, folder.path), "", command=folder.command, base=folder.base)
                tops.append(known[whole])
        if whole is None:
            tops.append(folder)
        else:
            folder.is_part = True
            known[whole].parts.append(folder)
    for each in tops:
        _sum_up(each)
    return sorted(tops, key=lambda each: (-each.changed, each.path))


def _seen_as(whole: Path, part: Path) -> Path:
    """The folder of a command, named as the folder of its part is."""
    named = (above for above in part.parents if above.resolve() == whole)
    return next(named, whole)


def _sum_up(top: Folder) -> None:
    """What the parts of a command say of the whole."""
    if not top.parts:
        return
    for part in top.parts:
        _sum_up(part)
    are_shards = bool(top.parts[0].shard)
    top.changed = max(part.changed for part in (top, *top.parts))
    if top.kind in ("", "evaluate"):  # no run of its own
        costs = [part.cost_usd for part in top.parts]
        top.cost_usd = None
        if None not in costs:
            top.cost_usd = sum(filter(None, costs))
        first = top.parts[0]
        top.command, top.base = top.command or first.command, top.base or first.base
        if not top.kind:
            top.kind = _kind_of(top.command)
            if top.kind == BENCH or are_shards:  # which has nothing but its parts
                top.state = "done"
            if are_shards:
                top.rows = sum(part.rows or 0 for part in top.parts)
                top.dropped = sum(part.dropped or 0 for part in top.parts)
    states = {part.state for part in top.parts}
    if "running" in states:
        top.state, top.why = "running", ""
    elif top.state == "done" and states != {"done"}:
        part = next(part for part in top.parts if part.state != "done")
        top.state, top.why, top.shard = part.state, f"{part.path.name}: {part.why or part.state}", part.shard
    if are_shards and top.state == "done":
        try:
            folders_of(top.path)
        except RunError as error:
            top.state, top.why = "unfinished", str(error)
            top.shard = f"i/{shard_of(top.parts[0].shard).count}"


def _kind_of(command: str | None) -> str:
    """The command of a folder that has nothing but parts."""
    words = (command or "cai runs").split()[1:]
    if words[0] == "judge":
        return " ".join(words[:2])
    return words[0]
