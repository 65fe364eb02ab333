"""What a value of a recipe names: `$x` a variable, `@stage` the folder of another stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from cai.errors import UsageError

VARIABLE = r"[a-z_][a-z0-9_]*"
STAGE = r"[a-z][a-z0-9_-]*"
VARIABLES = re.compile(rf"\$({VARIABLE})")
# At the start of a value, or after a weight and the kind of a model: 0.5:reward:@rm. An @ elsewhere is a revision or
# an address.
REFERENCE = re.compile(rf"((?:[\d.e-]+:)?(?:[a-z]+:)?)@({STAGE})((?:/.*)?)", re.DOTALL)
PART = re.compile(r"(?:[\d.e-]+:)?(?:[a-z]+:)?@[a-z][^,\s]*")  # of a list with commas


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
    parts = text.split(",")
    is_list = len(text.split()) == 1 and any(map(PART.fullmatch, parts))  # a sentence is none
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


def variables_in(value: Any) -> list[str]:
    """The variables that a value names."""
    return [name for text in texts_in(value) for name in VARIABLES.findall(text)]


def replaced(value: Any, replace: Callable[[str], Any]) -> Any:
    """A value with every text in it replaced."""
    if isinstance(value, str):
        parts = _parts(value)
        if len(parts) == 1:
            return replace(value)
        return ",".join(replace(part) if PART.fullmatch(part) else part for part in parts)
    if isinstance(value, Mapping):
        return {key: replaced(each, replace) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(each, replace) for each in value]
    return value


def with_variables(value: Any, variables: Mapping[str, Any]) -> Any:
    """A value with its variables filled in; a text that is nothing but a variable becomes the variable's value.

    Raises UsageError for a variable without a value within a longer text.
    """

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if variables[name] is None:
            raise UsageError(f"${name} has no value, and is a part of {match.string!r}: --set {name}=VALUE")
        return str(variables[name])

    def fill(text: str) -> Any:
        whole = VARIABLES.fullmatch(text)
        return variables[whole[1]] if whole else VARIABLES.sub(part, text)

    return replaced(value, fill)
