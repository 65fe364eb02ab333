"""Training rows on their way to disk: JSONL, and parquet beside it.

Knows files and columns; nothing of runs, nor of how a row is cut.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from cai.errors import MissingExtra

GROUP_ROWS, GROUP_BYTES = 10_000, 32 * 2**20  # of a parquet row group, which is held in memory: what comes first


def line_of(row: dict[str, Any]) -> bytes:
    """A row as a line of a JSONL file."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class Table:
    """One training file, and with a schema its parquet twin, written beside those they will replace."""

    def __init__(self, path: Path, schema: Any) -> None:
        self.rows = 0
        self._parts = {path: path.with_name(path.name + ".part")}
        self._file = open(self._parts[path], "wb", buffering=2**20)  # noqa: SIM115
        self._parquet: Any = None
        self._group: list[dict[str, Any]] = []
        self._size = 0
        if schema is not None:
            from pyarrow.parquet import ParquetWriter

            twin = path.with_suffix(".parquet")
            self._parts[twin] = twin.with_name(twin.name + ".part")
            self._parquet = ParquetWriter(self._parts[twin], schema)

    def add(self, line: bytes) -> None:
        """Write a row, as its line of JSON, at the end."""
        self._file.write(line)
        self.rows += 1
        if self._parquet is not None:
            self._group.append(orjson.loads(line))
            self._size += len(line)
            if len(self._group) >= GROUP_ROWS or self._size >= GROUP_BYTES:
                self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._group, schema=self._parquet.schema))
        self._group, self._size = [], 0

    def finish(self) -> None:
        """Write what is pending; everything is on disk when it returns."""
        self._file.close()
        if self._parquet is not None:
            if self._group:
                self._write_group()
            self._parquet.close()

    def publish(self) -> list[str]:
        """Put the finished files in place; returns their names."""
        for path, part in self._parts.items():
            os.replace(part, path)
        return [path.name for path in self._parts]

    def discard(self) -> None:
        """Close, and remove what was not published."""
        with suppress(OSError):  # of buffers that a full disk does not take
            self._file.close()
        if self._parquet is not None:
            with suppress(OSError):
                self._parquet.close()
        for part in self._parts.values():
            part.unlink(missing_ok=True)


def schemas(command: str) -> dict[str, Any]:
    """The columns of a run's parquet files, so that they have their types also where every value is null.

    command: whose run, generate, label, or sample with a judge that picked the best replies.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtra("writing parquet", "data") from None
    text, number, names = pa.string(), pa.float64(), pa.list_(pa.string())
    turns = pa.list_(pa.struct([("role", text), ("content", text)]))
    sides = [("prompt", turns), ("chosen", turns), ("rejected", turns), ("p_chosen", number), ("judged", pa.bool_())]
    law = [("constitution", text), ("constitution_hash", text)]
    if command == "generate":
        provenance = [("id", text), ("round", pa.int64()), ("principles", names), *law, ("model", text)]
        return {
            "sft": pa.schema([("messages", turns), *provenance, ("changed", pa.bool_())]),
            "dpo": pa.schema([*sides, *provenance]),
        }
    judge = [*law, ("judge", text), ("protocol", text)]
    if command == "sample":
        best = [("id", text), ("best_of", pa.int64()), ("score", number), ("judged", pa.bool_())]
        return {"sft": pa.schema([("messages", turns), *best, *judge, ("model", text), ("sample", pa.int64())])}
    pair = [*sides, ("margin", number), ("confidence", number), ("id", text), ("prompt_id", text)]
    origins = [(f"{side}_{what}", text) for what in ("model", "from") for side in ("chosen", "rejected")]
    pairs = pa.schema([*pair, ("principles", names), *judge, *origins, ("human", text)])
    reply = [("prompt", turns), ("completion", turns), ("label", pa.bool_()), ("p", number), ("id", text)]
    return {
        "dpo": pairs,
        "reward": pairs,
        "kto": pa.schema([*reply, ("prompt_id", text), ("labels", names), *judge, ("model", text), ("from", text)]),
    }
