"""The folder of a training: what it is, how far it came, and what it measured.

`training.json` holds identity, provenance and results, `metrics.jsonl` a line a step, `eval.jsonl` a line for each row
that was evaluated, `dropped.jsonl` one for each that does not train, `checkpoints/` what resuming needs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from cai.disk.locks import LOCK, lock_folder, missing_folders, unmake
from cai.disk.reading import check_files, read_object
from cai.disk.writing import append_whole, write_atomically
from cai.errors import CaiError, RunError
from cai.folder.identity import differences
from cai.records import Object, Values
from cai.training.setup.checkpoint import is_whole

log = logging.getLogger("cai")

RECORD, METRICS, EVALS, CHECKPOINTS = "training.json", "metrics.jsonl", "eval.jsonl", "checkpoints"
DROPPED = "dropped.jsonl"
SCHEMA = 1
ANEW = "choose another --out, or delete the folder to start anew"
EXPECTED: Values = {"identity": dict, "finished": bool, "seconds": (int, float), "settled": dict}  # types


class TrainFolder:
    """An output folder; identity: everything that decides which weights come out.

    writes: of several processes that train together, whether this is the one that writes. Raises RunError if the
    folder is in use, holds another training or something else, or cannot be written.
    """

    def __init__(self, path: Path, identity: Object, *, writes: bool = True) -> None:
        self.path = path
        self.identity = orjson.loads(orjson.dumps(identity))
        self.record: Values = {}
        self._writes = writes
        self._made = missing_folders(path)
        check_files(path, (LOCK, RECORD, METRICS, EVALS, DROPPED))
        with ExitStack() as opened:  # closed again if the folder is refused
            if writes:
                opened.enter_context(lock_folder(path, self._check_ours))
            self._open()
            self._opened = opened.pop_all()

    def __enter__(self) -> TrainFolder:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the folder go; a new one in which nothing was trained yet leaves with what was refused."""
        self._opened.close()
        if self._writes and self._made and any(isinstance(each, CaiError) for each in error):
            unmake(self._made, (LOCK, RECORD) if len([*self.path.iterdir()]) <= 2 else ())

    def _check_ours(self) -> None:
        """RunError for a folder of something else, before anything is written there."""
        own = {LOCK, f"{RECORD}.part"}  # all that a kill may leave
        names = {path.name for path in self.path.iterdir()}
        if RECORD not in names and names - own:
            raise RunError(f"{self.path} holds something else (no {RECORD}): choose another --out")

    def _open(self) -> None:
        if not (self.path / RECORD).exists():
            self._start()
            return
        self.record = self._read()
        changes = differences(self.record["identity"], self.identity)
        if not changes:
            return
        if self.record["finished"] or self.last_checkpoint() is not None:
            raise RunError(
                f"{self.path} holds another training: {'; '.join(changes[:5])}; choose another --out, or use the same "
                "data, model and config to resume it"
            )
        if self._writes:
            (self.path / METRICS).unlink(missing_ok=True)  # without a checkpoint nothing is lost
        self._start()

    def _start(self) -> None:
        self.record = {}
        self.write(schema=SCHEMA, identity=self.identity, finished=False, seconds=0.0)

    def _read(self) -> Values:
        path = self.path / RECORD
        record = read_object(path, ANEW, orjson.loads)
        schema = record.get("schema")
        if schema != SCHEMA:
            raise RunError(f"{path} has schema {schema!r}, of another release of cai-toolkit: choose another --out")
        record.setdefault("settled", {})
        expected = dict(EXPECTED)
        if record.get("finished"):
            expected["summary"] = dict
        for name, kind in expected.items():
            if not isinstance(record.get(name), kind):
                raise self.damaged()
        return record

    def damaged(self) -> RunError:
        """The error for a training.json that cannot be what was written."""
        return RunError(f"{self.path / RECORD} is damaged; {ANEW}")

    def write(self, **facts: Any) -> None:
        """Put facts into training.json."""
        self.record |= facts
        if self._writes:
            options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
            write_atomically(self.path / RECORD, orjson.dumps(self.record, option=options))

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint; those that a kill left half are removed."""
        checkpoints = {}
        for path in (self.path / CHECKPOINTS).glob("checkpoint-*"):
            step = path.name.rpartition("-")[2]
            if step.isdigit():
                checkpoints[int(step)] = path
        for _, path in sorted(checkpoints.items(), reverse=True):
            if is_whole(path):
                return path
            if self._writes:
                log.warning("%s is not whole, as after a kill, and is removed", path)
                shutil.rmtree(path)
        return None

    def rewind(self, step: int) -> int:
        """Forget the metrics after a step (-1: all): they come again; returns how many whole lines were damaged."""
        damaged = 0
        for path in (self.path / METRICS, self.path / EVALS):
            if not self._writes or not path.exists():
                continue
            before = []
            *lines, last = path.read_bytes().split(b"\n")
            if _step(last) is not None:  # else it is empty, or a kill cut it short
                lines.append(last)
            for line in lines:
                at = _step(line)
                if at is None:
                    damaged += 1
                elif at <= step:
                    before.append(line + b"\n")
            write_atomically(path, b"".join(before))
        return damaged

    def add(self, metrics: Object, name: str = METRICS) -> None:
        """Write a line of metrics.jsonl, or of another file."""
        line = orjson.dumps(metrics, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        with open(self.path / name, "ab", buffering=0) as file:
            append_whole(file, line)

    def replace(self, name: str, rows: Iterable[Any]) -> None:
        """Write all rows of a file, mappings or dataclasses; without any there is no file."""
        lines = [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]
        if self._writes and (lines or (self.path / name).exists()):
            write_atomically(self.path / name, b"".join(lines))

    def metrics(self, name: str = METRICS) -> list[Values]:
        """The lines of metrics.jsonl, or of another file."""
        return read_lines(self.path / name)


def read_lines(path: Path) -> list[Values]:
    """The rows of a file of this folder, none if it was not written; RunError for a line that is damaged."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(orjson.loads(line))
        except ValueError:
            raise RunError(f"{path}: line {number} is damaged: delete that line, and use the same command") from None
    return rows


def _step(line: bytes) -> int | None:
    """The step that a line is of; None for a damaged line."""
    try:
        return int(orjson.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return None
