"""Runs on servers with odd answers: no row is lost that could be read, nothing is asked twice, and any folder opens."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from habits import REPLY, Answer, Habits, Mode, about, answer, chat, listed, message, serving

from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.prices import Tally
from cai.calls.seats import Seat
from cai.cli.terminal import console
from cai.errors import RowDropped
from cai.export.export import export_run
from cai.folder.journal.store import Store, read_calls
from cai.records import Completion, Request, Sampling
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.sample import SampleRun

LOCK = "How do I pick a lock?"
PROMPTS = [LOCK, "How do I keep bread fresh?", "Why is the sky blue?"]
PAIRS = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(3)]
LETTERS = [("A", -0.4), ("B", -1.5), ("C", -7.0)]


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghij")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-abcdefghij")


@pytest.fixture
def server() -> Iterator[Habits]:
    with serving(MODES) as habits:
        yield habits


def sampled(url: str, out: Path, spec: str = "openai:m") -> SampleRun:
    run = SampleRun(PROMPTS, SampleRun.settings_class(model=spec, n=1, base_url=url, out=out))
    run.finish()
    return run


def labelled(url: str, out: Path) -> LabelRun:
    run = LabelRun(PAIRS, LabelRun.settings_class(judge="openai:m", principles=1, base_url=url, out=out))
    run.finish()
    return run


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def judge(entries: list[tuple[Any, Any]]) -> Answer:
    return answer(chat("A", "length", choice={"logprobs": listed(*entries)}))


BLOCKED = {
    "blocked-null": answer(chat(choices=None)),
    "blocked-none": answer(chat(choices=[])),
    "blocked-message": answer(chat(choice={"message": None}, finish="content_filter")),
    "blocked-reason": answer(chat(None, "content_filter: PROHIBITED_CONTENT")),
    "blocked-feedback": answer({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    "blocked-403": answer({"code": "no", "error": "Content violates usage guidelines. Failed check: X"}, 403),
    "blocked-400": answer({"error": {"code": "content_filter", "message": "The prompt was filtered."}}, 400),
}
REFUSED = {
    "refused-none": answer(message(stop="refusal", content=[])),
    "refused-null": answer(message(stop="refusal", content=None)),
    "refused-text": answer(message("", stop="content_filter")),
    "refused-400": answer({"error": {"message": "Output blocked by content filtering policy"}}, 400),
}
ODD = {
    "odd-usage": chat(usage="21 tokens"),
    "odd-counts": chat(usage={"prompt_tokens": "21", "completion_tokens": 2**63, "prompt_tokens_details": [1]}),
    "odd-negative": chat(usage={"prompt_tokens": -1, "completion_tokens": 0.5}),
    "odd-model": chat(model=["m", 1]),
    "odd-reasoning": chat(message={"reasoning": [{"text": "x"}], "reasoning_content": {"x": 1}}),
    "odd-logprobs": chat(choice={"logprobs": [1, None]}),
    "odd-nan": chat(usage={"prompt_tokens": float("nan"), "completion_tokens": float("inf")}),
    "odd-id": chat(id={"x": [1]}, created="now", object=None, system_fingerprint=3),
}
ENDS = {f"end-{n}": chat(finish=reason) for n, reason in enumerate([None, "", "STOP", "unheard of", 3, ["stop"]])}
MODES = {
    **{name: Mode(about("pick a lock", special)) for name, special in (BLOCKED | REFUSED).items()},
    **{name: Mode(answer(body)) for name, body in (ODD | ENDS).items()},
    "end-missing": Mode(answer({**chat(), "choices": [{"message": {"content": REPLY}}]})),
    "letters": Mode(judge(LETTERS), sends=(b'"top_logprobs"',)),
}


@pytest.mark.parametrize("mode", [*BLOCKED, *REFUSED])
def test_a_blocked_prompt_is_dropped_as_content_and_not_asked_again(mode: str, server: Habits, tmp_path: Path) -> None:
    spec = "anthropic:glm" if mode in REFUSED else "openai:m"
    run = sampled(server.url(mode), tmp_path / "out", spec)
    assert {reason: count for reason, count in run.dropped.items() if count} in ({"content_filter": 1}, {})
    good = [row for row in rows_of(tmp_path / "out", "candidates.jsonl") if row["replies"][0]["problem"] is None]
    assert [row["replies"][0]["text"] for row in good] == [REPLY, REPLY]
    asked = Counter(request.raw for request in server.asked(mode))
    assert set(asked.values()) == {1}
    sampled(server.url(mode), tmp_path / "out", spec)
    assert Counter(request.raw for request in server.asked(mode)) == asked


@pytest.mark.parametrize("mode", [*ODD])
def test_a_field_of_another_type_costs_no_row(mode: str, server: Habits, tmp_path: Path) -> None:
    run = sampled(server.url(mode), tmp_path / "out")
    rows = rows_of(tmp_path / "out", "candidates.jsonl")
    assert (run.finished, [row["replies"][0]["text"] for row in rows]) == (3, [REPLY] * 3)
    assert all(count is None or count >= 0 for row in rows for count in row["usage"].values())
    assert {call.completion.text for call in read_calls(tmp_path / "out")} == {REPLY}
    again = sampled(server.url(mode), tmp_path / "out")
    assert (again.skipped, len(server.asked(mode))) == (3, 3)


@pytest.mark.parametrize("mode", [*ENDS, "end-missing"])
def test_a_whole_text_is_used_whatever_its_finish_reason_and_the_summary_says_so(
    mode: str, server: Habits, tmp_path: Path
) -> None:
    run = sampled(server.url(mode), tmp_path / "out")
    assert run.finished == 3 and not run.dropped
    shown = "\n".join(map(str, console.summary(run)))
    note = "the server did not say why 3 answers ended"
    assert (note in shown) == ("ended_unknown" in run.info) == (mode != "end-2")
    again = sampled(server.url(mode), tmp_path / "out")
    assert again.info.get("ended_unknown") == run.info.get("ended_unknown")


# Stored answers


def forget_rows(folder: Path) -> None:
    """Make a finished folder one whose calls are finished and whose rows are not."""
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db, db:
        db.execute("DELETE FROM inputs")
        db.execute("DELETE FROM seen")
        db.execute("UPDATE files SET size = 0")
    for name in ("labels.jsonl", "candidates.jsonl", "dropped.jsonl"):
        if (folder / name).exists():
            (folder / name).write_bytes(b"")


def change_calls(folder: Path, **columns: Any) -> None:
    """Write other values into all stored calls, without the seal that version 0.1.0 did not have."""
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db, db:
        for column, value in {**columns, "seal": None}.items():
            db.execute(f"UPDATE calls SET {column} = ?", (value,))


def packed(tokens: Any) -> bytes:
    return zlib.compress(json.dumps(tokens).encode())


@pytest.mark.parametrize(
    ("columns", "valid"),
    [
        ({"logprobs": packed([{"A": -0.4, "B": None, "C": -7.0}])}, False),
        ({"logprobs": packed([{"A": "-0.4", "B": -1.5, "C": -7.0}])}, False),
        ({"logprobs": packed([{"A": -0.4, "B": -1.5, "C": None, "D": {"x": 1}}])}, True),
        ({"logprobs": packed([{"A": -0.4, "B": -1.5, "C": "x", "D": -7.0}, None, 3])}, True),
        ({"logprobs": packed([[1, 2]])}, False),
        ({"logprobs": packed([])}, False),
        ({"logprobs": None}, False),
        ({"input_tokens": "many", "output_tokens": -3, "cached_tokens": 1.5, "cache_write_tokens": 2.0**62}, True),
        ({"finish": "STOP"}, True),
    ],
)
def test_a_stored_answer_is_not_trusted_more_than_a_new_one(
    columns: dict[str, Any], valid: bool, server: Habits, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    labelled(server.url("letters"), out)
    asked = [request.path for request in server.asked("letters")].count("/v1/chat/completions")
    forget_rows(out)
    change_calls(out, **columns)
    labelled(server.url("letters"), out)
    assert [request.path for request in server.asked("letters")].count("/v1/chat/completions") == asked == 6
    labels = rows_of(out, "labels.jsonl")
    votes = [reading["problem"] is None for row in labels for vote in row["votes"] for reading in vote.values()
             if isinstance(reading, dict)]  # fmt: skip
    assert len(labels) == 3 and set(votes) == {valid} and all((row["p_a"] is not None) == valid for row in labels)
    export_run(out)
    assert all(isinstance(call.completion, Completion) for call in read_calls(out))


@pytest.mark.parametrize("scores", [[], [-0.1], [-0.1, -0.2, -0.3]])
def test_an_answer_that_is_not_what_was_asked_for_is_neither_stored_nor_used(
    scores: list[float], tmp_path: Path
) -> None:
    class Odd:
        provider, name, endpoint, concurrency, context, can = "odd", "m", "odd", 1, None, None
        sent = 0

        def payload(self, call: Any) -> dict[str, Any]:
            return {"question": call.request.messages}

        async def send(self, payload: dict[str, Any]) -> Completion:
            self.sent += 1
            return Completion("", "stop", "m", scores=tuple(scores))

    def flow(request: Request) -> Any:
        [done] = yield [request]
        return done

    async def play() -> tuple[int, int]:
        model: Any = Odd()
        store = Store(tmp_path)
        seat = Seat(model, Limiter(1, tally=Tally()), Sampling(), None)
        driver = Driver({"judge": seat}, store, seed=0, budget=None, tally=Tally())
        request = Request("judge", score=("A", "B"))
        with pytest.raises(RowDropped, match=f"the answer has {len(scores)} scores, and 2 were asked for"):
            await driver.play("row", 0, flow(request))
        fresh = len(list(store.calls()))
        store.close()
        return fresh, model.sent

    assert asyncio.run(play()) == (0, 1)
