"""Pages in a real browser: how one is opened, what it complains of, and what is looked for in any page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<svg onload='window.hit = 1'><a href='javascript:window.hit = 1'>x</a></svg>",
    "<!--<script>window.hit = 1</script>-->",
    "https://example.com/beacon.png [click](https://example.com)",
    "\u202eevil\u202c \u200bzero\u2066x\u2069 \U000e0041tag",
    "__proto__ constructor toString",
)
FOCUSABLE = "a[href], button:not(:disabled), select, input, summary, [tabindex='0']"
# The least contrast (WCAG 2, 1.4.3) of any text with its background, and that text.
CONTRAST = """() => {
  const numbers = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(") ? [...found.slice(0, 3).map((one) => one * 255), found[3] ?? 1]
      : [...found.slice(0, 3), found[3] ?? 1];
  };
  const light = (rgb) => {
    const linear = (one) => one <= .03928 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((one) => linear(one / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return numbers(getComputedStyle(document.body).backgroundColor);
  };
  let least = [99, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const text = walk.currentNode.textContent.trim();
    if (!text || element.closest("script, style, noscript, title, option") || element.matches(":disabled")) continue;
    const style = getComputedStyle(element);
    const colour = numbers(element.closest("svg") ? style.fill : style.color);
    const pair = [light(colour), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    if (ratio < least[0]) least = [ratio, `${element.tagName}.${element.getAttribute("class")}: ${text.slice(0, 40)}`];
  }
  return least;
}"""
# What scrolls, and cannot be reached with keys.
STUCK = """() => [...document.querySelectorAll("main *")].filter((box) => {
  const style = getComputedStyle(box), over = /auto|scroll/;
  const scrolls = (over.test(style.overflowX) && box.scrollWidth > box.clientWidth)
    || (over.test(style.overflowY) && box.scrollHeight > box.clientHeight);
  return scrolls && box.tabIndex < 0;
}).map((box) => box.className)"""


class Opened:
    """A page that is open, and all that it complained of or asked for; own: how the addresses begin that it may ask."""

    def __init__(self, page: Any, url: str, own: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._asked(request.url, own))
        page.goto(url)

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith(own):
            self.complaints.append(f"request {url}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, that of CHROMIUM or what is installed; the test is skipped if there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
