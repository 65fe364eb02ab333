"""No text of a model becomes markup, code or a request: what is in the bytes of the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import make_run, revision

import cai
from cai.report.html.marks import visible
from cai.report.html.render import as_json

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "</style><style>*{display:none}",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe \u2066x\u2069 \u200b\u200d\ufeff\u00ad",
    "line\u2028separator\u2029",
    "\x00\x07\x1b[31m",
    "https://example.com/ javascript:alert(1) [a](https://example.com)",
    "\U000e0041\U000e0042 \u3164",
)


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def hostile_page(tmp_path: Path) -> str:
    items = [revision(at, f"{text} new", initial=text, prompt=text) for at, text in enumerate(HOSTILE)]
    items = [
        row.model_copy(update={"id": text, "rounds": (row.rounds[0].model_copy(update={"principle": text}),)})
        for row, text in zip(items, HOSTILE, strict=True)
    ]
    run = make_run(tmp_path / "<b>run", items, stopped="".join(HOSTILE))
    cai.make_report(run, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


@given(st.recursive(st.text(st.characters()) | st.integers(), lambda inner: st.lists(inner, max_size=4)))
def test_json_in_a_page_cannot_end_its_block(value: object) -> None:
    text = as_json({"rows": value})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"rows": value}
    text.encode("utf-8")  # no halves of surrogate pairs


@given(st.text(st.characters()))
def test_no_character_of_a_shown_text_is_unseen(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]", shown
    )


def test_hostile_texts_add_no_tag_and_no_attribute(tmp_path: Path) -> None:
    html = hostile_page(tmp_path)
    tags = Tags(html).tags
    assert [tag for tag, _ in tags if tag == "script"] == ["script", "script"]
    known = """html head meta title style body a header h1 main section h2 p dl div dt dd small article h3
        table thead tr th tbody td svg text line circle rect details summary noscript footer script"""
    assert {tag for tag, _ in tags} <= set(known.split())
    names = {name for _, attributes in tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcdoc", "action")}
    assert {attributes["href"] for _, attributes in tags if "href" in attributes} == {"#main"}


def test_the_policy_of_a_page_allows_its_own_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    html = hostile_page(tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; ")
    for kind in ("script", "style"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_a_page_names_no_address(tmp_path: Path) -> None:
    cai.make_report(make_run(tmp_path / "run", [revision(0, "second")]), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]", re.sub(r"^ *//.*$", "", html, flags=re.MULTILINE))


@pytest.mark.parametrize("text", ["plain words", "naïve 日本語 עברית", "two\nlines\tand a tab"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
