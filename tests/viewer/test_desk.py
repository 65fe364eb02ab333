"""Labelling in a browser: by keyboard, blind until the vote, each vote on disk before the page goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import label_cuts
import label_runs
import pytest
from browsers import Opened
from terminal import process
from viewers import Viewer, viewer

pytestmark = pytest.mark.browser

PAIRS = [{"id": f"p{n}", "prompt": f"Question {n}?", "a": f"reply {n} one", "b": f"reply {n} two"} for n in range(40)]


class Desk(Opened):
    """The page of a viewer that labels."""

    def __init__(self, page: Any, running: Viewer) -> None:
        self.viewer = running
        self.bodies: list[tuple[str, str]] = []  # questions and answers
        page.on("response", self._answered)
        super().__init__(page, running.address, f"http://127.0.0.1:{running.port}/")
        page.locator("#label .body").wait_for()

    def _answered(self, response: Any) -> None:
        if "/api/" in response.url:
            self.bodies.append((response.url.rsplit("/", 1)[1], response.text()))

    def pair(self) -> tuple[str, str, str]:
        """The last turn of the prompt, and the two replies."""
        words = self.page.locator("#label .words").all_text_contents()
        return words[-3], words[-2], words[-1]

    def vote(self, key: str) -> None:
        """Press a key, and wait until another pair is there."""
        before = self.pair()
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(20)
        for _ in range(200):
            if self.page.locator("#label .empty").count() or self.pair() != before:
                return
            self.page.wait_for_timeout(20)
        raise AssertionError("the page stays at this pair")


Open = Callable[..., Desk]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    with ExitStack() as stack:

        def make(*words: Path | str) -> Desk:
            running = stack.enter_context(viewer(*words))
            context = chromium.new_context(viewport={"width": 1200, "height": 800})
            stack.callback(context.close)
            return Desk(context.new_page(), running)

        yield make


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label run of 40 pairs; its votes go elsewhere."""
    folder = tmp_path_factory.mktemp("runs") / "labels"
    with ThreadPoolExecutor(1) as threads:  # this one may have the event loop of the browser
        threads.submit(label_runs.run, PAIRS, folder, label_runs.scorer()).result()
    return folder


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return tmp_path / "gold.jsonl"


def lines(gold: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gold.read_text().splitlines()]


def test_thirty_pairs_labelled_by_keyboard_calibrate_a_judge(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "30", "--annotator", "ann", "--gold", gold)
    page = desk.page
    page.get_by_text("0 of 30 labels: 30 more before a threshold can be certified").wait_for()
    for number in range(30):
        _, first, second = desk.pair()
        better = "a" if first.endswith("one") else "b"
        desk.vote("t" if number % 10 == 9 else better)
        assert {first, second} == {lines(gold)[-1]["a"], lines(gold)[-1]["b"]}
    page.get_by_text("30 labels, enough to try a certificate: cai judge calibrate").wait_for()
    page.get_by_text("this session 30 of 30, done").wait_for()
    votes = lines(gold)
    assert len(votes) == 30 and len({vote["key"] for vote in votes}) == 30
    assert [vote["human"] for vote in votes].count("tie") == 3
    assert all(vote[vote["human"]].endswith("one") for vote in votes if vote["human"] != "tie")
    assert {vote["shown_first"] for vote in votes} == {"a", "b"}
    kept = {(vote["blind"], vote["queue"], vote["annotator"]) for vote in votes}
    assert kept == {(True, "random", "ann")}
    assert all(0 <= vote["seconds"] < 300 for vote in votes)
    done = process("judge", "calibrate", str(judged), "--gold", str(gold), "--json", stdout=-1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 30, done.stdout
    assert desk.complaints == []


def test_nothing_of_a_verdict_is_sent_or_shown_before_the_vote(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    text = desk.page.locator("body").inner_text()
    for word in ("Judge:", "confidence", "a_from", "sample", "judge-1"):
        assert word not in text
    for question, body in desk.bodies:
        assert question in ("state", "rows", "pair")
        for word in ('"votes"', '"z"', '"p_a"', '"human"', '"rewards"'):
            assert word not in body, question
    desk.vote("b")
    desk.page.locator(".strip").get_by_text("You: second. Judge: ").wait_for()
    desk.page.locator(".progress").get_by_text("the judge agrees on").wait_for()


def test_a_vote_can_be_looked_at_with_everything_shown(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    page = desk.page
    asked = [desk.pair()]
    desk.vote("a")
    asked.append(desk.pair())
    desk.vote("b")
    waiting = desk.pair()
    page.keyboard.press("k")
    page.get_by_text("1 back, with everything shown. You: second.").wait_for()
    assert page.locator("#label table").count() == 1
    assert asked[1][0] in page.locator("#label .words").all_text_contents()
    for key in "abts":
        page.keyboard.press(key)  # no vote on what is shown
    page.keyboard.press("k")
    page.get_by_text("2 back, with everything shown. You: first.").wait_for()
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.get_by_text("1 back").wait_for()
    page.keyboard.press("j")
    page.locator("#label h4").get_by_text("First", exact=True).wait_for()
    assert desk.pair() == waiting
    assert len(lines(gold)) == 2


def test_a_vote_is_taken_back_and_cast_again(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    pair = desk.pair()
    desk.vote("a")
    desk.page.keyboard.press("u")
    desk.page.get_by_text("You have seen the verdict on this pair").wait_for()
    assert desk.pair() == pair
    desk.vote("b")
    assert [vote["human"] is None for vote in lines(gold)] == [False, True, False]
    assert [vote["blind"] for vote in lines(gold)][::2] == [True, False]
    for _ in range(3):
        desk.page.keyboard.press("u")
        desk.page.wait_for_timeout(200)
    desk.page.get_by_text("There is no vote of yours to take back").wait_for()


def test_a_skipped_pair_shows_no_verdict_and_stays_blind(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    desk.vote("s")
    desk.page.locator(".strip").get_by_text("Skipped").wait_for()
    assert "Judge" not in desk.page.locator("#label").inner_text()
    assert lines(gold)[0]["skipped"] is True
    desk.page.get_by_text("1 skipped").wait_for()


def test_the_two_queues_say_what_they_are_good_for(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold, "--queue", "uncertain")
    page = desk.page
    queue = page.locator(".desk-head select")
    assert queue.locator("option:checked").text_content() == "least certain first: to read, certifies nothing"
    least = min(label_runs.rows_of(judged), key=lambda row: row["confidence"])
    assert desk.pair()[0] == least["prompt"][-1]["content"]
    desk.vote("a")
    assert lines(gold)[0]["queue"] == "uncertain"
    queue.select_option("random")
    page.get_by_text("0 of 30 labels").wait_for()
    desk.vote("a")
    assert [vote["queue"] for vote in lines(gold)] == ["uncertain", "random"]
    page.get_by_text("1 of 30 labels").wait_for()


def test_the_session_goes_on_after_a_look_at_the_rows(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    desk.vote("a")
    waiting = desk.pair()
    desk.page.keyboard.press("Escape")
    desk.page.get_by_text("40 rows").wait_for()
    desk.page.locator("#mode").click()
    desk.page.get_by_text("this session 1 of 5").wait_for()
    assert desk.pair() == waiting
    desk.page.keyboard.press("k")
    desk.page.get_by_text("1 back, with everything shown. You: first.").wait_for()


def test_a_word_diff_marks_both_replies_alike(opened: Open, tmp_path: Path) -> None:
    texts = {"a": "Ask a locksmith to open the door, and wait.", "b": "Ask a neighbour to open the door, and wait."}
    desk = opened(label_cuts.make_run(tmp_path / "labels", [label_cuts.pair(0, z=1.0, **texts)]), "--annotate", "1")
    assert desk.page.locator("#label mark").count() == 0
    desk.page.keyboard.press("d")
    assert sorted(desk.page.locator("#label mark").all_text_contents()) == ["locksmith ", "neighbour "]
    assert desk.page.locator("#label ins, #label del").count() == 0
    desk.page.keyboard.press("d")
    assert desk.page.locator("#label mark").count() == 0


def test_keys_pressed_faster_than_votes_are_written_are_no_votes_on_pairs_unseen(
    opened: Open, judged: Path, gold: Path
) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    shown = []
    desk.page.on("request", lambda request: shown.append(request.url.rsplit("/", 1)[1]))
    for _ in range(20):
        desk.page.keyboard.press("a", delay=0)
    desk.page.wait_for_timeout(500)
    votes = lines(gold)
    assert 1 <= len(votes) == shown.count("vote") <= 20
    asked = [json.loads(body)["pair"]["key"] for question, body in desk.bodies if question == "pair"]
    assert [vote["key"] for vote in votes] == asked[: len(votes)]


def test_a_key_held_down_is_one_vote(opened: Open, judged: Path, gold: Path) -> None:
    desk = opened(judged, "--annotate", "5", "--gold", gold)
    for _ in range(5):
        desk.page.keyboard.down("a")  # again without `up`: repeats
        desk.page.wait_for_timeout(100)
    desk.page.keyboard.up("a")
    assert len(lines(gold)) == 1


def test_a_vote_that_cannot_be_written_leaves_the_pair_where_it_is(opened: Open, judged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "votes"
    folder.mkdir()
    desk = opened(judged, "--annotate", "5", "--gold", folder / "gold.jsonl")
    pair = desk.pair()
    folder.rmdir()
    desk.page.keyboard.press("a")
    desk.page.locator("#trouble").get_by_text("gold.jsonl").wait_for()
    assert desk.pair() == pair
    folder.mkdir()
    desk.vote("a")
    desk.page.locator("#trouble").wait_for(state="hidden")
    assert len(lines(folder / "gold.jsonl")) == 1


def test_two_people_in_two_browsers_label_into_one_file(opened: Open, judged: Path, gold: Path) -> None:
    desks = [opened(judged, "--annotate", "5", "--gold", gold, "--annotator", who) for who in ("ann", "bob")]
    for _ in range(5):
        for desk in desks:
            desk.vote("a")
    assert [vote["annotator"] for vote in lines(gold)] == ["ann", "bob"] * 5
    desks[1].page.get_by_text("ann and bob agree on").wait_for()
    assert "5 of 30 labels" in desks[1].page.locator(".progress").inner_text()


def test_the_run_that_has_pairs_is_the_one_that_is_labelled(opened: Open, judged: Path, gold: Path) -> None:
    model = gold.parent / "model"
    model.mkdir()
    (model / "training.json").write_text("{}")
    (model / "samples.jsonl").write_text('{"id": "s", "prompt": "Q", "before": "x", "after": "y", "most_tokens": 9}\n')
    desk = opened(model, judged, "--annotate", "5", "--gold", gold)
    assert desk.page.locator("#source").input_value() == "1"
    desk.vote("a")
    assert len(lines(gold)) == 1
    desk.page.keyboard.press("Escape")
    desk.page.get_by_text("40 rows").wait_for()
    desk.page.locator("#source").select_option("0")
    desk.page.locator("#mode").wait_for(state="hidden")


def test_when_every_pair_has_a_label_the_page_says_so(opened: Open, tmp_path: Path) -> None:
    desk = opened(label_cuts.make_run(tmp_path / "labels", [label_cuts.pair(0, z=1.0)]), "--annotate", "1")
    desk.vote("t")
    desk.page.get_by_text("No pair is left in this queue").wait_for()
    desk.page.keyboard.press("a")
    desk.page.keyboard.press("Escape")
    desk.page.locator(".line").wait_for()
    assert desk.complaints == []
