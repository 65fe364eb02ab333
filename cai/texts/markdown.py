"""Pieces of Markdown that keep text of files and models in its place: code spans, blocks, tables; and cards of them.

Text from files and models goes into a code span, a code block or a YAML scalar, so that it cannot end the front matter
or speak for the card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cai.texts.wording import UNPRINTABLE, one_line


def without_path(name: str) -> str:
    """A model's name without the folders it lay in; a hub's `org/name` stays."""
    provider, path = re.findall(r"^((?:[a-z]{2,}:)?)(.*)", one_line(name))[0]
    if re.match(r"[/\\.~]|[A-Za-z]:", path):
        path = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return f"{provider}{path}"


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


def front_matter(values: Mapping[str, Any]) -> str:
    """The YAML block that a card begins with."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1_000)}---\n"


@dataclass(frozen=True, slots=True)
class Card:
    """A README.md: front matter, a title and its introduction, and sections by heading; empty ones are left out.

    All texts are Markdown; what a terminal would obey is replaced.
    """

    front: Mapping[str, Any]
    title: str
    introduction: str
    sections: Mapping[str, str]

    def text(self) -> str:
        """The text of the file."""
        parts = [front_matter(self.front), f"# {self.title}\n{self.introduction}"]
        parts += [section(title, text) for title, text in self.sections.items()]
        return UNPRINTABLE.sub("\ufffd", "\n".join(part for part in parts if part))
