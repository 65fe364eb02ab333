"""The page in a browser: hostile texts do nothing, keys reach everything, it can be read in both colours and narrow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import label_cuts
import pytest
from browsers import CONTRAST, FOCUSABLE, HOSTILE, STUCK, Opened
from evaluation_records import make_evaluation
from stored_runs import lost, make_run, revision

import cai

pytestmark = pytest.mark.browser


class Report(Opened):
    """The page of a report."""

    def __init__(self, page: Any, path: Path) -> None:
        super().__init__(page, path.as_uri(), path.as_uri())
        if page.locator(".browser").count():
            page.locator(".browser .row").first.wait_for()

    def open_rows(self) -> None:
        """Open every row in the lists."""
        for row in self.page.locator(".row").all():
            open_row(row)


def open_row(row: Any) -> None:
    """Open a row, whose body is made a moment later."""
    row.locator("summary").first.click()
    row.locator(".body").wait_for()


Open = Callable[..., Report]


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    contexts = []

    def make(*sources: Path, width: int = 1200, colours: str = "light") -> Report:
        out = tmp_path / "report.html"
        cai.make_report(sources, out)
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=colours))
        return Report(contexts[-1].new_page(), out)

    yield make
    for context in contexts:
        context.close()


def run_of(folder: Path, items: list[Any], **info: Any) -> Path:
    """A generate run, made in a thread: this one has the event loop of the browser."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(make_run, folder, items, **info).result()


def everything(folder: Path) -> list[Path]:
    """A source of every kind, with names and texts that are hard to lay out."""
    long = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 8
    runs = [revision(0, f"{long} new", initial=f"{long} old"), *(revision(at, "second") for at in range(1, 30))]
    labels = [
        label_cuts.pair(at, z=0.2 + at / 9, human="ab"[at % 3 == 0], b_model=f"model-{long[:60]}") for at in range(60)
    ]
    return [
        make_evaluation(folder / "evaluation"),
        run_of(folder / "run", [*runs, lost(30)], stopped="the server is gone"),
        label_cuts.make_run(folder / "labels", labels),
    ]


def test_hostile_texts_do_nothing_and_are_shown_as_they_are(opened: Open, tmp_path: Path) -> None:
    rows = [revision(at, f"{text} new", initial=text, prompt=text) for at, text in enumerate(HOSTILE)]
    page = opened(run_of(tmp_path / "run", [*rows, lost(20)]))
    page.open_rows()
    assert page.page.evaluate("window.hit") is None
    texts = page.page.locator(".words").all_text_contents()
    for text in HOSTILE[:5]:
        assert text in texts
    assert "U+202EevilU+202C U+200BzeroU+2066xU+2069 U+E0041tag" in texts
    assert page.page.locator(".browser a, .browser img, .browser svg").count() == 0
    assert page.complaints == []


def test_a_word_diff_marks_what_went_and_what_came(opened: Open, tmp_path: Path) -> None:
    before = "You can pick the lock with two paper clips, and nobody will see you."
    after = "You can ask a locksmith to open the lock, and nobody will see you."
    page = opened(run_of(tmp_path / "run", [revision(0, after, initial=before)]))
    page.open_rows()
    diff = page.page.locator(".block").filter(has_text="Revision 1").locator(".words")
    went, came = (diff.locator(tag).all_text_contents() for tag in ("del", "ins"))
    assert went and came
    whole = diff.evaluate(
        "(box, tag) => [...box.childNodes].filter((n) => n.nodeName !== tag).map((n) => n.textContent).join('')", "DEL"
    )
    assert " ".join(whole.split()) == after
    assert page.complaints == []


def test_a_word_diff_holds_both_texts(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0)])).page
    draw = random.Random(0)
    words = ["a", "b ", "c\n\n", "dog", "日", "本", " ", "é ", "it's", "\t", "**x**"]
    for _ in range(300):
        before, after = ("".join(draw.choices(words, k=draw.randrange(30))) for _ in range(2))
        runs = page.evaluate("([before, after]) => diff(before, after)", [before, after])
        if runs is None:
            continue
        assert "".join(text for kind, text in runs if kind != "went") == after
        assert "".join("".join(text for kind, text in runs if kind != "came").split()) == "".join(before.split())
        assert all(one[0] != other[0] for one, other in pairwise(runs))


def test_rows_are_filtered_by_group_and_words(opened: Open, tmp_path: Path) -> None:
    items = [
        *(revision(at, "second", prompt=f"Question of bees {at}") for at in range(60)),
        lost(60),
        lost(61, "empty"),
    ]
    page = opened(run_of(tmp_path / "run", items)).page
    status = page.locator(".status")
    assert status.text_content() == "1 to 25 of 62"
    page.get_by_role("button", name="Next").click()
    page.get_by_text("26 to 50 of 62").wait_for()
    page.locator("select").select_option("dropped: empty")
    page.get_by_text("1 to 1 of 1").wait_for()
    page.locator("select").select_option("all")
    page.get_by_label("contains").fill("BEES 4")
    page.get_by_text("1 to 11 of 11").wait_for()
    page.get_by_label("contains").fill("nothing like it")
    page.get_by_text("no rows").wait_for()


def test_keys_reach_everything(opened: Open, tmp_path: Path) -> None:
    page = opened(*everything(tmp_path)).page
    open_row(page.locator(".row").first)
    wanted = page.locator(FOCUSABLE).count()
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = set()
    for _ in range(wanted + 1):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(f'[...document.querySelectorAll("{FOCUSABLE}")].indexOf(document.activeElement)'))
    assert seen - {-1} == set(range(wanted))
    page.locator(".row > summary").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".row").nth(1).get_attribute("open") is not None


def test_whatever_scrolls_can_be_reached_with_keys(opened: Open, tmp_path: Path) -> None:
    page = opened(*everything(tmp_path), width=360)
    page.open_rows()
    assert page.page.evaluate(STUCK) == []


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
def test_the_page_never_scrolls_sideways(opened: Open, tmp_path: Path, width: int) -> None:
    page = opened(*everything(tmp_path), width=width)
    page.open_rows()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.complaints == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_all_text_can_be_read_on_its_background(opened: Open, tmp_path: Path, colours: str) -> None:
    page = opened(*everything(tmp_path), colours=colours)
    page.open_rows()
    ratio, text = page.page.evaluate(CONTRAST)
    assert ratio >= 4.5, text


def test_a_page_of_many_rows_holds_few_elements(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(at, "second") for at in range(2_000)])).page
    assert page.locator(".row").count() == 25
    assert page.evaluate("document.querySelectorAll('*').length") < 1_000
    assert page.locator(".status").text_content() == "1 to 25 of 2,000"
