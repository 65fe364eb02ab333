"""What every cut of training rows shares: files written whole, in input order, with counts that must add up.

A cut streams a run's rows in input order and asks no model, so its files are the same bytes whatever the order in which
rows finished.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, ClassVar

import orjson

from cai.disk.writing import unwritable
from cai.engine.asked import ngrams_asked
from cai.errors import RunError
from cai.export.facts import Facts
from cai.export.options import ExportOptions
from cai.export.pairs import Reason, Row, Turns, fault_of_texts
from cai.export.parquet import Columns, schema, write_parquet
from cai.folder.kinds import EXPORT_STAGES, TRAINING_FILES
from cai.folder.lines import lines_in_order, reading
from cai.folder.run import RunFolder
from cai.folder.superseded import OF_EXPORTS
from cai.judge.certify import Calibration, Threshold
from cai.records import Drop
from cai.sources.conversations import prompt_hash
from cai.texts import hygiene
from cai.texts.likeness import Ngram
from cai.texts.refusals import ENGLISH
from cai.texts.wording import rendered

NOTES = Path(__file__).with_name("notes.txt.jinja")
FAULTS_FILE = "faults.sqlite"
BLANK = Drop(id=None, position=0, stage="", reason="empty", detail="").model_dump(mode="json")

LAW: Columns = {"constitution": "text", "constitution_hash": "text"}
JUDGE: Columns = {**LAW, "judge": "text", "protocol": "text"}
PAIR: Columns = {"prompt": "turns", "chosen": "turns", "rejected": "turns", "p_chosen": "number", "judged": "flag"}


class Cut(ABC):
    """One export in progress; each kind of cut says in `cut` what its rows become."""

    files: Mapping[str, Columns]  # that it writes, by name without side and ending
    stages: ClassVar[tuple[str, ...]]  # at which something can be left out: what goes in is kept or dropped
    kind: ClassVar[str]  # of rows, as the card names them
    labels: Path | None = None  # of a label run: the file
    calibration: Calibration | None = None  # of a label run
    certified: Threshold | None = None  # of a label run that is cut at an agreement
    best: Any = None  # the `BestSummary` of best replies
    judging: Row | None = None  # of a sample run: how its replies were judged, and why that is not finished

    def __init__(self, run: RunFolder, options: ExportOptions) -> None:
        self.facts = Facts()
        self.stopped: str | None = run.info.get("stopped")  # why the run is not finished
        self.kept = Counter(dict.fromkeys(self.stages, 0))
        self.read = Counter[str]()
        self.options = options
        self.asked = ngrams_asked(run.info.get("asked", ()))  # of which texts may hold echoes
        self._run = run
        identity = run.identity
        self.binding: Row = identity.get("binding") or identity.get("best_of") or identity  # how replies were judged
        self.fault = lru_cache(maxsize=8)(self._fault)  # a text may be in several files
        self._open: dict[str, BinaryIO] = {}  # the training files that are being written, by name

    @abstractmethod
    def cut(self) -> None:
        """Read the rows in input order: `keep` those that are fit to be training rows, and `drop` the others."""

    def write(self) -> None:
        """Write every file beside the old one, and put them in place when all are whole."""
        folder, files = self._run.path, self.facts.files
        _sweep(folder)
        sides = [""] if self.options.split is None else ["", ".eval"]
        schemas = {kind: schema(columns) for kind, columns in self.files.items() if self.options.parquet}
        try:
            with ExitStack() as stack:
                self._drops = stack.enter_context(closing(Spool(folder)))
                for kind, side in itertools.product(self.files, sides):
                    name = f"{kind}{side}.jsonl"
                    self._open[name] = stack.enter_context(open(folder / f"{name}.part", "wb", buffering=2**20))
                    files[name] = 0
                    if kind in schemas:
                        files[f"{kind}{side}.parquet"] = 0
                self._add_own_drops()
                self.cut()
                for stage in self.stages:
                    dropped = self.facts.dropped[stage].total()
                    if self.kept[stage] + dropped != self.read[stage]:
                        counts = f"{self.kept[stage]} kept and {dropped} dropped are not {self.read[stage]}"
                        raise RunError(f"{stage}: {counts}: report this bug")
                for name, file in self._open.items():
                    file.close()
                    parquet = name.replace(".jsonl", ".parquet")
                    if parquet in files:
                        files[parquet] = files[name]
                        write_parquet(folder / f"{name}.part", folder / f"{parquet}.part", schemas[name.split(".")[0]])
                self._run.store.rows.rewrite("dropped.jsonl", (line for _, line in self._drops))
            for name in files:
                os.replace(folder / f"{name}.part", folder / name)
            for stale in set(TRAINING_FILES) - files.keys():
                (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            _sweep(folder)

    def _add_own_drops(self) -> None:
        """Take over what the run itself dropped; lines of an earlier export are left out."""
        path = self._run.path / "dropped.jsonl"
        for position, line in lines_in_order(path):
            if OF_EXPORTS.search(line):  # nine lines in ten, which need no parsing
                continue
            with reading(path):
                drop = orjson.loads(line)
                stage, reason = drop["stage"], drop["reason"]
            if stage not in EXPORT_STAGES:
                self.facts.dropped[stage][reason] += 1
                self._drops.add(position, line)

    def side(self, prompt: Sequence[Any]) -> str:
        """Of the split, by the prompt's hash: one prompt is on one side, in every run."""
        split = self.options.split
        if split is None or int(prompt_hash(prompt)[:8], 16) < split * 2**32:
            return ""
        return ".eval"

    def notes(self) -> list[str]:
        """What the user should know."""
        return rendered(NOTES, cut=self, median=median, hygiene=hygiene, english=ENGLISH).split("\n")[:-1]

    def keep(self, kind: str, side: str, line: bytes, stage: str = "") -> None:
        """Write a training row; stage: where it is counted, if it has not the name of the file."""
        name = f"{kind}{side}.jsonl"
        self._open[name].write(line)
        self.facts.files[name] += 1
        self.kept[stage or kind] += 1

    def drop(self, stage: str, why: Reason, id: str, position: int) -> None:
        """Leave something out: count it, and add its line to dropped.jsonl."""
        reason, detail = why
        self.facts.dropped[stage][reason] += 1
        fields = {"id": id, "position": position, "stage": stage, "reason": reason, "detail": detail}
        self._drops.add(position, line_of(BLANK | fields))  # a third of the time that the model takes

    def put(self, kind: str, side: str, row: Row, why: Reason | None, position: int) -> None:
        """Write a training row, or leave it out if there is a reason why."""
        self.read[kind] += 1
        if why is None:
            self.keep(kind, side, line_of(row))
        else:
            self.drop(kind, why, row["id"], position)

    def _fault(self, text: str, said: str) -> Reason | None:
        """The first fault for which a reply is not fit to be learned; None: it has none, or any may pass."""
        if self.options.hygiene:
            for name in hygiene.faults_of(text, said, self.asked):
                return name, f"the text {hygiene.LEARNED[name].words}"
        return None


def _sweep(folder: Path) -> None:
    """Remove what a cut that did not finish left behind."""
    for name in (*(f"{name}.part" for name in TRAINING_FILES), "dropped.tmp"):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def law_columns(law: Row | None) -> Row:
    """The columns that name a constitution; None: that of a reward model, which reads none."""
    if law is None:
        return dict.fromkeys(LAW)
    return {"constitution": f"{law['name']}@{law['version']}", "constitution_hash": law["hash"]}


def line_of(row: Row) -> bytes:
    """A row as a line of a JSONL file."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class Spool:
    """Lines that wait on disk for what comes after them; they are gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115
        self._positions, self._starts = array("q"), array("q")
        self.ps = array("d")  # of replies: the probability of each line
        self.close = self._file.close

    def add(self, position: int, line: bytes, p: float = 0.0) -> None:
        """Write a line."""
        self._positions.append(position)
        self._starts.append(self._file.tell())
        self._file.write(line)
        self.ps.append(p)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The positions and lines, in order of position; those of one position in the order in which they came."""
        for place in sorted(range(len(self._positions)), key=self._positions.__getitem__):
            self._file.seek(self._starts[place])
            yield self._positions[place], self._file.readline()


class Texts:
    """`fault_of_texts`, remembered in `faults.sqlite` from one cut to the next; to delete the file only costs time.

    Reading the texts takes longer than all else, and finds the same at every threshold. A pair is found by a hash of
    its texts. A version of cai that reads them differently starts anew.
    """

    def __init__(self, folder: Path, asked: frozenset[Ngram]) -> None:
        self._db = sqlite3.connect(folder / FAULTS_FILE)
        self._salt = hashlib.blake2b(repr(sorted(asked)).encode(), digest_size=16).digest()
        if self._db.execute("PRAGMA user_version").fetchone() != (hygiene.READING,):
            self._db.executescript(f"DROP TABLE IF EXISTS pairs; PRAGMA user_version = {hygiene.READING}")
        self._db.execute("CREATE TABLE IF NOT EXISTS pairs(hash BLOB PRIMARY KEY, fault TEXT NOT NULL) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def fault(self, chosen: str, rejected: str, prompt: Turns, asked: frozenset[Ngram]) -> str:
        """What `fault_of_texts` finds in these texts."""
        texts = orjson.dumps((chosen, rejected, prompt))
        key = hashlib.blake2b(texts, digest_size=8, salt=self._salt).digest()
        for (fault,) in self._db.execute("SELECT fault FROM pairs WHERE hash = ?", (key,)):
            return str(fault)
        fault = fault_of_texts(chosen, rejected, prompt, asked)
        self._db.execute("INSERT INTO pairs VALUES (?, ?)", (key, fault))
        return fault

    def close(self) -> None:
        """Write what is new."""
        self._db.commit()  # nothing, if an error has ended the transaction
        self._db.close()
