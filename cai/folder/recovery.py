"""Brings the rows, drops and calls of a folder to agree after a kill, a full disk or a loss of power."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from cai.folder.lines import DROPPED, as_position, reading
from cai.folder.rows import DONE, EXPORT_STAGES, RETRIED, Rows, digest_of, names_of
from cai.folder.store import Store
from cai.records import Object

log = logging.getLogger("cai")


def recover(folder: Path, rows_file: str, store: Store) -> None:
    """Bring rows, drops and the journal to agree after a kill."""
    rows = store.rows
    if rows.is_unknown(rows_file) or rows.is_unknown(DROPPED):
        rows.forget()  # the files are the truth: read them again from their start
    _recover_rows(folder / rows_file, store)
    with reading(folder / DROPPED):
        for _, line in rows.unseen(DROPPED):
            drop = orjson.loads(line)
            as_position(drop["position"], DROPPED)
            _restore(rows, drop, drop["reason"])
    store.flush()
    forget_superseded(folder, store)


def _recover_rows(path: Path, store: Store) -> None:
    """Bring finished rows that the journal does not know into it; those whose calls are lost are made again."""
    # Whoever takes a damaged calls.sqlite away keeps the rows: then there are no calls to look for.
    has_calls = not store.is_empty()
    believed, lost = 0, set[int]()
    with reading(path):
        for start, line in store.rows.unseen(path.name):
            row = orjson.loads(line)
            as_position(row["position"], path.name)
            if _is_done(store.rows, row["position"]) or (has_calls and not store.has_all(row["calls"])):
                lost.add(start)
                continue
            _restore(store.rows, row, DONE)
            believed += 1
    if lost:
        log.warning("%s: %d rows are taken out: their calls are lost, or they are there twice", path, len(lost))
        # A kill before this is done has the file read once more.
        store.rows.rewrite(path.name, _lines_without(path, lost))
    if believed and not has_calls:
        log.warning("%s: %d rows are kept, but the calls that made them are gone, with what they cost", path, believed)


def _is_done(rows: Rows, position: int) -> bool:
    entry = rows.state(position)
    return entry is not None and entry[1] == DONE


def _restore(rows: Rows, row: Object, state: str) -> None:
    """Bring a line that the journal does not know into it."""
    position = row["position"]
    if row.get("stage") in EXPORT_STAGES or _is_done(rows, position):
        return  # left out of a training file, or tried again since, and finished
    digest = digest_of(row.get("key"), row["prompt"])
    rows.mark(position, digest, state)
    if row.get("stage") != "source":  # a prompt that was played is the first of its kind
        for name in names_of(digest, row["id"]):
            rows.first_position(name, position)


def forget_superseded(folder: Path, store: Store) -> None:
    """Take the lines of drops that were tried again, and ended in another state or line, out of dropped.jsonl."""
    path = folder / DROPPED
    words = [reason.encode() for reason in RETRIED]
    retried = set()
    last: dict[int, int] = {}  # position → start of its last line
    with reading(path), open(path, "rb") as file:
        for start, line in _lines_of(file):
            if not any(word in line for word in words):  # such lines, which may be millions, need no parsing
                continue
            drop = orjson.loads(line)
            if drop["reason"] in RETRIED and drop["stage"] not in EXPORT_STAGES:
                retried.add(start)
                entry = store.rows.state(as_position(drop["position"], DROPPED))
                if entry is None or entry[1] == drop["reason"]:
                    last[drop["position"]] = start
    stale = retried - set(last.values())
    if stale:
        store.rows.rewrite(path.name, _lines_without(path, stale))


def _lines_without(path: Path, starts: set[int]) -> Iterator[bytes]:
    """The lines of a file but some; it is closed after the last one."""
    with open(path, "rb") as file:
        yield from (line for start, line in _lines_of(file) if start not in starts)


def _lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with the place where it starts."""
    start = 0
    for line in file:
        yield start, line
        start += len(line)
