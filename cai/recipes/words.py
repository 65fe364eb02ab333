"""What a value of a recipe names: `$x` a variable, `@stage` the folder of another stage; `$$` is a dollar sign."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from cai.errors import UsageError

VARIABLE = r"[a-z_][a-z0-9_]*"
STAGE = r"[a-z][a-z0-9_-]*"
VARIABLES = re.compile(r"\$(\$|[A-Za-z_]\w*)", re.ASCII)
# At the start of a value, or after a weight and the kind of a model: 0.5:reward:@rm. An @ elsewhere is a revision or
# an address.
BEFORE = r"(?:[\d.e-]+:)?(?:[a-z]+:)?"
REFERENCE = re.compile(rf"({BEFORE})@({STAGE})((?:/.*)?)", re.DOTALL)
MEANT = re.compile(rf"{BEFORE}@(?!\w+://)\S*")  # what has to be a reference


class Reference(NamedTuple):
    """The folder of a stage in a value, or a file in it; `reward:` may stand before it."""

    before: str
    stage: str
    after: str


def reference_in(text: str) -> Reference | None:
    """What a text names of another stage."""
    match = REFERENCE.fullmatch(text)
    return None if match is None else Reference(*match.groups())


def _parts(text: str) -> list[str]:
    """The parts of a list with commas of which one names a stage, as in judge,0.5:reward:@rm; else the text."""
    parts = [part.strip() for part in text.split(",")]
    is_list = all(len(part.split()) == 1 for part in parts) and any(map(MEANT.fullmatch, parts))
    return parts if is_list else [text]


def texts_in(value: Any) -> Iterator[str]:
    """The texts of a value, those in lists and mappings too."""
    if isinstance(value, str):
        yield from _parts(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each)


def references(value: Any) -> list[Reference]:
    """All that a value names of other stages."""
    return [reference for text in texts_in(value) if (reference := reference_in(text)) is not None]


def strays(value: Any) -> list[str]:
    """The texts of a value that begin like the name of a stage and are none."""
    return [text for text in texts_in(value) if MEANT.fullmatch(text) and not REFERENCE.fullmatch(text)]


def variables_in(value: Any) -> list[str]:
    """The variables that a value names."""
    return [name for text in texts_in(value) for name in VARIABLES.findall(text) if name != "$"]


def replaced(value: Any, replace: Callable[[str], Any]) -> Any:
    """A value with every text in it replaced, and every part of a list with commas that names a stage."""

    def each_part(text: str) -> Any:
        parts = _parts(text)
        return replace(text) if len(parts) == 1 else ",".join(map(replace, parts))

    return _with_texts(value, each_part)


def _with_texts(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _with_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(each, change) for each in value]
    return value


def with_variables(value: Any, variables: Mapping[str, Any]) -> Any:
    """A value with its variables filled in; a text that is nothing but a variable becomes the variable's value.

    Raises UsageError for a variable without a value within a longer text.
    """

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name == "$":
            return name
        if variables[name] is None:
            raise UsageError(f"${name} has no value, and is a part of {match.string!r}: --set {name}=VALUE")
        return str(variables[name])

    def fill(text: str) -> Any:
        name = is_variable(text)
        return VARIABLES.sub(part, text) if name is None else variables[name]

    return _with_texts(value, fill)


def is_variable(text: str) -> str | None:
    """The name of the variable that a text is nothing but; None if it is anything else."""
    match = VARIABLES.fullmatch(text)
    return None if match is None or match[1] == "$" else match[1]
