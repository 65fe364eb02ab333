"""What a recipe has done: `recipe.json` in its folder, with the content of each stage's folder as a hash."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError

from cai.disk.hashes import remembered_sha256
from cai.disk.reading import exists, read_object
from cai.disk.writing import write_atomically
from cai.errors import RunError
from cai.folder.shards.layout import SHARDS
from cai.records import Record
from cai.texts.wording import one_line

FILE = "recipe.json"
# What a folder holds besides its result: times, costs, logs, journals, states to resume from, pictures, cards.
BESIDES = (
    "run.json", "README.md", ".texts", FILE, "metrics.jsonl", "report.html", "training.json", "rewards.jsonl", "gold",
    "gold.jsonl",
)  # fmt: skip
ENDINGS = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal", ".log", ".png", ".svg", ".part", ".lock")
FOLDERS = ("checkpoint", SHARDS)
Status = Literal["waiting", "running", "finished", "failed"]


class Entry(Record):
    """What is known of one job."""

    stage: str
    command: str
    point: dict[str, Any]  # the values of the matrix and the turn that it depends on
    status: Status
    folder: str  # in the folder of the recipe
    words: tuple[str, ...]  # of its commands, with @JOB for folders of other jobs
    inputs: dict[str, str] = Field(default_factory=dict)  # hashes of what it read, by job or file
    files: dict[str, str] = Field(default_factory=dict)  # hashes of what it wrote, by name
    summary: dict[str, Any] = Field(default_factory=dict)  # what its command said with --json
    seconds: float = 0.0
    cost_usd: float = 0.0
    earlier_usd: float = 0.0  # what the folders cost that --redo left behind


class Content(Record):
    """What recipe.json holds."""

    format: Literal[1] = 1
    recipe: str = ""
    order: tuple[str, ...] = ()  # the jobs of the recipe as it was last played; jobs may hold others, from before
    redo: tuple[str, ...] = ()  # the stages of a --redo that has not come to its end
    reported: str = ""  # a hash of what the page about all jobs has shown
    jobs: dict[str, Entry] = Field(default_factory=dict)


class State:
    """What is known of a recipe's folder. entries: by job."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        content = _read(self.path) if self.path.exists() else Content()
        self.recipe = content.recipe
        self.order = content.order or tuple(content.jobs)
        self.redo = content.redo
        self.reported = content.reported
        self.entries = dict(content.jobs)

    def note(self, job: str, entry: Entry) -> None:
        """Keep the entry of a job."""
        self.entries[job] = entry
        self.save()

    def save(self) -> None:
        """Write recipe.json."""
        content = Content(
            recipe=self.recipe, order=self.order, redo=self.redo, reported=self.reported, jobs=self.entries
        )
        values = content.model_dump(mode="json")
        write_atomically(self.path, orjson.dumps(values, option=orjson.OPT_INDENT_2) + b"\n")

    def digest(self) -> str:
        """A hash of what the jobs of the recipe have come to."""
        entries = {name: self.entries[name] for name in self.order if name in self.entries}
        results = {name: f"{each.folder} {each.status} {hash_of_files(each.files)}" for name, each in entries.items()}
        return hash_of_files(results)


def _read(path: Path) -> Content:
    advice = "restore it, or name another --out"
    content = read_object(path, advice)
    try:
        return Content.model_validate({"recipe": None, "jobs": None, **content})
    except ValidationError as error:
        raise RunError(f"{path} is damaged ({one_line(error)}): {advice}") from None


def files_of(folder: Path) -> dict[str, str]:
    """The hashes of a folder's results by their names; of nothing that differs between two equal runs.

    A folder that is gone has none.
    """
    if not exists(folder):
        return {}
    return {str(path.relative_to(folder)): hash_of(path) for path in sorted(_results(folder))}


def _results(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in BESIDES or path.name.endswith(ENDINGS) or path.name.startswith((".", *FOLDERS)):
            continue
        if path.is_dir():
            yield from () if path.is_symlink() else _results(path)  # which may lead back here
        elif path.is_file():
            yield path


def hash_of(path: Path) -> str:
    """The hash of a file's content."""
    return remembered_sha256(path)[:16]


def hash_of_files(files: Mapping[str, str]) -> str:
    """One hash for a folder's results."""
    return hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What has changed between two states of files, in words."""
    words = {name: "is gone" for name in before.keys() - after.keys()}
    words |= {name: "is new" for name in after.keys() - before.keys()}
    words |= {name: "has changed" for name in before.keys() & after.keys() if before[name] != after[name]}
    return [f"{name} {words[name]}" for name in sorted(words)]


def cost_of(folder: Path) -> float:
    """What runs and trainings in a folder have cost so far, in USD; one whose price is not known counts nothing.

    Shards that are joined are in the sum of their run already.
    """
    runs = {*folder.rglob("run.json"), *folder.rglob("training.json")}
    joined = {path for path in runs if any(_whole_of(path, at) in runs for at in _shards_above(path))}
    costs = [read_object(path).get("cost_usd") for path in sorted(runs - joined)]
    return math.fsum(filter(None, costs))


def _shards_above(path: Path) -> list[Path]:
    return [each for each in path.parents if each.name == SHARDS]


def _whole_of(path: Path, shards: Path) -> Path:
    """The run.json of the run that a shard's run is a part of: that of its labels for labels."""
    inside = path.relative_to(shards).parts[1:]
    return shards.parent.joinpath(*inside)
