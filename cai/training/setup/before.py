"""The trainings that led to the weights in a folder, as their records say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.disk.reading import read_if_there
from cai.errors import RunError
from cai.records import Object
from cai.sources.files import path_of
from cai.weights.bases import mark_of

RECORDS = ("training.json", "merged.json")
PARTS = ("identity", "model", "data", "run")  # objects of a record, each of which may be missing
MOST = 8  # trainings on top of each other that are looked at


def folder_of(spec: str) -> Path | None:
    """The folder that a model spec means, also that of which a GGUF file was written; None for other specs."""
    provider, colon, name = spec.partition(":")
    path = path_of(spec)
    if colon and provider.isidentifier() and not path.exists():
        path = path_of(name)
    if path.suffix == ".gguf":
        path = path.with_suffix("")
    if not path.is_dir():
        return None
    return path


def trainings_of(folder: Path | None) -> Iterator[tuple[Path, Object]]:
    """The record of each training with its folder, the last one first; none for weights that nobody trained here.

    Follows the model that a training began with while its folder still holds those weights. Raises RunError for a
    record that cannot be read.
    """
    seen = set[Path]()
    while folder is not None and folder.resolve() not in seen and len(seen) < MOST:
        seen.add(folder.resolve())
        record = _record(folder)
        if record is None:
            return
        yield folder, record
        folder = _below(record)


def _record(folder: Path) -> Object | None:
    """The training.json of a folder, or that of the adapter that was merged into it."""
    training: Any
    training, merged = (read_if_there(folder / name) for name in RECORDS)
    path = folder / RECORDS[0]
    if not training:
        path = folder / RECORDS[1]
        origin = merged.get("merged_from") or {}
        training = origin.get("training") if isinstance(origin, dict) else origin
    parts = [training]
    if isinstance(training, dict):
        parts += [training.get(name) for name in PARTS]
    if not all(isinstance(part, dict | None) for part in parts):
        raise RunError(f"{path} is damaged: put the file back as it was")
    return training or None


def _below(record: Object) -> Path | None:
    """The folder of the model that a training began with, if it still holds those weights."""
    model = record.get("model") or {}
    began = model.get("adapter") or model
    folder = folder_of(str(began.get("spec", "")))
    if folder is None or not any((folder / name).exists() for name in RECORDS):
        return None
    if not str(began.get("mark", "")).endswith(mark_of(folder)):
        return None
    return folder
