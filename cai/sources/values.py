"""The values of a record that are read: texts, ids and objects; and words for those that cannot be used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any
from uuid import UUID

from cai.records import DropReason, Object
from cai.texts import wording


class BadRecord(Exception):
    """A record cannot be used."""

    def __init__(self, problem: str, reason: DropReason = "bad_input") -> None:
        self.problem = problem
        self.reason = reason
        super().__init__(problem)


def object_of(record: Any, columns: str) -> Object:
    """A record that must be an object, with these columns in words; BadRecord if it is not, or was not decoded."""
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, Mapping):
        return record
    raise BadRecord(f"the record is {kind(record)}, not an object with {columns}")


def as_text(value: Any, name: str) -> str:
    """A value that must be text; BadRecord if it is not, or holds half a surrogate pair, which no file can hold."""
    if not isinstance(value, str):
        raise BadRecord(f"{name} is {kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name} is not UTF-8 (character {error.start + 1})") from None
    return value


def optional_text(record: Object, name: str) -> str | None:
    """A text that a record may lack."""
    value = record.get(name)
    return None if value is None else as_text(value, f"'{name}'")


def id_of(record: Object, name: str = "id") -> str | None:
    """The id of a record: text or a number, whole ones without their `.0`; None if it has none.

    "", null and NaN are the empty cells of tables. Truth values, lists and objects name nothing.
    """
    value = record.get(name)
    if isinstance(value, str):
        return as_text(value, f"the {name}") or None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return str(int(value))
    number = float(value)
    if number.is_integer():  # tables turn a column of whole numbers with a gap into floats
        return str(int(number))
    return None if math.isnan(number) else repr(number)


def missing(value: Any) -> bool:
    """Whether a value is what tables put where a row has none: null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def kind(value: Any) -> str:
    """The type of a value, for a message."""
    return "null" if value is None else f"of type {type(value).__name__}"


def listed(keys: Iterable[Any]) -> str:
    """The first dozen of `keys`, for a message."""
    return wording.listed([shown(key) for key in keys], most=12) or "nothing"


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    return wording.shortened(repr(value), 60)
