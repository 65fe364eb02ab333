"""The page: one HTML file that asks nothing of a network, and in which no text of a model can become markup or code.

Numbers are HTML that is escaped as it is filled in; rows are JSON in a block of their own, which view.js shows as text.
A content security policy allows this script and this style, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cai.report.html.marks import visible
from cai.report.html.samples import Shown
from cai.report.html.sections import MOST_LINES, Section

HERE = Path(__file__).parent
MARKUP = re.compile("[<>&\u2028\u2029\ud800-\udfff]")  # what may end a script block, or is not UTF-8


def as_json(value: Any) -> str:
    """JSON that can stand in a script block: every character that HTML could take for its own is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return MARKUP.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encode(row: Any) -> bytes:
    """A row as bytes of the page."""
    return as_json(row).encode()


def render(sections: Sequence[Section], samples: Sequence[Shown | None], version: str | None) -> bytes:
    """The bytes of the page; samples: the rows shown of each section."""
    style, script = (Markup((HERE / name).read_text("utf-8")) for name in ("view.css", "view.js"))
    pairs = list(zip(sections, samples, strict=True))
    text: str = _template().render(
        pairs=pairs,
        style=style,
        script=script,
        hashes={"style": _hash(style), "script": _hash(script)},
        rows=Markup(rows_json(samples)),
        version=version,
        most=MOST_LINES,
    )
    return text.encode("utf-8")


@cache  # compiling it takes longer than to fill it
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True, finalize=_finalized
    )
    return environment.from_string((HERE / "page.html.jinja").read_text("utf-8"))


def rows_json(samples: Sequence[Shown | None]) -> str:
    """The rows of every section, by its number."""
    lists = (",\n".join(row.decode() for row in shown.rows) if shown else "" for shown in samples)
    return f"[{','.join(f'[{rows}]' for rows in lists)}]"


def _finalized(value: Any) -> Any:
    """What the template prints: texts from data with visible marks for what they hide."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    """The hash of a script or style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
