"""Reads one YAML file with the line of every key and list item; makes settings, and says what does not fit.

Safe on files from strangers: plain YAML only (no tags, anchors or aliases), UTF-8, bounded in size and depth, and a key
that occurs twice is an error.
"""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from cai.errors import UsageError
from cai.records import Object, Values
from cai.texts.wording import nearest, option

Place = tuple[str | int, ...]  # the keys and 0-based indexes that lead to a value
S = TypeVar("S", bound=BaseModel)

MAX_BYTES = 1 << 20  # a constitution of 1,000 principles with tests is about 0.7 MB
MOST = 1 << 26  # bytes that are read of a file that is no YAML
KINDS_OF_FILE = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
MAX_DEPTH = 32
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
UNTAGGED = (None, "!")
SIMPLE_KEY = re.compile("[a-z_]{1,20}")
TIMESTAMP = "tag:yaml.org,2002:timestamp"
PLAIN = {*UNTAGGED, *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))}
RESOLVER: Any = Resolver()

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # a PyYAML built without libyaml: the same results, about eight times slower
    from yaml import SafeLoader as Loader  # type: ignore[assignment]


class BadYaml(Exception):
    """The text is not the plain YAML this module reads; `line` is 1-based, None if it concerns the whole file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        self.message, self.line = message, line
        super().__init__(message)


@dataclass(slots=True)
class Document:
    """The values of a file, with the 1-based line of each place and each scalar as it was written."""

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    scalars: dict[Place, str] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """The line of `place`, or of the nearest place around it that the file holds."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_regular(path: Path, most: int = MOST) -> bytes:
    """The first bytes of a regular file; raises OSError if it is anything else, such as a pipe or a folder."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {KINDS_OF_FILE.get(stat.S_IFMT(mode), 'not a file')}; name a file")
    with path.open("rb") as file:
        return file.read(most)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte order mark removed; raises `BadYaml` for binary, huge or unreadable files."""
    try:
        data = read_regular(path, MAX_BYTES + 1)
    except OSError as error:
        raise BadYaml(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise BadYaml(f"is larger than {MAX_BYTES >> 20} MiB; is it the right file?")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadYaml("is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise BadYaml("is a binary file, not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadYaml(f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8", line) from error


def parse(text: str) -> Document:
    """The values and lines of YAML text (JSON is YAML too); an empty text has the value None."""
    try:
        return _read(text)
    except yaml.MarkedYAMLError as error:
        # libyaml reads ahead, and some versions stop at a nesting limit of their own before they give the first event.
        # The text before that place is within their limit, so its events show whether it is beyond ours.
        if error.problem_mark is not None:
            depth = 0
            with suppress(yaml.MarkedYAMLError):
                for event in yaml.parse(text[: error.problem_mark.index], Loader=Loader):
                    depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                    if depth > MAX_DEPTH:
                        raise BadYaml(TOO_DEEP, _line(event)) from None
        raise _syntax_error(error, text) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadYaml(f"holds a character that YAML does not allow: {error.reason}", line) from error


def _read(text: str) -> Document:
    """The values of a text, built from its events.

    Not from nodes: libyaml composes them recursively in C without a limit, and ten nested aliases are a billion values.
    """
    document = Document()
    documents = 0
    events = iter(yaml.parse(text, Loader=Loader))
    for event in events:
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise BadYaml("'---' starts a second document; a file holds one", _line(event))
        if isinstance(event, yaml.NodeEvent):
            document.value = _value(event, events, (), document)
    return document


def _value(event: Any, events: Iterator[Any], place: Place, document: Document) -> Any:
    """The value that begins with an event; `events` are those after it."""
    document.lines.setdefault(place, _line(event))
    _check(event)
    if isinstance(event, yaml.ScalarEvent):
        document.scalars[place] = event.value
        return _scalar(event)
    if len(place) == MAX_DEPTH:
        raise BadYaml(TOO_DEEP, _line(event))
    children = takewhile(lambda event: not isinstance(event, yaml.CollectionEndEvent), events)
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(child, events, (*place, number), document) for number, child in enumerate(children)]
    mapping: Values = {}
    for child in children:
        line = _line(child)
        _check(child)
        if not isinstance(child, yaml.ScalarEvent):
            raise BadYaml("a key must be one word of text, not a list or mapping", line)
        key = child.value
        within = (*place, key)
        if key in mapping:
            named = f"key {key!r}" if SIMPLE_KEY.fullmatch(key) else "a key"  # the file may be no file of ours
            raise BadYaml(f"{named} occurs twice; the first is in line {document.lines[within]}", line)
        document.lines[within] = line
        mapping[key] = _value(next(events), events, within, document)
    return mapping


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _check(event: Any, tag: str | None = None) -> None:
    if event.anchor is not None:
        mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
        raise BadYaml(f"'{mark}…': anchors and aliases are not allowed; write the text out", _line(event))
    tag = tag or event.tag
    if tag not in PLAIN:
        named = f"tag {tag!r}" if tag.startswith("tag:yaml.org") else "a tag ('!…')"
        raise BadYaml(f"{named} is not allowed; write plain text, in quotes", _line(event))


def _scalar(event: Any) -> Any:
    tag = event.tag
    if tag in UNTAGGED:
        tag = RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == TIMESTAMP:
            return event.value  # an unquoted date is text here
        _check(event, tag)
    try:
        return SafeConstructor().construct_object(yaml.ScalarNode(tag, event.value))
    except (ValueError, LookupError) as error:  # `!!int x`, `!!bool x`, `!!float` of nothing, thousands of digits
        raise BadYaml(f"a value cannot be read as {tag[18:]}", _line(event)) from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> BadYaml:
    mark = error.problem_mark
    if mark is None:
        return BadYaml(str(error))
    source = next(islice(text.splitlines(), mark.line, None), "")
    problem = error.problem or error.context
    if "\t" in source[: len(source) - len(source.lstrip())]:
        problem = "a tab in the indentation; indent with spaces"
    elif isinstance(error, yaml.scanner.ScannerError) and text[mark.index : mark.index + 1] == ":":
        problem = "': ' inside unquoted text; put the text in quotes, or start it on a new line after '>-'"
    return BadYaml(str(problem), mark.line + 1)


def first_fault(error: ValidationError) -> str:
    """The first fault of a record, with its place: "votes.0.weight: Input should be a valid number"."""
    details = error.errors(include_url=False)[0]
    message = details["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(map(str, details["loc"])), message)))


def make_settings(kind: type[S], values: Object) -> S:
    """Settings from keywords; raises UsageError for an unknown name or a value that does not fit.

    A field that is left out of the repr of its settings may hold a key: then the message does not quote its value.
    """
    for name in values:
        if name not in kind.model_fields:
            raise UsageError(f"unknown setting {name!r}; {nearest(name, sorted(kind.model_fields))}")
    try:
        return kind(**values)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        name = str(details["loc"][0])
        field = kind.model_fields[name]
        need = details["msg"].removeprefix("Input should be ")
        if len(details["loc"]) > 1:  # a part of the value, or one of several types that it may have
            need = f"of type {field.annotation}"
        shown = f" {values[name]!r}" if field.repr else ""
        raise UsageError(f"{option(name)}{shown} must be {need}") from None
