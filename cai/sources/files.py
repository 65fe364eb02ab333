"""Finds files, and reads records from them, from hubs, standard input and Python iterables, one at a time.

A record without a prompt is read as a `BadPrompt` with its line; only a source that cannot be read at all is an error.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from cai.errors import CaiError, SourceError, UsageError
from cai.records import BadPrompt, Prompt
from cai.sources.conversations import FORMATS, keys_of, to_prompt
from cai.sources.documents import is_document
from cai.sources.lines import (
    MAX_LINE,
    ByteLines,
    bounded,
    decoded,
    json_line,
    json_or_text,
    superseded_lines,
    text_line,
)
from cai.sources.tables import Rows, csv_rows, frame_rows, hub_rows, parquet_rows
from cai.sources.values import BadRecord
from cai.texts.wording import close_to, nearest, reason_of

TEXT_FILES = (".jsonl", ".json", ".csv", ".txt")  # each may also end in .gz
OTHERS = r"tsv|xlsx?|ya?ml|ndjson|arrow|feather|pkl|md|zip|gz|zst|parquet"  # endings by which a text is a path, too

Source = str | Path | Iterable[Any]
STDIN = "standard input"
OPENERS: dict[str, Callable[[Path], ByteLines]] = {"": lambda path: path.open("rb"), ".gz": gzip.GzipFile}


# Finding files


@cache
def folder(name: str) -> Path:
    """The folder `name` ("constitutions", "probes" or "prompts") of this installation."""
    installed = Path(str(files("cai"))) / "data" / name
    checkout = Path(__file__).resolve().parents[2] / name
    for path in (installed, checkout):
        if path.is_dir():
            return path
    raise CaiError(f"this installation lacks its data folder {name!r}: reinstall cai-toolkit")


def path_of(name: str) -> Path:
    """A path as a person writes it; UsageError if it names an unknown home folder, or holds a NUL."""
    if "\0" in name:
        raise UsageError(f"{name!r} holds a NUL byte, which no path can")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UsageError(f"{name}: there is no home folder of that name; a file called that is ./{name}") from None


def existing(path: Path) -> Path:
    """The path of a file that records can be read from; SourceError with the nearest name if there is none."""
    try:
        if path.is_dir():
            raise SourceError("is a folder; name one file in it", path)
        if path.exists():
            _kind(path)
            return path
        siblings = [file.name for file in path.parent.glob("*")]
    except OSError as error:
        raise SourceError(f"cannot be looked up: {error.strerror}", path) from None
    close = close_to(path.name, siblings)
    if close is not None:
        raise SourceError(f"no such file; did you mean {path.parent / close}?", path)
    if not path.suffix:
        names = ", ".join(built_in_prompts())
        raise SourceError(f'no such file; built-in are {names}; of the hub is hf:org/name, one prompt ["…"]', path)
    raise SourceError("no such file", path)


def _kind(path: Path) -> tuple[str, str]:
    """(".jsonl", ".gz"), (".parquet", ""), …"""
    name = path.name.lower()
    unpacked = name.removesuffix(".gz")
    packed = name.removeprefix(unpacked)
    kind = Path(unpacked).suffix
    if kind in TEXT_FILES or (kind == ".parquet" and not packed):
        return kind, packed
    kinds = ", ".join(f"{suffix}[.gz]" for suffix in TEXT_FILES)
    raise SourceError(f"unknown kind of prompt file; known: {kinds}, .parquet, and - for standard input", path)


def _located(source: Source | None) -> Source:
    """A source, a file as its path; raises SourceError at once if there is no such file, UsageError for a dict."""
    if isinstance(source, Mapping):
        raise UsageError("the source is a dict: pass a list of records (of a DatasetDict, one split)")
    if isinstance(source, Path):
        return existing(source)
    if source is None or (isinstance(source, str) and source != "-" and not source.startswith("hf:")):
        return _named("builtin" if source is None else source)
    return frame_rows(source) or source


def built_in_prompts() -> dict[str, Path]:
    """The files of prompts that come with cai, by name."""
    return {file.stem: file for file in sorted(folder("prompts").glob("*.jsonl"))}


def _named(name: str) -> Path:
    """A file of records by its path, which comes first, or by the name of a built-in one."""
    path = Path(name)
    built_in = built_in_prompts().get(name)
    if built_in is None or path.exists():
        return existing(path)
    return built_in


def is_prompt(source: Any) -> bool:
    """Whether a source is the text of one prompt: it has blanks inside, and cannot be a path with a mistake in it."""
    if not isinstance(source, str) or source == "-" or source.startswith("hf:") or len(source.split()) < 2:
        return False
    endings = "|".join([*(suffix[1:] for suffix in TEXT_FILES), OTHERS])
    if source.startswith(("/", "./", "../", "~")) or re.search(rf"\.({endings})$", source.lower()):
        return False
    try:
        path = Path(source)
        return "\n" in source or (not path.exists() and (path.parent == Path() or not path.parent.is_dir()))
    except (OSError, ValueError):  # too long for a path, or not possible in one
        return True


def is_read_once(source: Any) -> bool:
    """Whether a source cannot be read a second time, or not without another download."""
    if isinstance(source, str):
        return source == "-" or source.startswith("hf:")
    return isinstance(source, Iterator)


# Records


def read_prompts(
    source: Source | None = None, *, format: str | None = None, field: str | None = None
) -> Iterator[Prompt | BadPrompt]:
    """The prompts of `source`, in order, as they are read; docs/prompts.md lists sources and record shapes.

    source: a file, `hf:org/name[:config][:split]`, `-` for standard input, an iterable of records, a table of pandas,
    polars or pyarrow, the text of one prompt, or None for the built-in set. format: a key of `FORMATS`; None is "auto".
    field: the key or column that holds the prompt.
    Raises UsageError and, for a missing file, SourceError at once; SourceError during iteration if the source turns
    out to be damaged, or at its end if it was empty.
    """
    format = format or "auto"
    if format not in FORMATS:
        raise UsageError(f"unknown prompt format {format!r}; {nearest(format, FORMATS)}")
    if is_prompt(source):
        source = [source]
    return _prompts(_located(source), format, field)


def read_records(source: Source) -> Rows:
    """The records of a dataset with all their columns, in order, each with its 1-based line or row.

    source: as for `read_prompts`. A record that cannot be decoded is read as a `BadRecord`. Raises SourceError for a
    missing file at once, and during iteration if the source turns out to be damaged, or at its end if it was empty.
    """
    return _records(_located(source), "record", "auto", None, ())


def _prompts(source: Source, format: str, field: str | None) -> Iterator[Prompt | BadPrompt]:
    for line, record in _records(source, "prompt", format, field, keys_of(format, field)):
        try:
            if isinstance(record, BadRecord):
                raise record
            yield to_prompt(record, format, field)
        except BadRecord as bad:
            yield BadPrompt(line=line, problem=bad.problem, reason=bad.reason)


def examine(source: Source | None) -> tuple[str, int | None]:
    """What a run's identity says of a source, and how many records it holds, in one pass (about a second per GB).

    A file counts by extension, size and sha256, wherever it is; `hf:` by its spec; standard input and iterables only by
    being that. Format and field are not part of it. None: the records cannot be counted without decoding them.
    Raises SourceError for a missing file.
    """
    located = _located(source)
    if located == "-":
        return "stdin", None
    if isinstance(located, str):
        return located, None
    if not isinstance(located, Path):
        return "python", None
    kind, packed = _kind(located)
    digest = hashlib.sha256()
    size = records = 0
    starts = True  # whether the next bytes start a line
    document = False
    try:
        with located.open("rb") as file:
            while line := file.readline(MAX_LINE):
                digest.update(line)
                size += len(line)
                if not records and not line.isspace() and kind.startswith(".json"):
                    document = is_document(line)
                records += starts and not line.isspace()
                starts = line.endswith(b"\n")
    except OSError as error:
        raise SourceError(f"cannot be read: {reason_of(error)}", located) from None
    identity = f"{kind}{packed} {size} bytes sha256:{digest.hexdigest()}"
    if kind == ".csv" or kind == ".parquet" or packed or document:
        return identity, None
    return identity, records


# Sources: each yields numbered records


def _records(source: Source, what: str, format: str, field: str | None, keys: tuple[str, ...]) -> Rows:
    """The records of any source; an error at its end if there is none, called what they are.

    keys: those that are wanted, of which a table must have one; (): all columns are.
    """
    line = 0
    for line, record in _rows(source, format, field, keys):
        yield line, record
    if line:
        return
    if not isinstance(source, str | Path):
        raise SourceError(f"there is no {what} to read")
    raise SourceError(f"there is no {what} in it", STDIN if source == "-" else source)


def _rows(source: Source, format: str, field: str | None, keys: tuple[str, ...]) -> Rows:
    decode = text_line if format == "text" and field is None else json_line
    if source == "-":
        if format == "auto" and field is None:
            decode = json_or_text
        # A buffer of its own: Python aborts at its exit, such as after Ctrl-C, while a thread reads that of sys.stdin.
        stream = io.BufferedReader(cast(io.BufferedReader, sys.stdin.buffer).raw)
        yield from decoded(stream, STDIN, decode)
    elif isinstance(source, str):
        yield from hub_rows(source, keys)
    elif not isinstance(source, Path):
        yield from enumerate(source, 1)
    else:
        kind, packed = _kind(source)
        if kind == ".parquet":
            yield from parquet_rows(source, keys)
            return
        if kind == ".txt":
            decode = text_line
        try:
            with OPENERS[packed](source) as file:
                if kind == ".csv":
                    yield from csv_rows(bounded(file, source), source, keys)
                else:
                    superseded = superseded_lines(source)
                    yield from (row for row in decoded(file, source, decode) if row[0] not in superseded)
        except OSError as error:
            raise SourceError(f"cannot be opened: {reason_of(error)}", source) from None
