"""Run folders whose files are written byte by byte, and all that an index of the viewer says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from stored_runs import IDENTITY

from cai.viewer.index import Index
from cai.viewer.sources import find_sources

Row = dict[str, Any]


def make_folder(folder: Path, identity: Row = IDENTITY) -> Path:
    """A run that has written nothing yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(orjson.dumps({"format": 1, "identity": identity, "stopped": None}))
    return folder


def lines(*records: Any) -> bytes:
    """Rows or drops as lines; bytes are taken as they are."""
    return b"".join(each if isinstance(each, bytes) else each.model_dump_json().encode() + b"\n" for each in records)


def add(path: Path, *records: Any) -> None:
    """Append lines to a file."""
    with open(path, "ab") as file:
        file.write(lines(*records))


@contextmanager
def opened(*paths: Path) -> Iterator[Index]:
    """An index that reads when it is told to."""
    index = Index(find_sources(paths))
    try:
        yield index
    finally:
        index.close()


def read(index: Index) -> Index:
    """Read all there is."""
    while index.advance():
        pass
    return index


def rows(index: Index, source: int = 0, at_once: int = 7, **wanted: Any) -> list[Row]:
    """All pages of a list, one after the other; their totals must be what they hold."""
    every: list[Row] = []
    while True:
        page = index.page(source, start=len(every), count=at_once, **wanted)
        every += page["rows"]
        if not page["rows"]:
            assert page["total"] == len(every)
            return every


def facets(index: Index, source: int = 0) -> dict[str, dict[str, int]]:
    """How many entries have which value."""
    every: dict[str, dict[str, int]] = index.state()[source]["facets"]
    return every
