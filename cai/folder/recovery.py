"""Brings the rows, drops and calls of a folder to agree after a kill, a full disk or a loss of power."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import orjson

from cai.folder.growth import is_short
from cai.folder.journal.inputs import DONE, FINISHED, GROWS, digest_of, names_of
from cai.folder.journal.rows import NOTHING, ROWS, Rows
from cai.folder.journal.store import Store
from cai.folder.kinds import EXPORT_STAGES
from cai.folder.lines import DROPPED, as_position, reading
from cai.folder.superseded import forget_superseded, lines_without
from cai.records import Object
from cai.sources.lines import OF_PEOPLE

log = logging.getLogger("cai")


def recover(folder: Path, rows_file: str, store: Store, identity: Object) -> None:
    """Bring rows, drops and the journal to agree after a kill; identity: of the run whose rows these are."""
    rows = store.rows
    rows.put_in_place()
    state = DONE
    settled: Sequence[str] = (DONE,)
    if rows.is_unknown(rows_file) or rows.is_unknown(DROPPED):
        if rows.repeats == ROWS or rows.is_growing():
            # Files alone do not say whether a row or a drop came last, nor how long a row is to be: it is played again.
            state, settled = GROWS, FINISHED
        rows.forget()  # the files are the truth: read them again from their start
    _recover_rows(folder / rows_file, store, state, identity)
    with reading(folder / DROPPED):
        for _, line in rows.unseen(DROPPED):
            drop = orjson.loads(line)
            as_position(drop["position"], DROPPED)
            if drop["stage"] not in EXPORT_STAGES and not _is_in(settled, rows, drop["position"]):
                _restore(rows, drop, drop["reason"])  # else it was tried again since, and finished
    store.flush()
    if rows.repeats != NOTHING:
        forget_superseded(folder, rows_file, rows)


def _recover_rows(path: Path, store: Store, state: str, identity: Object) -> None:
    """Bring finished rows that the journal does not know into it; those whose calls are lost are made again."""
    # Whoever takes a damaged calls.sqlite away keeps the rows: then there are no calls to look for.
    has_calls = not store.is_empty()
    believed, lost = 0, list[int]()
    with reading(path):
        for start, line in store.rows.unseen(path.name):
            row = orjson.loads(line)
            position = as_position(row["position"], path.name)
            has_row = _is_in(FINISHED, store.rows, position)
            if (has_calls and not store.has_all(row["calls"])) or (has_row and OF_PEOPLE in line):
                lost.append(start)
                continue
            if has_row:  # a line before it is of the same input
                store.rows.expect_repeats(ROWS)
            _restore(store.rows, row, GROWS if is_short(row, identity) else state)
            believed += 1
    if lost:
        log.warning("%s: %d rows are taken out: their calls are lost, or people added them", path, len(lost))
        # A kill before this is done has the file read once more.
        store.rows.rewrite(path.name, lines_without(path, lost))
    if believed and not has_calls:
        log.warning("%s: %d rows are kept, but the calls that made them are gone, with what they cost", path, believed)


def _is_in(states: Sequence[str], rows: Rows, position: int) -> bool:
    entry = rows.state(position)
    return entry is not None and entry[1] in states


def _restore(rows: Rows, row: Object, state: str) -> None:
    """Bring a line that the journal does not know into it."""
    position = row["position"]
    digest = digest_of(row.get("key"), row["prompt"])
    rows.mark(position, digest, state)
    if row.get("stage") != "source":  # a prompt that was played is the first of its kind
        for name in names_of(digest, row["id"]):
            rows.first_position(name, position)
