"""Rows of runs and trainings as view.js reads them: as they are, but without what nobody looks for, and not long.

A text that is cut is `[start, characters in all]`. Beside its own fields a row has `kind`, the name of its record;
`left_out`, how many items of which list are not there; and `reasons`, why it is in no file of its run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cai.records import Record, Values

MOST_TEXT = 6_000  # characters of a text: two screens
MOST_ITEMS = 24  # of a list; of a conversation, its last turns
NOT_SHOWN = {"schema", "schema_", "position", "key", "constitution", "templates", "seed", "usage", "calls", "tokens"}


def shown(
    record: Record, reasons: Iterable[str] = (), most_text: int = MOST_TEXT, most_items: int = MOST_ITEMS
) -> Values:
    """A row for the page."""
    row = record.model_dump(mode="json", exclude=NOT_SHOWN)
    if isinstance(row.get("models"), dict):  # by role, the same in every row
        del row["models"]
    left_out = {}
    for name, value in row.items():
        if isinstance(value, list | tuple) and len(value) > most_items:
            left_out[name] = len(value) - most_items
            row[name] = value[-most_items:] if name == "prompt" else value[:most_items]
    return {"kind": type(record).__name__, "reasons": list(reasons), "left_out": left_out, **cut(row, most_text)}


def cut(value: Any, most: int = MOST_TEXT) -> Any:
    """The value with every long text cut."""
    if isinstance(value, str) and len(value) > most:
        return [value[:most], len(value)]
    if isinstance(value, dict):
        return {name: cut(inner, most) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cut(inner, most) for inner in value]
    return value
