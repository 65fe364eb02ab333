"""Reads prompts from files, dataset hubs, standard input and Python iterables, one record at a time.

A record that is no prompt comes out as a `BadPrompt` with its place; only a source that cannot be read at all is an
error. Knows nothing of models, templates or runs.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import orjson

from cai.errors import MissingExtra, SourceError, UsageError
from cai.records import BadPrompt, Prompt
from cai.sources.built_in import folder
from cai.sources.conversations import FORMATS, BadRecord, keys_of, listed, to_prompt

TEXT_FILES = (".jsonl", ".csv", ".txt")  # each may also end in .gz
MAX_LINE = 64 * 2**20  # bytes; longer lines are passed over without being held in memory

Rows = Iterator[tuple[int, Any]]  # (1-based line or row, record); a record that is a `BadRecord` could not be decoded
ByteLines = io.BufferedReader | gzip.GzipFile


def read_prompts(
    source: str | Path | Iterable[Any] | None = None, *, format: str | None = None, field: str | None = None
) -> Iterator[Prompt | BadPrompt]:
    """The prompts of `source`, in order, as they are read; docs/prompts.md lists sources and record shapes.

    source: a file, `hf:org/name[:config][:split]`, `-` for standard input, an iterable of records, or None for the
    built-in set. format: a key of `FORMATS`; None is "auto". field: the key or column that holds the prompt.
    Raises UsageError and, for a missing file, SourceError at once; SourceError during iteration where the source
    turns out damaged, or at its end when it held no record at all.
    """
    format = format or "auto"
    if format not in FORMATS:
        raise UsageError(f"unknown prompt format {format!r}; {_suggest(format, FORMATS)}")
    if isinstance(source, Mapping):
        raise UsageError("the prompts are a dict: pass a list of records (of a DatasetDict, one split)")
    if source is None:
        source = folder("prompts") / "builtin.jsonl"
    if isinstance(source, Path) or (isinstance(source, str) and source != "-" and not source.startswith("hf:")):
        source = existing(Path(source))
    return _prompts(source, format, field)


def read_records(source: str | Path | Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """The records of a dataset with all their columns, in order, each with its 1-based line or row.

    source: as for `read_prompts`. A record that cannot be decoded comes out as a `BadRecord`. Raises SourceError for a
    missing file at once, and during iteration where the source turns out damaged, or at its end when it was empty.
    """
    if isinstance(source, Mapping):
        raise UsageError("the source is a dict: pass a list of records (of a DatasetDict, one split)")
    if isinstance(source, Path) or (isinstance(source, str) and source != "-" and not source.startswith("hf:")):
        source = existing(Path(source))
    return _records(source)


def _records(source: str | Path | Iterable[Any]) -> Iterator[tuple[int, Any]]:
    line = 0
    for line, record in _rows(source, "auto", None, ()):
        yield line, record
    if not line:
        where = "standard input" if source == "-" else source if isinstance(source, str | Path) else None
        raise SourceError("there is no record in it" if where else "there is no record to read", where)


def describe(source: str | Path | Iterable[Any] | None) -> str:
    """What a run's identity says of its source: equal for equal content, wherever the file lies.

    A file counts by extension, size and sha256 (about a second per GB), `hf:` by its spec, standard input and
    iterables only by being that. Format and field are not part of it. Raises SourceError for a missing file.
    """
    if source is None:
        source = folder("prompts") / "builtin.jsonl"
    if source == "-":
        return "stdin"
    if isinstance(source, str) and source.startswith("hf:"):
        return source
    if not isinstance(source, str | Path):
        return "python"
    path = existing(Path(source))
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return f"{''.join(_kind(path))} {file.tell()} bytes sha256:{digest}"
    except OSError as error:
        raise SourceError(f"cannot be read: {_one_line(error)}", path) from None


def _prompts(source: Path | str | Iterable[Any], format: str, field: str | None) -> Iterator[Prompt | BadPrompt]:
    line = 0
    for line, record in _rows(source, format, field):
        item: Prompt | BadPrompt
        try:
            if isinstance(record, BadRecord):
                raise record
            item = to_prompt(record, format, field)
        except BadRecord as bad:
            item = BadPrompt(line=line, problem=bad.problem, reason=bad.reason)
        yield item
    if not line:
        where = "standard input" if source == "-" else source if isinstance(source, str | Path) else None
        raise SourceError("there is no prompt in it" if where else "there is no prompt to read", where)


# Sources: each yields numbered records


def _rows(
    source: Path | str | Iterable[Any], format: str, field: str | None, keys: tuple[str, ...] | None = None
) -> Rows:
    """The records of any source. keys: those that are wanted, of which a table must have one; (): all columns are."""
    keys = keys_of(format, field) if keys is None else keys
    decode = _text if format == "text" and field is None else _json
    if source == "-":
        guess = format == "auto" and field is None
        # A buffer of its own: Python aborts at its exit, such as after Ctrl-C, while a thread reads that of sys.stdin.
        stream = io.BufferedReader(cast(io.BufferedReader, sys.stdin.buffer).raw)
        return _decoded(stream, "standard input", _json_or_text if guess else decode)
    if isinstance(source, str):
        return _hub(source, keys)
    if not isinstance(source, Path):
        return enumerate(source, 1)
    kind, packed = _kind(source)
    if kind == ".parquet":
        return _parquet(source, keys)
    if kind == ".csv":
        return _opened(source, packed, lambda stream: _csv(stream, source, keys))
    return _opened(source, packed, lambda stream: _decoded(stream, source, _text if kind == ".txt" else decode))


def existing(path: Path) -> Path:
    """The path of a file that records can be read from; SourceError with the nearest name where there is none."""
    try:
        if path.is_dir():
            raise SourceError("is a folder; name one file in it", path)
        if path.exists():
            _kind(path)
            return path
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise SourceError(f"cannot be looked up: {error.strerror}", path) from None
    close = get_close_matches(path.name, siblings, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    if not close and not path.suffix:
        hint = "; a dataset of the hub is written hf:org/name"
    raise SourceError(f"no such file{hint}", path)


def _kind(path: Path) -> tuple[str, str]:
    """(".jsonl", ".gz"), (".parquet", ""), …"""
    name = path.name.lower()
    packed = ".gz" if name.endswith(".gz") else ""
    kind = Path(name.removesuffix(".gz")).suffix
    if kind in TEXT_FILES or (kind == ".parquet" and not packed):
        return kind, packed
    known = ", ".join(f"{known}[.gz]" for known in TEXT_FILES)
    hint = "; write the items of a JSON list one per line as .jsonl" if kind == ".json" else ""
    raise SourceError(f"unknown kind of prompt file; known: {known}, .parquet, and - for standard input{hint}", path)


def _opened(path: Path, packed: str, read: Callable[[ByteLines], Rows]) -> Rows:
    try:
        with gzip.GzipFile(path) if packed else path.open("rb") as stream:
            yield from read(stream)
    except OSError as error:
        raise SourceError(f"cannot be opened: {_one_line(error)}", path) from None


def _lines(stream: ByteLines, where: str | Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long, its first `MAX_LINE` + 1 bytes."""
    number = 0
    try:
        if b"\0" in stream.peek(8192)[:8192]:
            raise SourceError("holds NUL bytes: it is binary, or text in UTF-16; prompts are read as UTF-8 text", where)
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            yield number, line.removeprefix(BOM_UTF8) if number == 1 else line
            while len(line) > MAX_LINE and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip data is damaged or cut off after line {number} ({_one_line(error)})"
        raise SourceError(f"{problem}; what came before was read", where) from None
    except OSError as error:
        raise SourceError(f"cannot be read after line {number}: {_one_line(error)}", where) from None


def _decoded(stream: ByteLines, where: str | Path, decode: Callable[[bytes], Any]) -> Rows:
    for number, line in _lines(stream, where):
        if len(line) > MAX_LINE:
            yield number, BadRecord(f"the line is longer than {MAX_LINE:,} bytes")
        elif not line.isspace():
            yield number, decode(line)


def _json(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRecord(f"not JSON: {error.msg} (column {error.colno})")


def _text(line: bytes) -> str | BadRecord:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return BadRecord(f"not UTF-8: {error.reason} (byte {error.start + 1})")


def _json_or_text(line: bytes) -> Any:
    record = _json(line)
    if isinstance(record, BadRecord) and line.lstrip().startswith(b"{"):
        return BadRecord(f"{record.problem}; for plain text that starts with a brace, use --format text")
    return record if isinstance(record, str | list | dict) else _text(line)


def _csv(stream: ByteLines, where: str | Path, keys: tuple[str, ...]) -> Rows:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # process-wide; the default refuses fields over 128 KB
    reader = csv.reader(_csv_lines(stream, where), strict=True)  # strict: a quote left open is an error, not one field
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise SourceError(f"not CSV: {error}", where, 1) from None
    if header:
        _usable(header, keys, where)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRecord(f"not CSV: {error}")
            continue
        if row and len(row) != len(header):
            problem = f"{len(row)} fields where the header has {len(header)}: text with commas or newlines needs quotes"
            yield line, BadRecord(problem)
        elif row:
            yield line, dict(zip(header, row, strict=True))


def _csv_lines(stream: ByteLines, where: str | Path) -> Iterator[str]:
    for number, line in _lines(stream, where):
        if len(line) > MAX_LINE:  # cut off, it could still look like a row
            raise SourceError(f"the line is longer than {MAX_LINE:,} bytes", where, number)
        yield line.decode("utf-8", "surrogateescape")  # bad bytes become lone surrogates, which `as_text` refuses


def _usable(columns: list[str], keys: tuple[str, ...], where: str | Path) -> list[str]:
    """The columns worth reading."""
    if not keys:
        return columns
    if not set(columns) & set(keys):
        hint = _suggest(keys[0], columns) if len(keys) == 1 else f"it has {listed(columns)}"
        raise SourceError(f"no column {' or '.join(keys)}; {hint}; name yours with --prompt-field", where)
    return [column for column in columns if column in (*keys, "id")]


def _parquet(path: Path, keys: tuple[str, ...]) -> Rows:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra("reading .parquet", "data") from None
    number = 0
    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:  # else a whole row group is held
            columns = _usable(file.schema_arrow.names, keys, path)
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot be read as parquet after row {number}: {_one_line(error)}", path) from None


def _hub(spec: str, keys: tuple[str, ...]) -> Rows:
    try:
        from datasets import get_dataset_config_names, load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise MissingExtra(f"reading {spec}", "data") from None
    name, *parts = spec.removeprefix("hf:").split(":")
    if not name or len(parts) > 2:
        raise SourceError("write hf:org/name, hf:org/name:split or hf:org/name:config:split", spec)
    config, split = (parts[0], parts[1]) if len(parts) == 2 else ("", parts[0] if parts else "")
    number = 0
    try:
        if len(parts) == 1 and split in get_dataset_config_names(name):
            config, split = split, ""
        splits = load_dataset(name, config or None, streaming=True)
        if not split:
            split = next(iter(splits)) if len(splits) == 1 else "train"
        if split not in splits:
            raise SourceError(f"no split {split!r}; {_suggest(split, splits)}", spec)
        rows = splits[split]
        if rows.column_names:
            rows = rows.select_columns(_usable(rows.column_names, keys, spec))
        for number, record in enumerate(rows, 1):
            yield number, record
    except (DatasetsError, OSError, ValueError, EOFError) as error:
        raise SourceError(f"cannot be read after row {number}: {_one_line(error)}", spec) from None


# Words for messages


def _suggest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {listed(known)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
