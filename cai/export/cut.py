"""What every cut of training rows shares, and the cut of a generate run: SFT rows and pairs.

A cut streams a run's rows in input order and asks no model, so that its files are the same bytes whatever the order in
which rows finished. Knows files, order, and that counts must add up; how labels are cut is in `cai.export.labels`.
"""

from __future__ import annotations

import heapq
import tempfile
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from cai.errors import RunError
from cai.export.card import Facts
from cai.export.tables import Table, line_of
from cai.folder.rows import EXPORT_STAGES, TRAINING_FILES, damage, lines_in_order
from cai.folder.run import RunFolder
from cai.records import Drop, DropReason
from cai.sources.conversations import prompt_hash

EXPORT_MARKS = tuple(f'"stage":"{stage}"'.encode() for stage in EXPORT_STAGES)  # as written here; texts escape quotes
BLANK = Drop(id=None, position=0, stage="", reason="empty", detail="").model_dump(mode="json")
Row = dict[str, Any]
Lines = Iterator[tuple[int, bytes]]  # of a JSONL file, with the positions they are sorted by


class Cut(ABC):
    """One export in progress; a kind of run says in `lines` what its rows become."""

    rows_file = ""
    files: tuple[str, ...] = ()  # that it writes, without side and ending
    stages: tuple[str, ...] = ()  # at which something can be left out: what goes in is kept or dropped

    def __init__(self, run: RunFolder, split: float | None, columns: Mapping[str, Any]) -> None:
        self.facts = Facts()
        self.kept, self.read = Counter[str](), Counter[str]()  # by stage
        self._run, self._split, self._columns = run, split, columns
        self._tables: dict[tuple[str, str], Table] = {}

    @abstractmethod
    def lines(self) -> Lines:
        """Write the training rows; what is left out of a file comes back in input order, as lines of dropped.jsonl."""

    @abstractmethod
    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""

    def stored(self) -> Lines:
        """The rows of the run, in input order."""
        return lines_in_order(self._run.path / self.rows_file)

    def write(self) -> None:
        """Write every file beside the old one, and put them in place when all are whole."""
        folder = self._run.path
        _sweep(folder)
        try:
            for name in self.files:
                for side in ("",) if self._split is None else ("", ".eval"):
                    self._tables[name, side] = Table(folder / f"{name}{side}.jsonl", self._columns.get(name))
            self._run.store.rewrite("dropped.jsonl", self._dropped())
            for table in self._tables.values():
                self.facts.files |= dict.fromkeys(table.publish(), table.rows)
            for stale in set(TRAINING_FILES) - self.facts.files.keys():
                (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
        finally:
            for table in self._tables.values():
                table.discard()
            _sweep(folder)

    def _dropped(self) -> Iterator[bytes]:
        for _, line in heapq.merge(self._own_drops(), self.lines(), key=itemgetter(0)):
            yield line
        for stage in self.stages:
            dropped = sum(count for (where, _), count in self.facts.dropped.items() if where == stage)
            if self.kept[stage] + dropped != self.read[stage]:
                told = f"{self.kept[stage]} kept and {dropped} dropped are not {self.read[stage]}"
                raise RunError(f"{stage}: {told}: report this bug")
        for table in self._tables.values():
            table.finish()

    def _own_drops(self) -> Lines:
        """What the run itself dropped; lines of an earlier export are left out."""
        path = self._run.path / "dropped.jsonl"
        for position, line in lines_in_order(path):
            if any(mark in line for mark in EXPORT_MARKS):  # nine lines in ten, which need no parsing
                continue
            try:
                drop = orjson.loads(line)
                stage, reason = drop["stage"], drop["reason"]
            except LookupError as error:
                raise damage(path) from error
            if stage not in EXPORT_STAGES:
                self.facts.dropped[stage, reason] += 1
                yield position, line

    def side(self, prompt: Sequence[Any]) -> str:
        """Of the split, by the prompt's hash: one prompt lies on one side, in every run."""
        if self._split is None:
            return ""
        return "" if int(prompt_hash(prompt)[:8], 16) < self._split * 2**32 else ".eval"

    def add(self, name: str, side: str, line: bytes) -> None:
        """Write a training row."""
        self._tables[name, side].add(line)

    def drop(self, stage: str, reason: DropReason, id: str, position: int, told: str) -> tuple[int, bytes]:
        """Count what is left out; its line of dropped.jsonl."""
        self.facts.dropped[stage, reason] += 1
        said = {"id": id, "position": position, "stage": stage, "reason": reason, "detail": told}
        return position, line_of(BLANK | said)  # a third of the time that the model takes

    def damaged(self) -> RunError:
        """The error for a row that cannot be read."""
        return damage(self._run.path / self.rows_file)


def _sweep(folder: Path) -> None:
    """Remove what a cut that did not come to its end left behind."""
    for name in (*(f"{name}.part" for name in TRAINING_FILES), "dropped.tmp"):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


class Spool:
    """Lines that wait on disk for what comes after them, with their positions; gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115
        self._positions = array("q")

    def add(self, position: int, line: bytes) -> None:
        """Write a line."""
        self._file.write(line)
        self._positions.append(position)

    def __iter__(self) -> Lines:
        self._file.seek(0)
        return zip(self._positions, self._file, strict=True)

    def close(self) -> None:
        """Let the lines go."""
        self._file.close()


# A generate run


# Rows of a generate run
