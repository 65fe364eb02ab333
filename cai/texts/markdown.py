"""Pieces of Markdown that keep text of files and models in its place: code spans, blocks, tables.

Knows nothing of cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def without_path(name: str) -> str:
    """A model's name without the folders it lay in; a hub's `org/name` stays."""
    provider, path = re.findall(r"^((?:[a-z]{2,}:)?)(.*)", one_line(name))[0]
    if re.match(r"[/\\.~]|[A-Za-z]:", path):
        path = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return f"{provider}{path}"


def one_line(text: str) -> str:
    """The text with a blank for each run of white space."""
    return " ".join(str(text).split())


def code(text: str) -> str:
    """A code span of one line that no backtick or table bar in the text can leave."""
    line = one_line(text).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(language: str, text: str) -> str:
    """A fenced block that no backticks in the text can end."""
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table whose cells are Markdown already; nothing without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in (names, ("---",) * len(names), *rows)]
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def section(title: str, text: str) -> str:
    """A heading with its text; nothing without a text."""
    return f"## {title}\n\n{text}" if text else ""
