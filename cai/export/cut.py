"""What every cut of training rows shares: files written whole, in input order, with counts that must add up.

A cut streams a run's rows in input order and asks no model, so its files are the same bytes whatever the order in which
rows finished.
"""

from __future__ import annotations

import heapq
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import orjson

from cai.errors import RunError
from cai.export.options import ExportOptions
from cai.export.pairs import Reason
from cai.export.parquet import Columns, schema, write_parquet
from cai.folder.files import unwritable
from cai.folder.rows import EXPORT_STAGES, TRAINING_FILES, lines_in_order, reading
from cai.folder.run import RunFolder
from cai.judge.certify import Calibration
from cai.records import Drop, Values
from cai.sources.conversations import prompt_hash
from cai.texts.hygiene import LEARNED, faults_of

OF_EXPORTS = re.compile(f'"stage":"({"|".join(EXPORT_STAGES)})"'.encode())  # as written here; texts escape quotes
BLANK = Drop(id=None, position=0, stage="", reason="empty", detail="").model_dump(mode="json")
Row = Values
Lines = Iterator[tuple[int, bytes]]  # of a JSONL file, with the positions they are sorted by

LAW: Columns = {"constitution": "text", "constitution_hash": "text"}
PAIR: Columns = {"prompt": "turns", "chosen": "turns", "rejected": "turns", "p_chosen": "number", "judged": "flag"}


@dataclass(slots=True)
class Facts:
    """What an export counted."""

    rows: int = 0  # finished rows of the run
    files: dict[str, int] = field(default_factory=dict)  # rows by name of the file
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by stage and reason
    used: Counter[str] = field(default_factory=Counter)  # critiques or votes by principle
    changed: Counter[str] = field(default_factory=Counter)  # revisions that differ from the reply, by principle
    models: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # rows by role and model

    def count_models(self, models: Mapping[str, str]) -> None:
        """Count a row under the models of its roles, as the servers named them."""
        for role, name in models.items():
            self.models[role][name] += 1


@dataclass(slots=True)
class Judged:
    """What an export of labels counted, over pairs with a valid vote."""

    confidences: array[float] = field(default_factory=lambda: array("d"))  # of each
    asked: int = 0  # principles put to the judge, in both orders
    votes: int = 0  # of those, the ones whose both orders were read
    flips: int = 0  # of those, the ones that prefer the same place in both orders
    biases: int = 0  # of those, the ones with log probabilities
    bias: float = 0.0  # sum of their position biases towards the first reply, in nats
    uneven: int = 0  # choices between replies that differ in length
    longer: int = 0  # of those, the ones whose chosen reply is the longer one

    @property
    def flip_rate(self) -> float | None:
        """Share of the valid votes that prefer the same place in both orders; None: there are none."""
        return ratio(self.flips, self.votes)

    @property
    def mean_bias(self) -> float | None:
        """Mean position bias in nats, towards the first reply; None: no vote has log probabilities."""
        return ratio(self.bias, self.biases)

    @property
    def longer_share(self) -> float | None:
        """Share of choices between replies of unequal length that took the longer one; None: there are none."""
        return ratio(self.longer, self.uneven)


class Cut(ABC):
    """One export in progress; each kind of cut says in `lines` what its rows become."""

    files: ClassVar[Mapping[str, Columns]]  # that it writes, by name without side and ending
    stages: ClassVar[tuple[str, ...]]  # at which something can be left out: what goes in is kept or dropped
    kind: ClassVar[str]  # of rows, as the card names them
    judged: Judged | None = None  # of a label run
    calibration: Calibration | None = None  # of a label run
    best: Any = None  # the `BestSummary` of best replies

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        self.facts = Facts()
        self.kept = Counter(dict.fromkeys(self.stages, 0))
        self.read = Counter[str]()
        self.options = options
        self._run = run
        identity = run.identity
        self.binding: Row = identity.get("binding") or identity.get("best_of") or identity  # how replies were judged
        self._tables: dict[tuple[str, str], Table] = {}

    @abstractmethod
    def lines(self) -> Lines:
        """Write the training rows; what is left out of a file comes back in input order, as lines of dropped.jsonl."""

    def notes(self) -> Iterator[str]:
        """What the user should know; what the rows show comes after what is true of every cut."""
        files, split = self.facts.files, self.options.split
        stopped = self._run.info.get("stopped")
        if stopped is not None:
            yield f"the run is unfinished ({stopped}): rerun its command to resume; these are the rows so far"
        if not self.facts.rows:
            yield "the run has no finished row: the training files are empty"
        if split is None:
            return
        for kind in self.files:
            sides = {"train": files[f"{kind}.jsonl"], "eval": files[f"{kind}.eval.jsonl"]}
            empty = [side for side, count in sides.items() if not count]
            if len(empty) == 1:
                rows = f"there are only {sum(sides.values()):,} rows"
                yield f"--split {split} leaves the {empty[0]} side of {kind} empty: {rows}"

    def write(self) -> None:
        """Write every file beside the old one, and put them in place when all are whole."""
        folder = self._run.path
        _sweep(folder)
        sides = [""]
        if self.options.split is not None:
            sides.append(".eval")
        try:
            for name, columns in self.files.items():
                parquet = None
                if self.options.parquet:
                    parquet = schema(columns)
                for side in sides:
                    self._tables[name, side] = Table(folder / f"{name}{side}.jsonl", parquet)
            self._run.store.rows.rewrite("dropped.jsonl", self._dropped())
            for table in self._tables.values():
                self.facts.files |= dict.fromkeys(table.publish(), table.rows)
            for stale in set(TRAINING_FILES) - self.facts.files.keys():
                (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            for table in self._tables.values():
                table.close()
            _sweep(folder)

    def _dropped(self) -> Iterator[bytes]:
        for _, line in heapq.merge(self._own_drops(), self.lines(), key=itemgetter(0)):
            yield line
        for stage in self.stages:
            dropped = self.facts.dropped[stage].total()
            if self.kept[stage] + dropped != self.read[stage]:
                counts = f"{self.kept[stage]} kept and {dropped} dropped are not {self.read[stage]}"
                raise RunError(f"{stage}: {counts}: report this bug")
        for table in self._tables.values():
            table.finish()

    def _own_drops(self) -> Lines:
        """What the run itself dropped; lines of an earlier export are left out."""
        path = self._run.path / "dropped.jsonl"
        for position, line in lines_in_order(path):
            if OF_EXPORTS.search(line):  # nine lines in ten, which need no parsing
                continue
            with reading(path):
                drop = orjson.loads(line)
                stage, reason = drop["stage"], drop["reason"]
            if stage not in EXPORT_STAGES:
                self.facts.dropped[stage][reason] += 1
                yield position, line

    def side(self, prompt: Sequence[Any]) -> str:
        """Of the split, by the prompt's hash: one prompt is on one side, in every run."""
        split = self.options.split
        if split is None or int(prompt_hash(prompt)[:8], 16) < split * 2**32:
            return ""
        return ".eval"

    def keep(self, name: str, side: str, line: bytes, stage: str = "") -> None:
        """Write a training row; stage: where it is counted, if it has not the name of the file."""
        self._tables[name, side].add(line)
        self.kept[stage or name] += 1

    def drop(self, stage: str, why: Reason, id: str, position: int) -> tuple[int, bytes]:
        """Count what is left out; its line of dropped.jsonl."""
        reason, detail = why
        self.facts.dropped[stage][reason] += 1
        fields = {"id": id, "position": position, "stage": stage, "reason": reason, "detail": detail}
        return position, line_of(BLANK | fields)  # a third of the time that the model takes

    def fault(self, text: str) -> Reason | None:
        """The first fault for which a text is not fit to be learned; None: it has none, or any may pass."""
        if self.options.hygiene:
            for name in faults_of(text):
                return name, f"the text {LEARNED[name].words}"
        return None


def _sweep(folder: Path) -> None:
    """Remove what a cut that did not finish left behind."""
    for name in (*(f"{name}.part" for name in TRAINING_FILES), "dropped.tmp"):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def ratio(part: float, whole: float) -> float | None:
    """A part of a whole; None if the whole is 0."""
    if whole:
        return part / whole
    return None


def law_columns(law: Row | None) -> Row:
    """The columns that name a constitution; None: that of a reward model, which reads none."""
    if law is None:
        return dict.fromkeys(LAW)
    return {"constitution": f"{law['name']}@{law['version']}", "constitution_hash": law["hash"]}


def line_of(row: Row) -> bytes:
    """A row as a line of a JSONL file."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class Table:
    """One training file, and with a schema its parquet twin, written beside those they will replace."""

    def __init__(self, path: Path, schema: Any) -> None:
        self.rows = 0
        self._schema = schema
        paths = [path]
        if schema is not None:
            paths.append(path.with_suffix(".parquet"))
        self._parts = {path: path.with_name(path.name + ".part") for path in paths}
        self._file = open(self._parts[path], "wb", buffering=2**20)  # noqa: SIM115

    def add(self, line: bytes) -> None:
        """Write a row, as its line of JSON, at the end."""
        self._file.write(line)
        self.rows += 1

    def finish(self) -> None:
        """Write what is pending; everything is on disk when it returns."""
        self._file.close()
        if self._schema is not None:
            lines, parquet = self._parts.values()
            write_parquet(lines, parquet, self._schema)

    def publish(self) -> list[str]:
        """Put the finished files in place; returns their names."""
        for path, part in self._parts.items():
            os.replace(part, path)
        return [path.name for path in self._parts]

    def close(self) -> None:
        """Close the file, whatever is pending."""
        with suppress(OSError):  # of buffers that a full disk does not take
            self._file.close()
