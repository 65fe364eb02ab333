"""Writes training files as parquet too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.errors import MissingExtra

PART = 2**22  # bytes of JSON that are read at once; its rows take ten to twenty times as much memory
GROUP_ROWS = 10_000  # of a parquet row group
Columns = Mapping[str, str]  # of a training file: name and type, one of `schema`


def schema(columns: Columns) -> Any:
    """The columns of a parquet file, so that they have their types even if every value is null."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtra("writing parquet", "data") from None
    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "number": pa.float64(),
        "count": pa.int64(),
        "flag": pa.bool_(),
        "turns": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


def write_parquet(lines: Path, parquet: Path, schema: Any) -> None:
    """Write the rows of a JSONL file to a parquet file, a part of them in memory at a time."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(parquet, schema) as writer, open(lines, "rb") as file:
        while part := file.readlines(PART):
            rows = pa.Table.from_pylist([orjson.loads(line) for line in part], schema=schema)
            writer.write_table(rows, row_group_size=GROUP_ROWS)
