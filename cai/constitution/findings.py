"""What a check finds in a file: of constitutions and template sets alike."""

from __future__ import annotations

from typing import Literal

from cai.records import Record


class Finding(Record):
    """One error or warning; `line` is 1-based, `principle` an id, each None if it concerns the whole file."""

    level: Literal["error", "warning"] = "error"
    code: str
    message: str
    file: str | None = None
    line: int | None = None
    principle: str | None = None
