"""What decides which rows a run makes: its hash, and what two of them disagree on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from cai.errors import UsageError

if TYPE_CHECKING:
    from cai.records import Object


def identity_hash(identity: Object) -> str:
    """8 hex digits over everything that decides which rows a run makes; UsageError if a text cannot be written down."""
    try:
        content = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are not UTF-8 text") from None
    return hashlib.sha256(content).hexdigest()[:8]


def differences(there: Object, now: Object, prefix: str = "", names: tuple[str, str] = ("there", "now")) -> list[str]:
    """What two identities disagree on, one short text each; names: how people know the one and the other."""
    texts = []
    for key in sorted({*there, *now}):
        a, b = there.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            texts += differences(a, b, f"{prefix}{key}.", names)
        elif a != b:
            texts.append(f"{prefix}{key} is {_shown(a)} {names[0]}, {_shown(b)} {names[1]}")
    return texts


def _shown(value: Any) -> str:
    """A setting in a line; of one with settings of its own only that it is there."""
    if value is None:
        return "not set"
    return "set" if isinstance(value, dict) else repr(value)
