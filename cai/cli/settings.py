"""Settings from the words of a command line, in which JSON and headers are still text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from cai.errors import UsageError
from cai.runs.settings import RunSettings, make_settings

S = TypeVar("S", bound=RunSettings)


def settings_from_options(kind: type[S], options: Mapping[str, Any]) -> S:
    """The settings that the options of a command make; raises UsageError with what to type instead."""
    return make_settings(kind, values_of(options))


def values_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options by the names of their settings, with JSON and headers read."""
    values = dict(options)
    values["headers"] = dict(_header(text) for text in values.get("headers") or ())
    extra = values.pop("extra_body", None)
    if extra is not None:
        values["extra_body"] = _json_object(extra)
    return values


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"--extra-body is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise UsageError(f"--extra-body must be a JSON object, such as '{{\"top_p\": 0.9}}', not {text[:80]!r}")
    return value


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and re.fullmatch(r"[!#$%&'*+.^_`|~\w-]+", name.strip(), re.ASCII) and value.strip().isprintable()):
        raise UsageError("--header must be 'Name: value', in one line")  # not quoted: it may hold a key
    return name.strip(), value.strip()
