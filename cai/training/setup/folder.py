"""The folder of a training: what it is, how far it came, and what it measured.

`training.json` holds identity, provenance and results, `metrics.jsonl` a line a step, `eval.jsonl` a line for each row
that was evaluated, `dropped.jsonl` one for each that does not train, `checkpoints/` what resuming needs. Knows files;
nothing of models or trainers.
"""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from cai.errors import RunError
from cai.folder.files import take_lock, unwritable, write_atomically

RECORD, METRICS, EVALS, CHECKPOINTS = "training.json", "metrics.jsonl", "eval.jsonl", "checkpoints"
DROPPED = "dropped.jsonl"
SCHEMA = 1
LOCK = ".lock"
# Metrics of an evaluation that nobody asks for later.
UNTOLD = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens")


class TrainFolder:
    """An output folder; identity: everything that decides which weights come out.

    writes: of several processes that train together, whether this is the one that writes. Raises RunError where the
    folder is in use, holds another training or something else, or cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, writes: bool = True) -> None:
        self.path, self.identity, self._writes = path, orjson.loads(orjson.dumps(identity)), writes
        self.record: dict[str, Any] = {}
        self._lock: IO[bytes] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._check_ours()
            if writes:
                self._lock = take_lock(path / LOCK)
            self._open()
        except OSError as error:
            raise unwritable(path, error, "choose another --out") from error
        except RunError:
            self._unlock()
            raise

    def __enter__(self) -> TrainFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _check_ours(self) -> None:
        """RunError for a folder of something else, before anything is written there."""
        own = (LOCK, RECORD, f"{RECORD}.part")  # a kill may leave the lock and the part alone
        names = {path.name for path in self.path.iterdir()}
        if RECORD not in names and names - set(own):
            raise RunError(f"{self.path} holds something else (no {RECORD}): choose another --out")

    def _open(self) -> None:
        if not (self.path / RECORD).exists():
            return self.write(schema=SCHEMA, identity=self.identity, finished=False, seconds=0.0)
        self.record = self._read()
        changed = list(_differences(self.record["identity"], self.identity))
        if changed and not self.record["finished"] and self.last_checkpoint() is None:
            if self._writes:
                (self.path / METRICS).unlink(missing_ok=True)  # nothing was learnt there that could be lost
            self.record = {}
            return self.write(schema=SCHEMA, identity=self.identity, finished=False, seconds=0.0)
        if changed:
            raise RunError(
                f"{self.path} holds another training: {'; '.join(changed[:5])}; choose another --out, or use the same "
                "data, model and config to resume it"
            )

    def _read(self) -> dict[str, Any]:
        path = self.path / RECORD
        try:
            found = orjson.loads(path.read_bytes())
        except ValueError:
            raise self.damaged() from None
        if not isinstance(found, dict):
            raise self.damaged()
        if (schema := found.get("schema")) != SCHEMA:
            raise RunError(f"{path} has schema {schema!r}, of another release of cai-toolkit: choose another --out")
        kinds: dict[str, Any] = {"identity": dict, "finished": bool, "seconds": (int, float), "settled": dict}
        kinds |= {"summary": dict} if found.get("finished") else {}
        if not all(isinstance(({"settled": {}} | found).get(name), kind) for name, kind in kinds.items()):
            raise self.damaged()
        return found

    def damaged(self) -> RunError:
        """The error for a training.json that cannot be what was written."""
        record = self.path / RECORD
        return RunError(f"{record} is damaged: choose another --out, or delete the folder to start anew")

    def write(self, **facts: Any) -> None:
        """Put facts into training.json."""
        self.record |= facts
        if not self._writes:
            return
        data = orjson.dumps(
            self.record, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
        )
        write_atomically(self.path / RECORD, data)

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint; those that a kill left half are removed."""
        found = sorted(self._checkpoints(), key=lambda path: int(path.name.rpartition("-")[2]))
        while found and not _whole(found[-1]):
            half = found.pop()
            if self._writes:
                shutil.rmtree(half)
        return found[-1] if found else None

    def _checkpoints(self) -> Iterator[Path]:
        for path in (self.path / CHECKPOINTS).glob("checkpoint-*"):
            if path.name.rpartition("-")[2].isdigit():
                yield path

    def rewind(self, step: int) -> int:
        """Forget the metrics after a step (-1: all): they come again; returns how many whole lines were damaged."""
        damaged = 0
        if not self._writes:
            return damaged
        for name in (METRICS, EVALS):
            path = self.path / name
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            kept = [line for line in lines if (at := _step(line)) is not None and at <= step]
            damaged += sum(_step(line) is None for line in lines if line.endswith(b"\n"))
            if name == METRICS or lines:
                write_atomically(path, b"".join(kept))
        return damaged

    def add(self, metrics: Mapping[str, Any], name: str = METRICS) -> None:
        """Write a line of metrics.jsonl, or of another file."""
        line = orjson.dumps(metrics, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        with open(self.path / name, "ab", buffering=0) as file:
            start = file.tell()
            if file.write(line) != len(line):  # else the next line would be joined to this one
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def replace(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write all lines of a file; without any there is none."""
        lines = [orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows]
        if self._writes and (lines or (self.path / name).exists()):
            write_atomically(self.path / name, b"".join(lines))

    def metrics(self, name: str = METRICS) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, or of another file."""
        return read_lines(self.path / name)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of this folder, none where it was not written; RunError for a line that is damaged."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            found.append(orjson.loads(line))
        except ValueError:
            raise RunError(f"{path}: line {number} is damaged: delete that line, and use the same command") from None
    return found


def _step(line: bytes) -> int | None:
    """The step that a line is of; None for one that was not written to its end."""
    try:
        return int(orjson.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError):
        return None


def _whole(checkpoint: Path) -> bool:
    """Whether all that resuming needs is there and has its end: transformers goes on without what is missing."""
    names = [path.name for path in checkpoint.iterdir()]
    needed = ("trainer_state.json", "scheduler", "optimizer", "rng_state")
    weights = any(name.endswith(".safetensors") or name.startswith("pytorch_model") for name in names)
    there = weights and all(any(name.startswith(part) for name in names) for part in needed)
    return there and all(_ends(path) for path in checkpoint.iterdir() if path.is_file())


def _ends(path: Path) -> bool:
    """Whether a file of a checkpoint was written to its end, by what stands at the end of its kind of file."""
    if path.suffix == ".json":
        try:
            found = orjson.loads(path.read_bytes())
        except ValueError:
            return False
        return path.name != "trainer_state.json" or (isinstance(found, dict) and "global_step" in found)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy"):
                return True
        except SafetensorError:
            return False
    return path.suffix not in (".pt", ".pth") or zipfile.is_zipfile(path)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif before != now:
        yield f"{name} was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    shown = orjson.dumps(value).decode()
    return shown if len(shown) <= 60 else shown[:57] + "…"
