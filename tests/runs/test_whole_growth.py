"""A run that is made in two steps, with kills in the second, is the run made at once, and asks what the first lacks."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forked import fork
from kept import environment, in_order
from seldom import seldom
from tellers import Teller, telling

import cai

WIDTH = 4  # calls in flight
ASSISTANT = ("--model", "openai:writer")
JUDGE = ("-c", "law.yaml", "--judge", "openai:judge")
PLACES = (
    "before an answer is stored", "between the calls and the lines", "in the middle of a line",
    "between the lines and their states", "before a replaced file is in place", "before a replaced file is known",
)  # fmt: skip
LAW = "name: kind\nversion: 1.0.0\nprinciples:\n" + "".join(f"  - Choose reply {n}.\n" for n in range(6))


class Growth(NamedTuple):
    """Commands without `--out`: what comes first, and what a run made at once is asked for. on: what is added later."""

    first: Sequence[str]
    at_once: Sequence[str]
    on: Sequence[str] = ()  # options of the second step alone
    is_copy: bool = False  # whether the second step has a folder of its own


GROWTHS = {
    "truncated rows": Growth(
        ("generate", "prompts.jsonl", *ASSISTANT, "--rounds", "2", "--max-tokens", "9"),
        ("generate", "prompts.jsonl", *ASSISTANT, "--rounds", "2", "--max-tokens", "12"),
        on=("--retry", "truncated,model_error"),
    ),
    "truncated replies": Growth(
        ("sample", "prompts.jsonl", *ASSISTANT, "-n", "2", "--max-tokens", "6"),
        ("sample", "prompts.jsonl", *ASSISTANT, "-n", "4", "--max-tokens", "14"),
        on=("--retry", "truncated"),
    ),
    "the best of more replies that are longer": Growth(
        ("sample", "prompts.jsonl", *ASSISTANT, *JUDGE, "--best-of", "2", "-k", "1", "--max-tokens", "9"),
        ("sample", "prompts.jsonl", *ASSISTANT, *JUDGE, "--best-of", "3", "-k", "2", "--max-tokens", "12"),
        on=("--retry", "truncated"),
    ),
    "all at once": Growth(
        ("generate", "prompts.jsonl", *ASSISTANT, "--limit", "6", "--rounds", "1", "--max-tokens", "9"),
        ("generate", "prompts.jsonl", *ASSISTANT, "--rounds", "3", "--max-tokens", "12"),
        on=("--retry", "truncated"),
    ),
    "calls of another run": Growth(
        ("generate", "prompts.jsonl", *ASSISTANT, "--rounds", "1", "--max-tokens", "9"),
        ("generate", "prompts.jsonl", *ASSISTANT, "--rounds", "2", "--max-tokens", "12", "-c", "law.yaml"),
        on=("--reuse", "first"),
        is_copy=True,
    ),
    "labels of another run": Growth(
        ("label", "pairs.jsonl", *JUDGE, "-k", "2", "--limit", "6"),
        ("label", "pairs.jsonl", *JUDGE, "-k", "4"),
        on=("--reuse", "first"),
        is_copy=True,
    ),
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    prompts = [{"id": f"p{number}", "prompt": f"How do I cook dish {number}?"} for number in range(10)]
    pairs = [{**each, "chosen": f"With {each['id']}.", "rejected": "Never."} for each in prompts]
    for name, records in (("prompts", prompts), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "law.yaml").write_text(LAW)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Teller]:
    with telling(longest=14) as teller:
        yield teller


def play(work: Path, server: Teller, out: str, words: Sequence[str], **end: Any) -> int:
    """Run a command, and return how many questions the server got; one that is to be killed may end before."""
    server.forget()
    more = ("--base-url", server.url, "--concurrency", str(WIDTH), "--out", out)
    ended = fork([*words, *more], work, environment(), **end)
    assert ended.status in ((0, -signal.SIGKILL) if end else (0,)), ended.stderr
    return len(server.asked)


def files_of(folder: Path) -> dict[str, Any]:
    """What a run is for, with its parts: training rows as they are, and rows and drops without the calls they took."""
    kept: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        name = str(path.relative_to(folder))
        if path.stem in ("sft", "dpo", "kto"):
            kept[name] = path.read_bytes()
        else:
            kept[name] = [row | {"calls": None} for row in in_order(path)]
    return kept


def check_calls(folder: Path) -> None:
    """Every row names calls that are in its own folder, and every file has a line for each row."""
    for path in folder.rglob("calls.sqlite"):
        stored = {call.key for call in cai.read_calls(path.parent)}
        for name in ("revisions", "candidates", "labels"):
            file = path.parent / f"{name}.jsonl"
            rows = in_order(file) if file.exists() else []
            assert all(stored.issuperset(row["calls"]) for row in rows)
            assert len({row["position"] for row in rows}) == len(rows)


def new_calls(first: Path, at_once: Path, *, is_copy: bool) -> int:
    """The calls of a run that another one has no answer to, nor one that would not be longer.

    Where a run grows in its own folder, a judge's seed does not count: it follows from the number of principles.
    """

    def question(call: Any) -> str:
        is_vote = call.request["name"] == "judge" and not is_copy
        aside = ("max_tokens", "seed") if is_vote else ("max_tokens",)
        payload = {name: value for name, value in call.request["payload"].items() if name not in aside}
        return json.dumps([call.request["provider"], call.request["name"], payload], sort_keys=True)

    def calls(folder: Path) -> list[Any]:
        return [call for path in folder.rglob("calls.sqlite") for call in cai.read_calls(path.parent)]

    whole = {question(call) for call in calls(first) if call.completion.finish == "stop"}
    return sum(question(call) not in whole for call in calls(at_once))


DEFAULTS = ("--rounds", "2", "-k", "-n", "-c", "truncated,model_error")  # are left out, or have another name
OFTEN = ("truncated rows", "calls of another run")  # the others are tried with all tests
KINDS = seldom(GROWTHS, OFTEN)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_asks_exactly_what_a_run_made_at_once_has_more(work: Path, server: Teller, kind: str) -> None:
    growth = GROWTHS[kind]
    play(work, server, "first", growth.first)
    whole = play(work, server, "whole", growth.at_once)
    new = new_calls(work / "first", work / "whole", is_copy=growth.is_copy)
    out = "second" if growth.is_copy else "first"
    assert 0 < play(work, server, out, [*growth.at_once, *growth.on]) == new < whole
    assert files_of(work / out) == files_of(work / "whole")
    check_calls(work / out)
    command = json.loads((work / out / "run.json").read_bytes())["command"]
    assert {*growth.at_once, *growth.on} <= {*command.split(), *DEFAULTS}  # what resumes it asks for as much
    assert play(work, server, out, [*growth.at_once, *growth.on]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_kills_in_between_change_nothing_but_the_calls_in_flight(work: Path, server: Teller, kind: str) -> None:
    growth = GROWTHS[kind]
    play(work, server, "first", growth.first)
    play(work, server, "whole", growth.at_once)
    new = new_calls(work / "first", work / "whole", is_copy=growth.is_copy)
    out = "second" if growth.is_copy else "first"
    asked = 0
    for nth, place in enumerate(PLACES, start=1):
        asked += play(work, server, out, [*growth.at_once, *growth.on], place=place, nth=1 + nth % 3)
    asked += play(work, server, out, [*growth.at_once, *growth.on])
    assert new <= asked <= new + len(PLACES) * WIDTH
    assert files_of(work / out) == files_of(work / "whole")
    check_calls(work / out)
