"""Reads the folder of a run as it is now, without its lock: a run may still be writing there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar, cast

import orjson

from cai.disk.locks import is_in_use
from cai.disk.reading import check_files, exists
from cai.folder.kinds import EXPORT_STAGES, kind_of
from cai.folder.lines import DROPPED, is_torn, lines_in_order, read_drops, reading
from cai.judge.votes import read_people, votes_of_run
from cai.records import Label, Record, Values
from cai.report.annotators import COLUMN
from cai.report.html.rows import shown
from cai.report.html.samples import Strata
from cai.report.html.sections import Sample, paragraph

ANNOTATOR = f'"{COLUMN}":'.encode()  # in a line; quotes in a text are escaped
R = TypeVar("R", bound=Record)
Reasons = tuple[tuple[str, str], ...]  # stage and reason of each file that a row was left out of, each once


class RunRows(Generic[R]):
    """The rows of a run, and what was dropped.

    lost: inputs that became no row, by place, with their reasons. left_out: rows that a cut left out of a file. people:
    who say which replies are better, in gold.jsonl instead of in the rows; None: nobody does.
    """

    def __init__(self, folder: Path, info: Values, row: type[R]) -> None:
        self.folder, self._row = folder, row
        self.path = folder / kind_of(info["identity"]["command"]).rows_file
        self.dropped = folder / DROPPED
        check_files(folder, (self.path.name, DROPPED))
        votes = votes_of_run(self.path)
        self.people = None if votes is None else read_people(votes)
        self.notes = list(_state(folder, info, self.path, self.dropped))
        self.lost: dict[int, str] = {}
        self.left_out: dict[int, Reasons] = {}
        for drop in read_drops(self.folder):
            if drop.stage in EXPORT_STAGES:
                before = self.left_out.get(drop.position, ())
                if (drop.stage, drop.reason) not in before:  # kto.jsonl leaves out replies, of which a pair has two
                    self.left_out[drop.position] = (*before, (drop.stage, drop.reason))
            else:
                self.lost[drop.position] = drop.reason

    def rows(self) -> Iterator[tuple[int, R]]:
        """Every row with its position, in input order."""
        for position, line in self._lines():
            yield position, self._parsed(line)

    def annotated(self) -> Iterator[tuple[Values, R]]:
        """Every line that names its annotator, with its row: of one row there may be lines by several people."""
        if not exists(self.path):
            return
        with open(self.path, "rb") as file:
            for line in file:
                if line.endswith(b"\n") and ANNOTATOR in line:
                    yield orjson.loads(line), self._parsed(line)

    def _parsed(self, line: bytes) -> R:
        with reading(self.path):
            row = parsed(line, self._row)
        if self.people is not None and isinstance(row, Label):
            return cast(R, self.people.labelled(row))
        return row

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        return lines_in_order(self.path) if exists(self.path) else iter(())

    def offer_lost(self, strata: Strata) -> Counter[str]:
        """Let rows be drawn of what became no row; returns how many there are for each reason."""
        for position, reason in self.lost.items():
            strata.offer(f"dropped: {reason}", position)
        return Counter(self.lost.values())

    def sample(self, strata: Strata) -> Sample | None:
        """The rows drawn."""
        return strata.sample(self._load)

    def _load(self, places: frozenset[int]) -> Iterator[tuple[int, Values]]:
        for position, line in self._lines():
            if position in places and position not in self.lost:
                yield position, shown(self._parsed(line), map(reason_text, self.left_out.get(position, ())))
        lost = places & self.lost.keys()
        for drop in read_drops(self.folder):
            if drop.position in lost and drop.stage not in EXPORT_STAGES:
                yield drop.position, shown(drop)


def parsed(line: bytes, row: type[R]) -> R:
    """The row in a line, without the name of its annotator."""
    if ANNOTATOR not in line:
        return row.model_validate_json(line)
    record = orjson.loads(line)
    record.pop(COLUMN, None)
    return row.model_validate_json(orjson.dumps(record))


def reason_text(reason: tuple[str, str]) -> str:
    """Why a row is not in a file, for people."""
    return f"not in {reason[0]}: {reason[1]}"


def _state(folder: Path, info: Values, *files: Path) -> Iterator[str]:
    """What keeps the folder from being all of its run."""
    if is_in_use(folder):
        yield "this run is still being written: the page has what was there when it was made"
    for file in files:
        if exists(file) and is_torn(file):
            yield f"the last line of {file.name} is not whole, as after a kill or while it is written: it is left out"
    if info.get("stopped"):
        yield paragraph(f"this run stopped early: {info['stopped']}")
