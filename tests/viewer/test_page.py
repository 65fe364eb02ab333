"""The page of `cai view` in a browser: rows are found, opened and read, whatever is in them, and by keys alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import label_cuts
import label_runs
import pytest
from browsers import CONTRAST, FOCUSABLE, HOSTILE, STUCK, Opened
from stored_runs import lost, make_run, revision
from viewers import Viewer, viewer

pytestmark = pytest.mark.browser

BEFORE = "You can pick the lock with two paper clips, and nobody will see you."
AFTER = "You can ask a locksmith to open the lock, and nobody will see you."


NAMELESS = """() => [...document.querySelectorAll("button, input, select, summary, progress, [role], [tabindex]")]
  .filter((one) => one.checkVisibility() && !one.getAttribute("aria-label") && !one.labels?.length
    && (one.matches("select, input") || !one.textContent.trim()) && one.getAttribute("role") !== "status")
  .map((one) => one.outerHTML.slice(0, 80))"""


class Page(Opened):
    """The page of a viewer."""

    def __init__(self, page: Any, running: Viewer) -> None:
        self.viewer = running
        super().__init__(page, running.address, f"http://127.0.0.1:{running.port}/")
        page.locator("#browse, #label").locator("visible=true").first.wait_for()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def open_row(self, name: str) -> None:
        """Open the row with this id."""
        line = self.page.locator(".line").filter(has=self.page.locator(".id", has_text=re.compile(f"^{name}$")))
        line.click()
        self.page.locator("#row h2").get_by_text(name, exact=True).wait_for()


Open = Callable[..., Page]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    with ExitStack() as stack:

        def make(
            *words: Path | str,
            running: Viewer | None = None,
            width: int = 1200,
            colours: str = "light",
            has_lines: bool = True,
        ) -> Page:
            if running is None:
                running = stack.enter_context(viewer(*words))
            context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=colours)
            stack.callback(context.close)
            page = Page(context.new_page(), running)
            if has_lines:  # a key that is pressed before the first line is there does nothing
                page.page.locator(".line").first.wait_for()
            return page

        yield make


def in_thread(make: Callable[..., Path], *values: Any, **more: Any) -> Path:
    """A folder that is made in a thread: this one has the event loop of the browser."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(make, *values, **more).result()


def run_of(folder: Path, items: list[Any]) -> Path:
    return in_thread(make_run, folder, items)


def training(folder: Path) -> Path:
    """What `cai view` reads of a training."""
    folder.mkdir(parents=True)
    (folder / "training.json").write_text("{}")
    rows = [
        {"id": f"s{at}", "prompt": f"Question {at}?", "before": BEFORE, "after": AFTER, "most_tokens": 128}
        for at in range(3)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def everything(folder: Path) -> list[Path]:
    """A source of every kind, with names and texts that are hard to lay out."""
    long = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 8
    rows = [revision(0, f"{long} new", initial=f"{long} old"), *(revision(at, "second") for at in range(1, 30))]
    labels = [
        label_cuts.pair(at, z=0.2 + at / 9 if at % 7 else None, human="ab"[at % 3 == 0], b_model=f"model-{long[:60]}")
        for at in range(60)
    ]
    return [
        run_of(folder / "run", [*rows, lost(30)]),
        label_cuts.make_run(folder / "labels", labels),
        training(folder / "model"),
    ]


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A viewer of everything."""
    with viewer(*everything(tmp_path_factory.mktemp("various"))) as running:
        yield running


# The token


def test_the_token_leaves_the_address_and_the_page_can_be_loaded_again(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0)]))
    address = f"http://127.0.0.1:{page.viewer.port}/"
    assert page.page.url == address
    page.page.locator(".line").wait_for()
    page.page.reload()
    page.page.locator(".line").wait_for()
    assert page.page.url == address
    page.page.go_back()
    assert page.viewer.token not in page.page.url
    assert page.complaints == []


@pytest.mark.parametrize("fragment", ["", "#", "#short", "#" + "A" * 32, "#row"])
def test_a_browser_without_the_token_is_told_what_to_do_and_gets_no_data(
    opened: Open, chromium: Any, tmp_path: Path, fragment: str
) -> None:
    running = opened(run_of(tmp_path / "run", [revision(0, prompt="secret question")])).viewer
    context = chromium.new_context()
    stranger = context.new_page()
    bodies: list[str] = []
    stranger.on("response", lambda response: bodies.append(response.text()))
    stranger.goto(f"http://127.0.0.1:{running.port}/{fragment}")
    stranger.get_by_text("Open the whole address").wait_for()
    assert stranger.locator(".line, #row *, #label *").count() == 0
    assert stranger.locator("button:visible, input:visible, select:visible").count() == 0
    assert not any("secret question" in body for body in bodies)
    context.close()


def test_a_page_that_outlives_its_viewer_says_so(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0)]))
    page.page.locator(".line").wait_for()
    page.viewer.end()
    page.page.get_by_text("cai view does not answer").wait_for()
    page.press("j")
    assert page.page.locator("#row .body").count() == 0


# The list


def test_the_list_has_forty_lines_and_a_scrollbar_for_all_rows(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(at, "second") for at in range(3_000)])).page
    page.get_by_text("3,000 rows").wait_for()
    bar = page.locator("#list")
    for place in (0, 1_234, 2_999):
        bar.evaluate("(box, place) => { box.scrollTop = place * 52; }", place)
        page.get_by_text(f"Question {place}?", exact=True).wait_for()
        assert page.locator(".line").count() == 40
    assert page.evaluate("document.querySelectorAll('*').length") < 500
    assert page.locator(".line").first.get_attribute("aria-setsize") == "3000"


@pytest.mark.parametrize("total", [400_000, 5_000_000])
def test_a_list_longer_than_a_browser_can_lay_out_is_scrolled_in_proportion(
    opened: Open, tmp_path: Path, total: int
) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0, "second")])).page

    def answer(route: Any) -> None:
        ask = json.loads(route.request.post_data)
        line = {"kind": "Other", "reasons": [], "left_out": {}, "facets": {}, "prompt": "text"}
        rows = [line | {"number": at, "id": f"n{at}"} for at in range(ask["start"], min(ask["start"] + 40, total))]
        route.fulfill(json={"total": total, "rows": rows})

    page.route("**/api/rows", answer)
    page.get_by_label("search").fill("x")
    page.get_by_text(f"{total:,} of").wait_for()
    bar = page.locator("#list")
    assert bar.evaluate("(box) => box.scrollHeight") <= 8_000_000
    bar.evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    page.get_by_text(f"n{total - 1}", exact=True).wait_for()
    bar.evaluate("(box) => { box.scrollTop = (box.scrollHeight - box.clientHeight) / 2; }")
    middle = page.locator(".line .id")
    page.wait_for_timeout(300)
    places = [int(text[1:]) for text in middle.all_text_contents() if text.startswith("n")]
    assert any(abs(place - total / 2) < total / 1_000 + 40 for place in places)
    inside = bar.evaluate(
        """(box) => { const edge = box.getBoundingClientRect();
          const places = [...box.querySelectorAll(".line")].map((line) => line.getBoundingClientRect());
          return places.filter((at) => at.bottom > edge.top && at.top < edge.bottom).length; }"""
    )
    assert inside >= 5


def test_keys_walk_through_rows_far_beyond_what_is_in_sight(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(at, "second") for at in range(200)]))
    page.page.get_by_text("200 rows").wait_for()
    for _ in range(60):
        page.press("j")
    page.page.locator("#row h2").get_by_text("r59", exact=True).wait_for()
    chosen = page.page.locator('.line[aria-selected="true"]')
    assert chosen.locator(".id").text_content() == "r59"
    assert chosen.is_visible()
    page.press("k", "k")
    page.page.locator("#row h2").get_by_text("r57", exact=True).wait_for()
    page.page.locator("#list").focus()
    page.press("ArrowDown", "ArrowUp", "ArrowUp")
    page.page.locator("#row h2").get_by_text("r56", exact=True).wait_for()
    for _ in range(60):
        page.press("k")
    page.page.locator("#row h2").get_by_text("r0", exact=True).wait_for()


def test_rows_are_filtered_and_searched(opened: Open, tmp_path: Path) -> None:
    rows = [revision(at, "second", prompt=f"Question of bees{' and wasps' * (at % 2)} {at}") for at in range(60)]
    page = opened(run_of(tmp_path / "run", [*rows, lost(60), lost(61, "empty")]))
    total = page.page.locator("#total")
    page.page.get_by_text("62 rows").wait_for()
    page.page.get_by_label("reason").select_option("dropped: empty")
    page.page.get_by_text("1 of 62 rows").wait_for()
    assert page.page.locator(".line").count() == 1
    assert page.page.locator("#active").text_content() == "(1 on)"
    page.page.get_by_label("reason").select_option("")
    page.page.get_by_text("62 rows", exact=True).wait_for()
    page.press("/")
    page.page.keyboard.type("wasps")
    page.page.get_by_text("30 of 62 rows").wait_for()
    page.press("Escape")  # leaves the search as it is
    assert page.page.get_by_label("search").input_value() == "wasps"
    page.press("j")
    page.page.locator("#row .body").wait_for()
    assert page.page.evaluate("[...CSS.highlights.get('found')].map(String)") == ["wasps"]
    page.press("/")
    page.page.get_by_label("search").fill("no such words anywhere")
    page.page.get_by_text("0 of 62 rows", exact=True).wait_for()
    assert page.page.locator(".line").count() == 0
    assert total.get_attribute("role") == "status"
    assert page.complaints == []


def test_pairs_are_filtered_by_what_people_say(opened: Open, tmp_path: Path) -> None:
    labels = [label_cuts.pair(at, z=1.0, human="b" if at < 4 else "a") for at in range(10)]
    page = opened(label_cuts.make_run(tmp_path / "labels", labels)).page
    page.get_by_text("10 rows").wait_for()
    page.get_by_label("person").select_option("disagrees")
    page.get_by_text("4 of 10 rows").wait_for()


def test_rows_appear_while_the_run_is_written(opened: Open, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", [revision(at, "second") for at in range(3)])
    page = opened(folder)
    page.page.get_by_text("3 rows").wait_for()
    page.open_row("r1")
    run_of(folder, [revision(at, "second") for at in range(3, 50)])
    page.page.get_by_text("50 rows").wait_for()
    assert page.page.locator("#row h2").text_content() == "r1"
    assert page.page.locator('.line[aria-selected="true"] .id').text_content() == "r1"
    assert page.complaints == []


def test_a_row_that_is_open_gets_longer_and_stays_chosen_also_when_its_file_is_written_anew(
    opened: Open, tmp_path: Path
) -> None:
    run = in_thread(make_run, tmp_path / "run", [revision(at, f"once {at}") for at in range(4)])
    page = opened(run)
    page.open_row("r2")
    whole = [revision(at, f"once {at}", f"twice {at}") for at in (2, 1)]
    lines = [row.model_dump_json().encode() + b"\n" for row in whole]
    with (run / "revisions.jsonl").open("ab") as file:
        file.writelines(lines)
    page.page.locator("#row").get_by_text("twice 2").first.wait_for()
    assert page.page.locator(".line").count() == 4
    before = (run / "revisions.jsonl").read_bytes().splitlines(keepends=True)
    part = run / "new"
    part.write_bytes(b"".join([before[0], *before[3:]]))
    part.replace(run / "revisions.jsonl")  # as at the end of a run that has grown
    page.press("j")
    page.page.locator("#row h2").get_by_text("r3", exact=True).wait_for()
    page.press("k", "k")
    page.page.locator("#row h2").get_by_text("r1", exact=True).wait_for()
    page.page.locator("#row").get_by_text("twice 1").first.wait_for()


def test_runs_that_come_later_leave_the_chosen_one_chosen(opened: Open, tmp_path: Path) -> None:
    for name in ("one", "two"):
        label_cuts.make_run(tmp_path / "runs" / name, [label_cuts.pair(0, z=1.0, id=name)])
    page = opened(tmp_path / "runs").page
    page.locator("#source").select_option("1")
    page.locator(".line .id").get_by_text("two").wait_for()
    label_cuts.make_run(tmp_path / "runs" / "three", [label_cuts.pair(0, z=1.0, id="three")])
    page.locator("#source option").nth(2).wait_for(state="attached")
    assert page.locator("#source").input_value() == "1"
    assert page.locator(".line .id").text_content() == "two"


def test_an_empty_run_is_a_page_without_rows(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", []), has_lines=False)
    page.page.get_by_text("0 rows").wait_for()
    page.press("j", "k", "d")
    assert page.complaints == []


def test_a_folder_that_goes_away_is_said_so(opened: Open, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", [revision(at, "second") for at in range(3)])
    page = opened(folder)
    page.page.get_by_text("3 rows").wait_for()
    shutil.rmtree(folder)
    page.press("j")
    page.page.locator("#trouble").get_by_text(str(folder)).wait_for()


# An opened row


def test_hostile_texts_do_nothing_and_are_shown_as_they_are(opened: Open, tmp_path: Path) -> None:
    rows = [revision(at, f"{text} new", initial=text, prompt=text) for at, text in enumerate(HOSTILE)]
    pairs = [label_cuts.pair(at, z=1.0, a=text, b=f"b {text}", b_model=text) for at, text in enumerate(HOSTILE)]
    run = run_of(tmp_path / "run", rows)
    page = opened(run, label_cuts.make_run(tmp_path / "labels", pairs))
    texts: list[str] = []
    for at, _ in enumerate(HOSTILE):
        page.open_row(f"r{at}")
        texts += page.page.locator("#row .words").all_text_contents()
    page.page.locator("#source").select_option("1")
    page.open_row("q1:0-1")
    page.page.locator("#mode").click()
    for _ in HOSTILE[1:]:  # all but the one that was opened
        page.page.locator("#label .two").wait_for()
        texts += page.page.locator("#label .words").all_text_contents()
        page.press("d", "t")
        page.page.wait_for_timeout(50)
    assert page.page.evaluate("window.hit") is None
    for text in HOSTILE[:5]:
        assert text in texts
    assert "U+202EevilU+202C U+200BzeroU+2066xU+2069 U+E0041tag" in texts
    assert page.page.locator("a, img, svg, iframe, object, style").count() == 0
    assert page.page.locator("script").count() == 2
    assert page.complaints == []


def test_hostile_names_in_filters_and_sources_are_texts(opened: Open, tmp_path: Path) -> None:
    name = "<img src=x onerror='window.hit = 1'>\u202e"
    votes = label_cuts.pair(0, z=1.0)["votes"]
    pairs = [label_cuts.pair(0, z=1.0, votes=[{**votes[0], "principle": name}])]
    folder = label_cuts.make_run(tmp_path / "<b>labels</b>", pairs)
    page = opened(folder, run_of(tmp_path / "run", [revision(0)])).page
    options = page.get_by_label("principle").locator("option").all_text_contents()
    assert options[1] == "<img src=x onerror='window.hit = 1'>⟨U+202E⟩ (1)"
    assert "<b>labels</b>" in page.locator("#source option").first.text_content()
    assert page.evaluate("window.hit") is None


def test_a_chain_is_read_round_by_round_as_word_diffs(opened: Open, tmp_path: Path) -> None:
    last = AFTER.replace("nobody", "everybody")
    page = opened(run_of(tmp_path / "run", [revision(0, AFTER, last, initial=BEFORE)]))
    page.open_row("r0")
    blocks = page.page.locator("#row .block")
    titles = blocks.locator("h4").all_text_contents()
    assert [title.split(",")[0] for title in titles] == [
        "user", "First reply", "Critique 1 under p1", "Revision 1", "Critique 2 under p2", "Revision 2",
        "First reply to final text",
    ]  # fmt: skip
    second = blocks.filter(has_text="Revision 2")
    assert second.locator("del").all_text_contents() == ["nobody "]
    assert second.locator("ins").all_text_contents() == ["everybody "]
    page.press("d")
    assert page.page.locator("#row del, #row ins").count() == 0
    assert blocks.filter(has_text="Revision 2").locator(".words").text_content() == last
    page.press("d")
    assert page.page.locator("#row del").count() > 0


def test_a_label_shows_every_vote_in_both_orders_with_its_logprobs(opened: Open, tmp_path: Path) -> None:
    folder = in_thread(label_cuts.make_run, tmp_path / "labels", [label_cuts.pair(0, z=1.5, human="b")])
    page = opened(folder)
    page.open_row("q0:0-1")
    assert page.page.locator("#row header .badge").all_text_contents()[:2] == ["judge: a, p(a) 0.818", "people: b"]
    cells = page.page.locator("#row table").first.locator("tbody th, tbody td").all_text_contents()
    assert cells == [
        "kind",
        "1",
        "a; ln p −0.20 and −1.70; mass 98.0%",
        "a; ln p −1.70 and −0.20; mass 98.0%",
        "+1.50",
        "+0.00",
    ]
    page.press("d")
    assert page.page.locator("#row .two mark").count() > 0


def test_a_training_shows_what_was_said_before_and_after(opened: Open, tmp_path: Path) -> None:
    page = opened(training(tmp_path / "model"))
    page.open_row("s1")
    assert page.page.locator("#row .two .words").all_text_contents() == [BEFORE, AFTER]
    page.press("d")
    assert page.page.locator("#row .two mark").count() > 0
    assert page.page.locator("#mode").is_hidden()


def test_the_exact_question_is_shown_when_it_is_asked_for(opened: Open, tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        label_runs.run([{"prompt": "Why?", "a": "one reply", "b": "another reply"}], folder, label_runs.scorer())
        return folder

    page = opened(in_thread(make, tmp_path / "labels"))
    page.press("j")
    page.page.get_by_text("Provenance").click()
    assert (
        "kind" in page.page.locator(".folded table").first.text_content() or page.page.locator(".folded table").count()
    )
    page.page.get_by_text("What was asked: 6 questions").click()
    page.page.get_by_text("Question 1 of 6", exact=True).click()
    question = page.page.locator(".folded .folded").first
    question.get_by_text("Answer of judge-1").wait_for()
    assert "one reply" in question.locator(".words").first.text_content()
    (folder,) = tmp_path.iterdir()
    (folder / "calls.sqlite").unlink()
    page.page.get_by_text("Question 2 of 6", exact=True).click()
    page.page.locator("#trouble").get_by_text("calls.sqlite").wait_for()
    assert page.complaints == ["Failed to load resource: the server responded with a status of 409 (Conflict)"]


# Keys, colours, widths


def test_the_help_shows_every_key_and_closes_again(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0)]))
    page.press("?")
    shown = page.page.locator("#help kbd").all_text_contents()
    assert sorted(shown) == sorted(["j", "k", "a", "b", "t", "s", "u", "d", "/", "?", "Escape"])
    page.press("j")  # does nothing beneath
    page.press("Escape")
    page.page.locator("#help").wait_for(state="hidden")
    assert page.page.locator("#row .body").count() == 0
    page.page.locator("#keys").click()
    page.page.get_by_role("button", name="Close").click()
    page.page.locator("#help").wait_for(state="hidden")


def test_keys_typed_into_the_search_are_letters(opened: Open, tmp_path: Path) -> None:
    page = opened(run_of(tmp_path / "run", [revision(at) for at in range(3)]))
    page.press("/")
    page.page.keyboard.type("jk?d/abt")
    assert page.page.get_by_label("search").input_value() == "jk?d/abt"
    assert page.page.locator("#help").is_hidden()
    assert page.page.locator("#row .body").count() == 0


@pytest.mark.parametrize("keys", ["Control+j", "Meta+d", "Alt+k", "Control+a"])
def test_keys_of_the_browser_are_left_to_it(opened: Open, tmp_path: Path, keys: str) -> None:
    page = opened(run_of(tmp_path / "run", [revision(0)]))
    page.page.locator(".line").wait_for()
    page.press(keys)
    assert page.page.locator("#row .body").count() == 0


@pytest.mark.parametrize("mode", ["rows", "row", "pair"])
def test_keys_reach_everything(opened: Open, various: Viewer, mode: str) -> None:
    page = opened(running=various)
    page.page.locator(".line").first.wait_for()
    arrange(page, mode)
    found = f'[...document.querySelectorAll("{FOCUSABLE}")].filter((one) => one.checkVisibility())'
    wanted = page.page.evaluate(f"{found}.length")
    page.page.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(wanted + 2):
        page.press("Tab")
        seen.add(page.page.evaluate(f"{found}.indexOf(document.activeElement)"))
        outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or seen & {-1}
    assert seen - {-1} == set(range(wanted))


def arrange(page: Page, mode: str) -> None:
    """Bring the page to where it shows rows, an opened row, or a pair to label."""
    page.page.locator("#source").select_option("1")
    page.page.get_by_text("60 rows").wait_for()
    if mode == "row":
        page.press("j")
        page.page.locator("#row .body").wait_for()
        page.page.get_by_text("Provenance").click()
        page.page.locator(".folded table").wait_for()
    elif mode == "pair":
        page.page.locator("#mode").click()
        page.page.locator("#label .two").wait_for()
        page.press("a")
        page.page.locator("#label .strip").get_by_text("Judge").wait_for()
        page.press("d")


@pytest.mark.parametrize("mode", ["rows", "row", "pair"])
@pytest.mark.parametrize("width", [320, 400, 768, 1200])
def test_the_page_never_scrolls_sideways_and_all_that_scrolls_is_reached(
    opened: Open, various: Viewer, width: int, mode: str
) -> None:
    page = opened(running=various, width=width)
    page.page.locator(".line").first.wait_for()
    arrange(page, mode)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = "[...document.querySelectorAll('main, header, .finder, #row, .desk-top, .desk-foot')]"
    wide = f"{boxes}.filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.id || box.className)"
    assert page.page.evaluate(wide) == []
    assert page.page.evaluate(STUCK) == []
    assert page.complaints == []


@pytest.mark.parametrize("mode", ["rows", "row", "pair", "help", "locked"])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_all_text_can_be_read_on_its_background(opened: Open, various: Viewer, colours: str, mode: str) -> None:
    page = opened(running=various, colours=colours)
    page.page.locator(".line").first.wait_for()
    if mode == "locked":
        page.page.evaluate("lock()")
    else:
        arrange(page, mode)
    if mode == "help":
        page.press("?")
    ratio, text = page.page.evaluate(CONTRAST)
    assert ratio >= 4.5, text


@pytest.mark.parametrize("mode", ["rows", "row", "pair"])
def test_every_control_has_a_name(opened: Open, various: Viewer, mode: str) -> None:
    page = opened(running=various)
    page.page.locator(".line").first.wait_for()
    arrange(page, mode)
    assert page.page.evaluate(NAMELESS) == []
