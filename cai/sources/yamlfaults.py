"""Every fault that a model finds in the values of a YAML file: in words, and with its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cai.sources.yamlfile import Document, Place
from cai.texts.wording import nearest, shortened

Keys = Mapping[tuple[str, ...], tuple[str, tuple[str, ...]]]  # keys that lead to a mapping → its name, its own keys

TYPES = {  # pydantic's type of error → what a value must be
    "tuple_type": "a list",
    "model_type": "a mapping of keys and values",
    "dict_type": "a mapping of keys and values",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than 0",
    "int_type": "a valid integer",
    "bool_type": "a valid boolean",
}
REASONS: dict[str, tuple[str, str]] = {  # pydantic's type of error → a code, and a sentence
    **{kind: ("wrong-type", f"{{what}} must be {words}, not {{value}}") for kind, words in TYPES.items()},
    "extra_forbidden": ("unknown-key", "unknown key {key!r} in {owner}; {advice}"),
    "missing": ("missing-key", "{owner} needs {key!r}"),
    "string_too_short": ("empty", "{what} is empty"),
    "too_short": ("empty", "{what} is empty"),
    "string_type": ("wrong-type", "{not_text}"),
    "string_pattern_mismatch": ("bad-{key}", "{key} {value} must be {form}"),
    "literal_error": ("wrong-value", "{what} must be {expected}, not {value}"),
    "greater_than_equal": ("greater-than-equal", "{what} must be greater than or equal to {ge:.15g}, not {value}"),
    "less_than": ("less-than", "{what} must be less than {lt:.15g}, not {value}"),
    "less_than_equal": ("less-than-equal", "{what} must be less than or equal to {le:.15g}, not {value}"),
}


class Fault(NamedTuple):
    """One value that a model does not accept, in one sentence."""

    code: str
    message: str
    line: int


def is_foreign(document: Document, names: Iterable[str]) -> bool:
    """Whether a file is a mapping without any of these keys, nor one that is nearly so: then it is not to be quoted."""
    value = document.value
    return isinstance(value, dict) and not any(get_close_matches(key, names, 1, 0.7) for key in value)


def explain(error: ValidationError, document: Document, keys: Keys, forms: Mapping[str, str]) -> list[Fault]:
    """Every fault with its line, in the order of the file; `forms` says in words what a key's pattern asks for."""
    faults = []
    owner, names = keys[()]
    if is_foreign(document, names):
        return [Fault("unknown-key", f"it has no key of {owner}; known: {', '.join(names)}", document.line(()))]
    for details in error.errors(include_url=False):
        place = details["loc"]
        code, message = _reason(details, document.scalars.get(place), keys, forms)
        faults.append(Fault(code, message, document.line(place)))
    # A misspelt key explains the missing one, so it goes first.
    return sorted(faults, key=lambda fault: (fault.line, fault.code != "unknown-key"))


def _reason(details: ErrorDetails, scalar: str | None, keys: Keys, forms: Mapping[str, str]) -> tuple[str, str]:
    """A code for what is wrong, and a sentence."""
    kind, place, value = details["type"], details["loc"], details["input"]
    if value == "" and kind != "extra_forbidden":
        kind = "too_short"
    key = str(("", *place)[-1])
    owner, names = keys.get(tuple(part for part in place[:-1] if isinstance(part, str)), ("the mapping", ()))
    advice = nearest(key, names)
    if " " in key or key[:1].isupper():  # `- Be kind: always` is a mapping to YAML
        advice = "a sentence with ': ' in it needs quotes"
    code, sentence = REASONS.get(kind, (kind.replace("_", "-"), "{message}"))
    words = {
        **details.get("ctx", {}),
        "what": _named(place),
        "key": key,
        "owner": owner,
        "advice": advice,
        "form": forms.get(key),
        "not_text": _not_text(_named(place), value, scalar, forms.get(key)),
        "value": "text" if not place and isinstance(value, str) else _shown(value),  # the file may be no file of ours
        "message": details["msg"],
    }
    return code.format(**words), sentence.format(**words)


def _named(place: Place) -> str:
    if not place:
        return "the file"
    if isinstance(place[-1], str):
        return f"'{place[-1]}'"
    return f"entry {place[-1] + 1} of '{place[-2]}'"


def _not_text(what: str, value: Any, scalar: str | None, form: str | None) -> str:
    if value is None or not scalar:
        return f"{what} must be text, not {_kind(value)}"
    advice = f"{form}, in quotes if need be" if form is not None else "text, in quotes"
    return f"YAML reads {what} {scalar} as {_kind(value)}; write {advice}"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names = {dict: "a mapping", list: "a list", type(None): "empty"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(shortened(value, 61))
    if type(value) in (int, float):
        return repr(value)
    return _kind(value)
