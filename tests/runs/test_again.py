"""What is not asked twice: equal calls of other runs, and answers that were not cut; and drops that are asked again."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, answer, chat
from kept import OLD_FOLDERS, in_order, rows
from tellers import Teller, telling

import cai
from cai.calls.again import RETRIABLE, how_again, reasons_of
from cai.errors import CaiError, RunError, UsageError
from cai.folder.journal.store import Store, read_calls
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import GenerateSettings, SampleSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings

PROMPTS = [f"How do I cook dish {number}?" for number in range(8)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def generate(server: Teller, out: Path, **more: Any) -> GenerateRun:
    """A run as the command line does it."""
    values = {"model": "openai:m", "base_url": server.url, "rounds": 1, "gate": False, "concurrency": 4}
    made = GenerateRun(more.pop("prompts", PROMPTS), make_settings(GenerateSettings, {**values, "out": out, **more}))
    made.finish()
    return made


def sample(server: Teller, out: Path, **more: Any) -> SampleRun:
    values = {"model": "openai:m", "base_url": server.url, "concurrency": 4}
    made = SampleRun(PROMPTS, make_settings(SampleSettings, {**values, "out": out, **more}))
    made.finish()
    return made


def info(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    return content


# Which drops can be tried again


@pytest.mark.parametrize(
    ("words", "reasons"),
    [
        ((), ["model_error"]),
        ("truncated", ["model_error", "truncated"]),
        ("truncated,model_error", ["model_error", "truncated"]),
        (["empty", "too_long, content_filter"], ["model_error", "empty", "too_long", "content_filter"]),
        (RETRIABLE, ["model_error", "truncated", "empty", "content_filter", "too_long"]),
    ],
)
def test_reasons_are_named_once_each_and_a_fault_of_the_server_is_always_among_them(
    words: Any, reasons: list[str]
) -> None:
    assert list(reasons_of(words)) == reasons


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("truncate", "no row is dropped for that; did you mean 'truncated'?"),
        ("model-error", "did you mean 'model_error'?"),
        ("Empty", "did you mean 'empty'?"),
        ("", "--retry '': no row is dropped for that; known: truncated, empty"),
        ("truncated,,empty", "known: truncated, empty"),
        ("all", "no row is dropped for that"),
        ("low_confidence", "decided when rows are cut: see cai export --help; --retry takes truncated, empty, "),
        ("invalid_vote", "decided when rows are cut: see cai export --help; --retry takes truncated, empty, "),
        ("bad_input", "mend the source, and leave bad_input out of --retry"),
        ("duplicate_prompt", "mend the source, and leave duplicate_prompt out of --retry"),
        ("identical", "two replies that are the same make no pair, however often a model is asked: leave it out"),
    ],
)
def test_a_reason_that_asking_again_cannot_do_away_with_is_refused(word: str, advice: str) -> None:
    with pytest.raises(UsageError, match="--retry ") as refusal:
        make_settings(SampleSettings, {"retry": word})
    assert advice in str(refusal.value)


def blank_at_first(words: str, reason: str, times: int) -> Any:
    """A server that answers questions with these words by nothing that can be used, so many times."""
    bodies = {
        "empty": chat(""),
        "content_filter": chat("I", "content_filter"),
        "too_long": {"error": {"message": "maximum context length is 8 tokens", "code": "context_length_exceeded"}},
    }

    def odd(last: str, number: int) -> Answer | None:
        if words not in last or number > times:
            return None
        return answer(bodies[reason], 400 if reason == "too_long" else 200)

    return odd


@pytest.mark.parametrize("reason", ["empty", "content_filter", "too_long"])
@pytest.mark.parametrize("again", [1, 2])
def test_a_drop_is_asked_for_again_if_its_reason_is_named_and_only_then(
    tmp_path: Path, reason: str, again: int
) -> None:
    with telling(odd=blank_at_first("dish 3", reason, again)) as server:
        first = generate(server, tmp_path, price="1,1")
        assert first.dropped == {reason: 1}
        cost = info(tmp_path)["cost_usd"]
        server.forget()
        generate(server, tmp_path, price="1,1")
        assert server.asked == []
        for number in range(2, again + 2):
            generate(server, tmp_path, price="1,1", retry=[reason])
            assert len(server.asked) == (3 if number > again else 1)
            assert cost < (cost := info(tmp_path)["cost_usd"]) or reason == "too_long"
            server.forget()
        generate(server, tmp_path, price="1,1", retry=[reason])
        assert server.asked == [] and info(tmp_path)["dropped"] == {}
    calls = {call.key: call.completion.text for call in read_calls(tmp_path)}
    made = rows(tmp_path / "revisions.jsonl")
    assert len(made) == 8 and all(calls[key] for row in made for key in row["calls"])


def test_the_replies_of_a_sampled_row_that_can_be_used_are_not_asked_for_again(tmp_path: Path) -> None:
    with telling(odd=blank_at_first("dish 3", "empty", 1)) as server:
        sample(server, tmp_path, n=3)
        assert info(tmp_path)["dropped"] == {"empty": 1}
        server.forget()
        sample(server, tmp_path, n=3, retry="empty")
        assert len(server.asked) == 3
    assert len(rows(tmp_path / "candidates.jsonl")) == 8


# Calls of other runs


def law(folder: Path, words: str) -> Path:
    path = folder / f"{words}.yaml"
    path.write_text(f"name: {words}\nversion: 1.0.0\nprinciples: [Choose the {words} reply.]\n")
    return path


def test_a_run_under_another_constitution_asks_only_what_differs(tmp_path: Path) -> None:
    with telling() as server:
        generate(server, tmp_path / "a", constitution=law(tmp_path, "kind"), price="1,1")
        server.forget()
        run = generate(server, tmp_path / "b", constitution=law(tmp_path, "brief"), price="1,1", reuse=[tmp_path / "a"])
        assert len(server.asked) == 16  # critiques and revisions
        assert run.tally.answered == 16
        server.forget()
        generate(server, tmp_path / "c", constitution=law(tmp_path, "brief"), price="1,1")
        assert len(server.asked) == 24
    b, c = info(tmp_path / "b"), info(tmp_path / "c")
    assert (b["reused"], b["usage"]["calls"]) == (8, 16) and "reused" not in c
    assert b["cost_usd"] < c["cost_usd"]
    assert rows_by_id(tmp_path / "b") == rows_by_id(tmp_path / "c")
    own = {call.key for call in read_calls(tmp_path / "b")}
    assert all(set(row["calls"]) <= own for row in rows(tmp_path / "b" / "revisions.jsonl"))
    costs = [call.cost_usd for call in read_calls(tmp_path / "b")]
    assert costs.count(0.0) == 8
    for name in ("sft.jsonl", "dpo.jsonl"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def rows_by_id(folder: Path) -> dict[str, Any]:
    return {row["id"]: row for row in rows(folder / "revisions.jsonl")}


def test_an_equal_run_is_repeated_for_nothing_and_within_no_budget(tmp_path: Path) -> None:
    with telling() as server:
        generate(server, tmp_path / "a", price="1,1")
        server.forget()
        generate(server, tmp_path / "b", price="1,1", max_cost=0, reuse=str(tmp_path / "a"))
        assert server.asked == []
        shutil.rmtree(tmp_path / "a")  # what is reused is copied
        generate(server, tmp_path / "b", price="1,1", max_cost=0)
        assert server.asked == []
        generate(server, tmp_path / "c", price="1,1", max_cost=0, reuse=[tmp_path / "b"])
        assert server.asked == []
    for name in "bc":
        assert info(tmp_path / name)["cost_usd"] == 0
        assert info(tmp_path / name)["reused"] == 24
        assert info(tmp_path / name)["usage"] == {
            "calls": 0, "input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "cache_write_tokens": 0,
        }  # fmt: skip


def test_calls_of_several_runs_and_of_those_inside_them_are_used(tmp_path: Path) -> None:
    with telling() as server:
        sample(server, tmp_path / "a", n=2)
        (tmp_path / "b").mkdir()
        shutil.move(tmp_path / "a", tmp_path / "b" / "inside")
        (tmp_path / "b" / "evaluation.json").write_text("{}")
        generate(server, tmp_path / "c")
        server.forget()
        sample(server, tmp_path / "d", n=3, reuse=[tmp_path / "c", tmp_path / "b"])
        assert len(server.asked) == 8
    assert info(tmp_path / "d")["reused"] == 16


def test_a_plan_counts_no_call_that_another_run_has_and_copies_none(tmp_path: Path) -> None:
    with telling() as server:
        sample(server, tmp_path / "a", n=2)
        server.forget()
        for n, out in ((3, "b"), (2, "b"), (4, "a")):  # a folder that is not there yet, and one that grows
            values = {"model": "openai:m", "base_url": server.url, "out": tmp_path / out, "n": n}
            if out == "b":
                values["reuse"] = tmp_path / "a"
            plan = estimate(SampleRun(PROMPTS, make_settings(SampleSettings, values)))
            assert plan.calls == plan.most_calls == (n - 2) * 8
        values = {"model": "openai:m", "base_url": server.url, "gate": False, "reuse": tmp_path / "a"}
        plan = estimate(GenerateRun(PROMPTS, make_settings(GenerateSettings, {**values, "out": tmp_path / "c"})))
        assert plan.roles["assistant"].calls == 0
        assert server.asked == [] and not (tmp_path / "b").exists()


def test_a_run_that_is_being_written_is_reused_as_far_as_it_is(tmp_path: Path) -> None:
    with telling() as server:
        generate(server, tmp_path / "a", limit=3)
        writing = Store(tmp_path / "a")  # as another process has it
        try:
            server.forget()
            generate(server, tmp_path / "b", reuse=[tmp_path / "a"])
            assert len(server.asked) == 15
        finally:
            writing.close()
    assert not list((tmp_path / "a").glob("*-wal"))


def test_a_run_that_is_reused_is_left_as_it_was(tmp_path: Path) -> None:
    with telling() as server:
        generate(server, tmp_path / "a")
        before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
        generate(server, tmp_path / "b", reuse=[tmp_path / "a"])
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_folder_of_version_0_1_0_is_reused_and_not_changed(tmp_path: Path) -> None:
    shutil.copytree(OLD_FOLDERS / "sample-finished", tmp_path / "a")
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    identity = info(tmp_path / "a")["identity"]
    with telling() as server:
        values = {
            "model": [f"openai:{name.removeprefix('openai:')}" for name in identity["models"]],
            "n": identity["n"],
            "max_tokens": identity["sampling"]["max_tokens"],
            "base_url": server.url,
            "out": tmp_path / "b",
            "reuse": [tmp_path / "a"],
        }
        run = SampleRun(OLD_FOLDERS / "inputs" / "prompts.jsonl", make_settings(SampleSettings, values))
        run.finish()
    assert info(tmp_path / "b")["reused"] > 0
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def damage(folder: Path) -> None:
    db = sqlite3.connect(folder / "calls.sqlite")
    db.execute("UPDATE calls SET reply = reply + 1")
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda a: shutil.rmtree(a), "there is no such folder"),
        (lambda a: a.rename(a.with_name("moved")) and a.write_text("{}"), "it is a file, not a run folder"),
        (lambda a: (a / "run.json").unlink(), "is not a run folder: it has no run.json"),
        (lambda a: (a / "run.json").write_text("{}"), "run.json is damaged"),
        (lambda a: (a / "calls.sqlite").unlink(), "has no calls.sqlite"),
        (lambda a: (a / "calls.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5_000), "calls.sqlite"),
        (lambda a: (a / "calls.sqlite").write_bytes(b"no database at all"), "calls.sqlite"),
        (damage, "it is not as it was"),
    ],
)
def test_a_folder_that_cannot_be_reused_is_named_with_what_is_wrong(tmp_path: Path, spoil: Any, problem: str) -> None:
    with telling() as server:
        generate(server, tmp_path / "a")
        spoil(tmp_path / "a")
        server.forget()
        with pytest.raises(RunError) as refusal:
            generate(server, tmp_path / "b", reuse=[tmp_path / "a"])
        assert server.asked == []
    text = str(refusal.value)
    assert problem in text and f"--reuse {tmp_path / 'a'}" in text and "leave" in text


def test_a_run_does_not_reuse_itself(tmp_path: Path) -> None:
    with telling() as server, pytest.raises(UsageError, match="is the folder of this run,"):
        generate(server, tmp_path / "a", reuse=[tmp_path / "b" / ".." / "a"])


def test_it_is_said_that_answers_of_another_run_hide_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with telling() as server:
        generate(server, tmp_path / "a")
        content = info(tmp_path / "a") | {"secrets_hidden": 2}
        (tmp_path / "a" / "run.json").write_text(json.dumps(content))
        with caplog.at_level(logging.WARNING):
            generate(server, tmp_path / "b", reuse=[tmp_path / "a"])
    assert "in 2 answers a secret was replaced by ***" in caplog.text


def test_the_python_interface_takes_both(tmp_path: Path) -> None:
    with telling() as server:
        common: dict[str, Any] = {"model": "openai:m", "base_url": server.url}
        list(cai.sample(PROMPTS, out=tmp_path / "a", n=1, **common))
        server.forget()
        list(cai.sample(PROMPTS, out=tmp_path / "b", n=2, reuse=tmp_path / "a", retry="empty", **common))
        assert len(server.asked) == 8
        with pytest.raises(CaiError, match="did you mean 'empty'"):
            cai.sample(PROMPTS, retry="emtpy", **common)


# A higher limit


def files_of(folder: Path) -> dict[str, bytes]:
    """What a run is for: its training rows, and its rows and drops without the calls that were made for them."""
    kept = {path.name: path.read_bytes() for path in folder.glob("*.jsonl") if path.stem in ("sft", "dpo", "kto")}
    for name in ("revisions", "candidates", "labels", "dropped"):
        path = folder / f"{name}.jsonl"
        if path.exists():
            lines = [row | {"calls": None} for row in in_order(path)]
            kept[name] = "\n".join(map(json.dumps, lines)).encode()
    return kept


def question(payload: dict[str, Any]) -> str:
    """What was asked, but for the limit."""
    return json.dumps([payload["messages"], payload.get("seed")])


@pytest.mark.parametrize("play", [generate, sample])
def test_a_higher_limit_asks_again_only_what_was_cut_and_what_follows(tmp_path: Path, play: Any) -> None:
    with telling(longest=14) as server:
        play(server, tmp_path / "a", max_tokens=9)
        short = list(read_calls(tmp_path / "a"))
        server.forget()
        play(server, tmp_path / "a", max_tokens=12, retry="truncated")
        asked = len(server.asked)
        server.forget()
        play(server, tmp_path / "b", max_tokens=12)
        at_once = server.asked
    whole = {question(call.request["payload"]) for call in short if call.completion.finish == "stop"}
    new = [payload for payload in at_once if question(payload) not in whole]
    assert 0 < asked == len(new) < len(at_once)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("truncated", "--max-tokens 18 --retry truncated"),
        ("empty", "--retry empty"),
        ("content_filter", "--retry content_filter"),
        ("too_long", "--retry too_long"),
        ("model_error", ""),
        ("duplicate_prompt", ""),
        ("low_confidence", ""),
    ],
)
def test_the_summary_says_how_to_ask_again_for_what_was_dropped(reason: str, words: str) -> None:
    assert how_again(reason, 9) == words
    if words:
        retry = words.split()[-1]
        assert reasons_of(retry)[-1] == retry == reason
