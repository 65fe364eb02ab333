"""What is in the page of a report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cai


def page_of(out: Path, *sources: Path, **options: Any) -> str:
    """The page about some sources, written into a folder."""
    cai.make_report(sources, out / "report.html", **options)
    return (out / "report.html").read_text("utf-8")


def rows_of(html: str) -> list[list[dict[str, Any]]]:
    """The rows in a page, by section."""
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    sections: list[list[dict[str, Any]]] = json.loads(found[1])
    return sections


def text_of(html: str) -> str:
    """What a reader sees, without tags."""
    seen = re.sub(r"<(script|style|title)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", seen))
