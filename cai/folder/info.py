"""The fields of a run.json: their types, and what is said of one that is missing or of another type."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cai.disk.reading import exists, read_object
from cai.errors import RunError
from cai.records import Object, Protocol, Values
from cai.sources.yamlfile import first_fault

FORMAT = 1
INTERRUPTED = "interrupted"  # `stopped` of a run that is played, or was killed
ANEW = "restore it, or use --force to start anew"
Count = Annotated[int, Field(ge=0, lt=1 << 48)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Law(TypedDict, total=False):
    """A constitution."""

    name: str
    version: str
    hash: str


class Judge(TypedDict, total=False):
    """How replies were judged; a reward model reads no constitution."""

    judge: str
    protocol: Protocol
    templates: str | None
    constitution: Law | None
    principles: Count


class Draw(TypedDict, total=False):
    """How replies are sampled: the fields of `records.Sampling`."""

    temperature: Number
    max_tokens: Count
    extra_body: Values


class Identity(TypedDict, total=False):
    """What decides the rows."""

    command: str
    source: str | Values
    constitution: Law
    templates: str | None
    models: dict[str, str] | list[str]
    n: Count
    system: str | None
    sampling: Draw
    seed: int
    binding: Judge
    best_of: Judge


class Settings(TypedDict, total=False):
    """Of what may change when a run is resumed, the settings that its folder is asked for."""

    model: Annotated[list[str], Field(min_length=1)]
    target: Count | None


class Calibrated(TypedDict, total=False):
    """A calibration."""

    thresholds: dict[str, dict[str, float] | None]


class Export(TypedDict, total=False):
    """Of the options of the last export, those that the card of a training names."""

    calibration: str | Calibrated | None
    min_confidence: Number | None
    agreement: Number | None
    best: bool


class RunInfo(TypedDict, total=False):
    """Any field may be missing: folders of other versions have fewer."""

    identity: Identity
    versions: dict[str, str | None]
    rows: Count
    dropped: dict[str, Count]
    stopped: str | None
    usage: dict[str, Count]
    cost_usd: Number | None
    seconds: Number
    settings: Settings
    command: str | None
    started_in: str
    part_of: str
    export: Export | None
    labels: Identity | None  # of a sample run: its `binding` alone
    calibration: dict[str, str | None] | None
    asked: list[str]
    ended_unknown: Count
    secrets_hidden: Count
    principles_before: list[Count]  # of a label run, how many were drawn for a pair before there were more
    shard: str  # i/n, of a run that plays one of several shards
    shards: Count  # of a folder in which so many shards were joined
    joined: str  # what the shards had in them then
    reused: Count  # calls whose answers came from other runs


FIELDS = TypeAdapter(RunInfo)


class Content(Values):
    """An object of a run.json; to ask for a field that is missing is a RunError that names it."""

    def __init__(self, values: Object, above: str, file: Path, advice: str) -> None:
        for name, value in values.items():
            self[name] = Content(value, f"{above}{name}.", file, advice) if isinstance(value, dict) else value
        self._above, self._file, self._advice = above, file, advice

    def __missing__(self, name: str) -> Any:
        raise RunError(f"{self._file} is damaged (it lacks {self._above}{name}); {self._advice}")


def content_of(info: Object, file: Path, advice: str) -> Content:
    """The content of a run.json; RunError for a field of another type."""
    try:
        FIELDS.validate_python(info, strict=True)
    except ValidationError as error:
        raise RunError(f"{file} is damaged ({first_fault(error)}); {advice}") from None
    return Content(info, "", file, advice)


def seen_from(folder: Path, other: Path) -> str:
    """The way from one folder to another, which holds if both are moved together; "" if there is none.

    There is none between two drives of Windows, or from a folder that was deleted.
    """
    try:
        return os.path.relpath(other.resolve(), folder.resolve())
    except (ValueError, OSError):
        return ""


def read_info(folder: Path, advice: str) -> Values:
    """The content of a run's run.json; like `find_info`, but RunError with `advice` for a folder without one."""
    info = find_info(folder, f"restore it, or {advice}")
    if info is None:
        raise RunError(f"{folder} is not a run folder: it has no run.json; {advice}")
    return info


def find_info(folder: Path, advice: str = "restore it") -> Values | None:
    """The content of a folder's run.json; None if there is none.

    Raises RunError if it was written by a newer version, and with `advice` if it cannot be read or names no run.
    """
    file = folder / "run.json"
    if not exists(file):
        return None
    info = read_object(file, advice, orjson.loads)
    match info:
        case {"format": int(version)} if version > FORMAT:
            newer = f"a newer cai (format {version}, this one reads {FORMAT})"
            raise RunError(f"{file} was made by {newer}: upgrade cai-toolkit")
        case {"identity": {"command": str()}} if info.get("format", FORMAT) == FORMAT:
            return content_of(info, file, advice)
    raise RunError(f"{file} is damaged (it names no run); {advice}")
