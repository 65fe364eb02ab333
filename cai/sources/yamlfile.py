"""Reads one YAML file with the line of every key and list item, and says in words what a model finds wrong with values.

Safe on files from strangers: plain YAML only (no tags, anchors or aliases), UTF-8, bounded in size and depth, and a key
that occurs twice is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import SafeConstructor

from cai.texts.wording import nearest

Place = tuple[str | int, ...]  # the keys and 0-based indexes that lead to a value
Keys = Mapping[tuple[str, ...], tuple[str, tuple[str, ...]]]  # keys that lead to a mapping → its name, its own keys

MAX_BYTES = 1 << 20  # a constitution of 1,000 principles with tests is about 0.7 MB
MAX_DEPTH = 32  # libyaml composes recursively in C without a limit of its own
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
TIMESTAMP = "tag:yaml.org,2002:timestamp"

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # a PyYAML built without libyaml: the same results, about eight times slower
    from yaml import SafeLoader as Loader  # type: ignore[assignment]


class BadYaml(Exception):
    """The text is not the plain YAML this module reads; `line` is 1-based, None if it concerns the whole file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        self.message, self.line = message, line
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Fault:
    """One value that a model does not accept, in one sentence."""

    code: str
    message: str
    line: int


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file, with the 1-based line of each place and each scalar as it was written."""

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """The line of `place`, or of the nearest place around it that the file holds."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte order mark removed; raises `BadYaml` for binary, huge or unreadable files."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
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
        _check_events(text)
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        _check_depth_before(error.problem_mark, text)
        raise _syntax_error(error, text) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise BadYaml(f"holds a character that YAML does not allow: {error.reason}", line) from error
    if node is None:
        return Document()
    lines: dict[Place, int] = {}
    written: dict[Place, str] = {}
    return Document(_value(node, (), lines, written), lines, written)


def _check_events(text: str) -> None:
    # Ten nested aliases can stand for a billion values, and a cycle for endlessly many. Nobody needs them here.
    depth = 0
    documents = 0
    for event in yaml.parse(text, Loader=Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise BadYaml("'---' starts a second document; a file holds one", line)
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise BadYaml(f"{mark}{event.anchor}: anchors and aliases are not allowed; write the text out", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise BadYaml(f"is nested more than {MAX_DEPTH} levels deep", line)


def _check_depth_before(mark: yaml.Mark | None, text: str) -> None:
    # libyaml reads ahead, and some versions stop at a nesting limit of their own before they give the first event. The
    # text before that place is within their limit, so its events show whether it is beyond ours.
    if mark is not None:
        with suppress(yaml.MarkedYAMLError):
            _check_events(text[: mark.index])


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], written: dict[Place, str]) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if node.tag == TIMESTAMP:
        written[place] = node.value
        return node.value  # an unquoted date is text here
    if node.tag not in PLAIN:
        raise BadYaml(f"tag {node.tag!r} is not allowed; write plain text", node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, i), lines, written) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines, written)
    written[place] = node.value
    return _scalar(node)


def _mapping(
    node: yaml.MappingNode, place: Place, lines: dict[Place, int], written: dict[Place, str]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadYaml("a key must be one word of text, not a list or mapping", line)
        key = key_node.value
        if key in mapping:
            raise BadYaml(f"key {key!r} occurs twice; the first is in line {lines[(*place, key)]}", line)
        lines[(*place, key)] = line
        mapping[key] = _value(value_node, (*place, key), lines, written)
    return mapping


def _scalar(node: yaml.Node) -> Any:
    try:
        return SafeConstructor().construct_object(node)
    except (ValueError, KeyError) as error:  # `!!int x`, `!!bool x`, thousands of digits
        raise BadYaml(f"{node.value[:40]!r} cannot be read as {node.tag[18:]}", node.start_mark.line + 1) from error


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> BadYaml:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "broken YAML"
    if mark is None:
        return BadYaml(problem)
    lines = text.splitlines()
    source = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in source[: len(source) - len(source.lstrip())]:
        problem = "a tab in the indentation; indent with spaces"
    elif isinstance(error, yaml.scanner.ScannerError) and text[mark.index : mark.index + 1] == ":":
        problem = "': ' inside unquoted text; put the text in quotes, or start it on a new line after '>-'"
    return BadYaml(problem, mark.line + 1)


SHAPES = {
    "tuple_type": "a list",
    "model_type": "a mapping of keys and values",
    "dict_type": "a mapping of keys and values",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than 0",
    "int_type": "a valid integer",
    "bool_type": "a valid boolean",
}
BOUNDS = {  # the words, and the name of the number in the error's context
    "greater_than_equal": ("greater than or equal to", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("less than or equal to", "le"),
}


def explain(error: ValidationError, document: Document, keys: Keys, forms: Mapping[str, str]) -> list[Fault]:
    """Every fault with its line, in the order of the file; `forms` says in words what a key's pattern asks for."""
    faults = []
    for details in error.errors(include_url=False):
        place = details["loc"]
        code, message = _reason(details, document.written.get(place), keys, forms)
        faults.append(Fault(code, message, document.line(place)))
    # A misspelt key explains the missing one, so it goes first.
    return sorted(faults, key=lambda fault: (fault.line, fault.code != "unknown-key"))


def first_fault(error: ValidationError) -> str:
    """The first fault of a record, with its place: "votes.0.weight: Input should be a valid number"."""
    details = error.errors(include_url=False)[0]
    place = ".".join(map(str, details["loc"]))
    message = details["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def unfit(error: ValidationError) -> tuple[str, str]:
    """The name of the first value that does not fit, and what it must be: ("rounds", "must be less than …")."""
    details = error.errors(include_url=False)[0]
    return str(details["loc"][0]), details["msg"].removeprefix("Input ").replace("should", "must", 1)


def _reason(details: ErrorDetails, written: str | None, keys: Keys, forms: Mapping[str, str]) -> tuple[str, str]:
    """A code for what is wrong, and a sentence."""
    kind = details["type"]
    place = details["loc"]
    value = details["input"]
    what = _named(place)
    key = str(place[-1]) if place else ""
    owner, known = keys.get(tuple(part for part in place[:-1] if isinstance(part, str)), ("the mapping", ()))
    if kind == "extra_forbidden":
        return "unknown-key", f"unknown key {key!r} in {owner}; {_advice(key, known)}"
    if kind == "missing":
        return "missing-key", f"{owner} needs {key!r}"
    if kind in ("string_too_short", "too_short") or value == "":
        return "empty", f"{what} is empty"
    if kind == "string_type":
        return "wrong-type", _not_text(what, value, written, forms.get(key))
    if kind == "string_pattern_mismatch":
        return f"bad-{key}", f"{key} {_shown(value)} must be {forms[key]}"
    if kind in SHAPES:
        return "wrong-type", f"{what} must be {SHAPES[kind]}, not {_shown(value)}"
    if kind == "literal_error":
        return "wrong-value", f"{what} must be {details['ctx']['expected']}, not {_shown(value)}"
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return kind.replace("_", "-"), f"{what} must be {words} {details['ctx'][bound]:.15g}, not {_shown(value)}"
    return kind.replace("_", "-"), details["msg"]


def _named(place: Place) -> str:
    if not place:
        return "the file"
    if isinstance(place[-1], str):
        return f"'{place[-1]}'"
    return f"entry {place[-1] + 1} of '{place[-2]}'"


def _not_text(what: str, value: Any, written: str | None, form: str | None) -> str:
    if value is None or not written:
        return f"{what} must be text, not {_kind(value)}"
    advice = "text, in quotes" if form is None else f"{form}, in quotes if need be"
    return f"YAML reads {what} {written} as {_kind(value)}; write {advice}"


def _advice(key: str, known: tuple[str, ...]) -> str:
    if " " in key or key[:1].isupper():  # `- Be kind: always` is a mapping to YAML
        return "a sentence with ': ' in it needs quotes"
    return nearest(key, known)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names = {dict: "a mapping", list: "a list", type(None): "empty"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return _kind(value)
    if isinstance(value, str) and len(value) > 60:
        return repr(f"{value[:60]}…")
    return repr(value)
