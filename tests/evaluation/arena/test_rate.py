"""Runs in which a model rates single replies: every reply has one end, and nothing is asked twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from players import Player, digits

from cai.calls.seats import Flow
from cai.engine.levels import Grade, read_levels
from cai.engine.readability import CHECKED
from cai.errors import BudgetReached, CallRejected, RunError, Unreadable
from cai.evaluation.arena.rate import Rater, RateRun, entries_of
from cai.records import Candidate, Candidates, Completion, Entry, Message, Place, Rating, Request, Usage
from cai.runs.plan import estimate
from cai.runs.settings import RunSettings

FIVE = {str(level): float(level) for level in range(1, 6)}
NAMES = ("base", "tuned")


class Scorer(Rater):
    """Asks for the scores of five levels."""

    protocol = "score"

    def __init__(self, model: Player) -> None:
        self.model, self.binding = model, {"judge": f"recorded:{model.name}", "protocol": "score"}

    def ask(self, entry: Entry) -> Flow[Grade]:
        """One question."""
        turn = Message(role="user", content=f"{entry.asked}: {entry.reply}")
        [answer] = yield [Request("judge", (turn,), score=tuple(FIVE), max_tokens=1, temperature=0.0)]
        return read_levels(answer, FIVE)

    def check(self) -> None:
        """It can be asked."""


def row(number: int, *replies: str, n: int = 1) -> Candidates:
    drawn = [Candidate(text=text, model="m-1", sample=place % n) for place, text in enumerate(replies)]
    prompt = (Message(role="user", content=f"Question {number}?"),)
    return Candidates(
        id=f"q{number}", position=number, prompt=prompt, replies=tuple(drawn), seed=0, usage=Usage(), calls=()
    )


ROWS = [row(n, f"No {n}.", f"Yes {n}.") for n in range(30)]


def peaked(payload: dict[str, Any]) -> Completion:
    """Nine tenths on one level, which depends on the question."""
    best = digits(payload["messages"]) % 5
    shares = [0.9 if level == best else 0.01 for level in range(5)]
    return Completion("", "length", "judge-1", input_tokens=9, output_tokens=1, scores=tuple(map(math.log, shares)))


def mute(payload: dict[str, Any]) -> Completion:
    return Completion("", "length", "judge-1", scores=(-4.0,) * 5)


def places(rows: list[Candidates], *asked: str) -> Callable[[], Iterator[Place]]:
    return lambda: (place for each in rows for place in entries_of(each, NAMES, asked or ("kind",)))


def setup(out: Path, judge: Player, rows: list[Candidates] = ROWS, *asked: str, **given: Any) -> RateRun:
    return RateRun(Scorer(judge), RunSettings(out=out, **given), places(rows, *asked), {"rows": "of a test"})


def judge(answer: Callable[[dict[str, Any]], Completion] = peaked) -> Player:
    return Player(answer, "judge", scoring=True)


def ratings(out: Path) -> list[Rating]:
    rows = [Rating.model_validate_json(line) for line in (out / "ratings.jsonl").read_text().splitlines()]
    return sorted(rows, key=lambda rating: rating.position)


def test_every_usable_reply_is_rated_once_under_everything_that_is_asked(tmp_path: Path) -> None:
    several = row(0, "a", "b", "c", "d", n=2)
    cut = several.replies[2].model_copy(update={"problem": "truncated"})
    several = several.model_copy(update={"replies": (*several.replies[:2], cut, several.replies[3])})
    player = judge()
    made = setup(tmp_path, player, [several], "kind", "brief")
    made.finish()
    rows = ratings(tmp_path)
    assert [(each.contestant, each.sample, each.reply, each.asked) for each in rows] == [
        *(("base", 0, "a", asked) for asked in ("kind", "brief")),
        *(("base", 1, "b", asked) for asked in ("kind", "brief")),
        *(("tuned", 1, "d", asked) for asked in ("kind", "brief")),
    ]
    assert len({each.id for each in rows}) == made.finished == sum(player.asked.values()) == 6
    first = rows[0]
    assert (first.prompt_id, first.model, first.models) == ("q0", "m-1", {"judge": "judge-1"})
    assert first.mass == pytest.approx(0.94) and first.value is not None and 1 <= first.value <= 5
    assert first.usage.input_tokens == 9 and len(first.calls) == 1


def test_equal_replies_of_two_contestants_are_two_rows_and_one_call(tmp_path: Path) -> None:
    player = judge()
    setup(tmp_path, player, [row(0, "Same.", "Same.")]).finish()
    one, two = ratings(tmp_path)
    assert (one.contestant, two.contestant) == NAMES and one.value == two.value
    assert sum(player.asked.values()) == 1


def test_a_run_is_resumed_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    def fails(payload: dict[str, Any]) -> Completion:
        if "Yes 7." in payload["messages"][0]["content"]:
            raise CallRejected("model_error", "the server said no")
        return peaked(payload)

    made = setup(tmp_path / "a", judge(fails), concurrency=1)
    made.finish()
    assert (made.finished, made.dropped) == (59, {"model_error": 1})
    player = judge()
    made = setup(tmp_path / "a", player)
    assert estimate(made).calls == 1
    made.finish()
    assert (made.finished, made.skipped, sum(player.asked.values())) == (1, 59, 1)
    setup(tmp_path / "b", judge(), concurrency=16).finish()
    assert ratings(tmp_path / "a") == ratings(tmp_path / "b")


def test_rows_whose_calls_are_kept_are_made_again_without_asking(tmp_path: Path) -> None:
    setup(tmp_path, judge()).finish()
    before = ratings(tmp_path)
    lines = (tmp_path / "ratings.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ratings.jsonl").write_bytes(b"".join(lines[:40]) + lines[40][:30])  # as a kill leaves it
    player = judge()
    setup(tmp_path, player).finish()
    assert ratings(tmp_path) == before and not player.asked


def test_a_plan_counts_one_question_a_reply_and_asks_none(tmp_path: Path) -> None:
    player = judge()
    plan = estimate(setup(tmp_path, player, ROWS, "kind", "brief"))
    assert (plan.calls, plan.most_calls, plan.prompts, plan.unit) == (120, 120, 120, "ratings")
    assert not player.asked and not (tmp_path / "ratings.jsonl").exists()


def test_a_model_that_cannot_be_read_ends_the_run_after_the_first_ratings(tmp_path: Path) -> None:
    player = judge(mute)
    with pytest.raises(Unreadable, match=r"not answer with a level: median letter mass 0\.09 of the first 20 ratings"):
        setup(tmp_path, player, concurrency=8).finish()
    assert sum(player.asked.values()) == CHECKED == len(ratings(tmp_path))
    assert all(each.value is None and "of the probability" in str(each.problem) for each in ratings(tmp_path))
    again = judge(mute)
    with pytest.raises(Unreadable):  # the answers are there
        setup(tmp_path, again).finish()
    assert not again.asked


def test_an_invalid_rating_is_a_row_that_says_why(tmp_path: Path) -> None:
    player = judge(lambda payload: mute(payload) if "No 3." in payload["messages"][0]["content"] else peaked(payload))
    setup(tmp_path, player).finish()
    [invalid] = [each for each in ratings(tmp_path) if each.value is None]
    assert invalid.reply == "No 3." and invalid.problem == "the levels have 0.09 of the probability"


def test_replies_that_changed_are_refused(tmp_path: Path) -> None:
    setup(tmp_path, judge()).finish()
    with pytest.raises(RunError, match="the input changed"):
        setup(tmp_path, judge(), [row(0, "Another.", "Yes 0."), *ROWS[1:]]).finish()


def test_another_rater_is_another_run(tmp_path: Path) -> None:
    setup(tmp_path, judge()).finish()
    with pytest.raises(RunError, match="is another run: binding"):
        setup(tmp_path, Player(peaked, "other", scoring=True)).finish()


def test_a_cap_holds(tmp_path: Path) -> None:
    player = judge()
    player.provider = "openai"
    made = setup(tmp_path, player, max_cost=0.0005, price="1,1", concurrency=1)
    with pytest.raises(BudgetReached, match="max-cost"):
        made.finish()
    cost = json.loads((tmp_path / "run.json").read_text())["cost_usd"]
    assert 0 < cost <= 0.0005 and 0 < len(ratings(tmp_path)) < 60


def test_entries_of_a_prompt_have_places_of_their_own() -> None:
    rows = [row(number, "a", "b") for number in range(3)]
    found = [place for each in rows for place, _ in entries_of(each, NAMES, ("kind", "brief", "calm"))]
    assert found == sorted(set(found)) and len(found) == 3 * 2 * 3


def test_an_entry_is_named_by_all_that_it_is() -> None:
    [(_, one), *_] = entries_of(row(0, "a", "b"), NAMES, ("kind",))
    assert isinstance(one, Entry) and len(bytes.fromhex(one.key)) == 16
    assert replace(one, id="x").key == one.key
