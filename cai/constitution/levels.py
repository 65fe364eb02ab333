"""The five levels of a scale, as a constitution file has them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cai.constitution.examples import Text

LEVELS = 5


def _five(levels: tuple[str, ...]) -> tuple[str, ...]:
    count = len(levels)
    if count != LEVELS:
        raise PydanticCustomError(
            "scale_levels",
            "'scale' needs {most} levels, from 1, the worst, to {most}; it has {count}",
            {"most": LEVELS, "count": count},
        )
    for number, level in enumerate(levels, 1):
        if len(level.splitlines()) > 1:
            raise PydanticCustomError("scale_line", "level {number} of 'scale' must be one line", {"number": number})
        if level in levels[: number - 1]:
            words = {"one": levels.index(level) + 1, "two": number}
            raise PydanticCustomError("scale_same", "levels {one} and {two} of 'scale' are the same", words)
    return levels


Levels = Annotated[
    tuple[Text, ...],
    AfterValidator(_five),
    Field(json_schema_extra={"minItems": LEVELS, "maxItems": LEVELS}),
]
