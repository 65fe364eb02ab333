"""Reads records from tables: CSV, parquet, and datasets of a hub; imported when one is read."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cai.errors import MissingExtra, SourceError
from cai.sources.conversations import BESIDE
from cai.sources.values import BadRecord, listed
from cai.texts.wording import nearest, reason_of

AT_ONCE = 256  # rows of a table that are held as objects
OTHER_COMMAS = ("\t", ";", "|")  # by which other tables separate columns
LARGEST_FIELD = 64 * 2**20  # characters of a CSV field; the library's default refuses fields over 128 KB

Rows = Iterator[tuple[int, Any]]  # (1-based line or row, record); a `BadRecord` could not be decoded


def csv_rows(lines: Iterable[bytes], where: str | Path, keys: Sequence[str]) -> Rows:
    """The rows of CSV, each with the line it starts on; a row that cannot be read is a `BadRecord`."""
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_FIELD))  # holds for the whole process
    # Bad bytes become lone surrogates, which `as_text` refuses.
    texts = (line.decode("utf-8", "surrogateescape") for line in lines)
    recent: list[str] = []  # the lines of the row that is read
    reader = csv.reader(_noted(texts, recent), strict=True)  # strict: a quote left open is an error, not one field
    try:
        header = next(filter(None, reader), [])
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise _unclosed(where, 1, reader.line_num) from None
        raise SourceError(f"not CSV: {error}", where, 1) from None
    _check_header(header, where)
    if header:
        _usable(header, keys, where)
    while True:
        recent.clear()
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if len(recent) > 1 or "unexpected end" in str(error):
                raise _unclosed(where, line, reader.line_num) from None
            yield line, BadRecord(f"not CSV: {error}")
            continue
        if row and len(row) != len(header):
            if _holds_rows(recent[1:], len(header)):
                raise _unclosed(where, line, reader.line_num)
            problem = f"{len(row)} fields, but the header has {len(header)}: quote text with commas or newlines"
            yield line, BadRecord(problem)
        elif row and _swallowed(recent, len(header)):
            raise SourceError(
                f"a quote that was left open here seems to have swallowed lines {line + 1} to {reader.line_num}, which "
                "look like rows of their own: close it; if they are text, save the table as .jsonl",
                where,
                line,
            )
        elif row:
            yield line, dict(zip(header, row, strict=True))


def _check_header(header: Sequence[str], where: str | Path) -> None:
    """Raise SourceError for columns that cannot be told apart."""
    for name in header:
        if name and header.count(name) > 1:
            raise SourceError(f"two columns are called {name!r}: rename one", where, 1)
    for sign in OTHER_COMMAS:
        if len(header) == 1 and sign in header[0]:
            raise SourceError(f"its columns are separated by {sign!r}, not by commas: save it with commas", where, 1)


def _swallowed(lines: Sequence[str], width: int) -> bool:
    """Whether every line of a row would be a row without the quotes that hold them together.

    In text a blank follows a comma. Two lines of two columns may be text by chance, unless both begin with a number.
    """
    if len(lines) < 2 or width < 2:
        return False
    *before, opened = next(csv.reader(lines[:1]))
    closed, _, after = lines[-1].partition('"')
    split = [
        [*before, *opened.split(",")],
        *(line.split(",") for line in lines[1:-1]),
        [*closed.split(","), *next(csv.reader([after]), [""])[1:]],
    ]
    if any(len(fields) != width or any(field[:1] == " " for field in fields) for fields in split):
        return False
    return len(lines) + width > 4 or all(fields[0].strip().isdigit() for fields in split)


def _noted(lines: Iterable[str], recent: list[str]) -> Iterator[str]:
    for line in lines:
        recent.append(line)
        yield line


def _holds_rows(lines: Sequence[str], width: int) -> bool:
    """Whether lines inside a quoted field look like rows of their own, which a quote left open has swallowed."""
    return width > 1 and any(len(row) == width for row in csv.reader(lines))


def _unclosed(where: str | Path, first: int, last: int) -> SourceError:
    lines = f"line {first} was" if first == last else f"lines {first} to {last} were"
    return SourceError(
        f"a quote is not closed in the row that begins here: {lines} not read, nor what follows; close it, or write a "
        'quote inside a quoted field as "", and run the same command again',
        where,
        first,
    )


def parquet_rows(path: Path, keys: Sequence[str]) -> Rows:
    """The rows of a parquet file, a few hundred in memory at a time."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra("reading .parquet", "data") from None
    number = 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:  # else a whole row group is held
            columns = _usable(file.schema_arrow.names, keys, path)
            batches = file.iter_batches(batch_size=AT_ONCE, columns=columns)
            for number, record in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1):
                yield number, record
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot be read as parquet after row {number}: {reason_of(error)}", path) from None


def frame_rows(source: Any) -> Iterator[Any] | None:
    """The rows of a table in memory, of pandas, polars or pyarrow, as objects; None if the source is none."""
    if hasattr(source, "iter_rows") and hasattr(source, "columns"):  # polars
        return map(_plain, source.iter_rows(named=True))
    if hasattr(source, "itertuples") and hasattr(source, "columns"):  # pandas
        return _pandas_rows(source)
    if hasattr(source, "to_batches") and hasattr(source, "column_names"):  # pyarrow
        return chain.from_iterable(batch.to_pylist() for batch in source.to_batches(max_chunksize=AT_ONCE))
    return None


def _pandas_rows(frame: Any) -> Iterator[Any]:
    for start in range(0, len(frame), AT_ONCE):
        part = frame.iloc[start : start + AT_ONCE].astype(object)
        for row in part.where(part.notna(), None).itertuples(index=False, name=None):
            yield _plain(dict(zip(map(str, frame.columns), row, strict=True)))


def _plain(value: Any) -> Any:
    """A value without the arrays and numbers of numpy."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def hub_rows(spec: str, keys: Sequence[str]) -> Rows:
    """The rows of `hf:org/name[:config][:split]`, streamed."""
    try:
        from datasets import get_dataset_config_names, load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingExtra(f"reading {spec}", "data") from None
    name, *parts = spec.removeprefix("hf:").split(":")
    if not name or len(parts) > 2:
        raise SourceError("write hf:org/name, hf:org/name:split or hf:org/name:config:split", spec)
    *config, split = parts or [""]
    number = 0
    try:
        if len(parts) == 1 and split in get_dataset_config_names(name):
            config, split = [split], ""
        splits = load_dataset(name, *filter(None, config), streaming=True)
        if len(splits) == 1 and not split:
            [split] = splits
        split = split or "train"
        if split not in splits:
            raise SourceError(f"no split {split!r}; {nearest(split, splits)}", spec)
        rows = splits[split]
        if rows.column_names:
            rows = rows.select_columns(_usable(rows.column_names, keys, spec))
        for number, record in enumerate(rows, 1):
            yield number, record
    except (DatasetsError, OSError, ValueError, EOFError) as error:
        raise SourceError(f"cannot be read after row {number}: {reason_of(error)}", spec) from None


def _usable(columns: list[str], keys: Sequence[str], where: str | Path) -> list[str]:
    """The columns worth reading: those in `keys`, of which there must be one, or all if there are no keys."""
    if not keys:
        return columns
    if not set(columns) & set(keys):
        hint = nearest(keys[0], columns) if len(keys) == 1 else f"it has {listed(columns)}"
        raise SourceError(f"no column {', '.join(keys)}; {hint}; name yours with --prompt-field", where)
    return [column for column in columns if column in (*keys, *BESIDE)]
