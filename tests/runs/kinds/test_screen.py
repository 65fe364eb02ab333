"""Runs whose rounds are under principles that a reply goes against: what is asked, when, and what the rows say."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from habits import Answer, Asked, Habits, Mode, in_chain, leaning, says, serving, turns_of
from seldom import seldom
from stored_runs import revisions_of
from terminal import cai

from cai import make_report
from cai.engine.screen import ordinary
from cai.errors import Unreadable, UsageError
from cai.export.export import export_run
from cai.folder.journal.store import Store
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.settings import GenerateSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings

LAW = """
name: three
version: 1.0.0
principles:
  - {id: kind, text: Be kind.}
  - {id: safe, text: Be safe.}
  - {id: short, text: Be short.}
"""
BIAS = {"kind": 3.0, "safe": 0.0, "short": -3.0}  # what the critic says to both questions
LEANING = {"kind": 1.0, "safe": -1.0, "short": 0.0}  # and of every reply, good ones too
REPLY = re.compile(r"<reply>\n(.*?)\n</reply>.*Be (\w+)\..*(go against|keep to)", re.S)


def screened(text: str) -> Answer:
    """Whether a reply goes against a principle: one that names it does."""
    found = REPLY.search(text)
    assert found is not None
    reply, principle, question = found.groups()
    fault = LEANING[principle] + 2.0 * (f"un{principle}" in reply)
    odds = BIAS[principle] + (fault if question == "go against" else -fault)
    return leaning(" Yes", " No", odds)


def chain(asked: Asked) -> Answer:
    """A prompt says how bad its first reply is: a revision mends the first of its faults."""
    if b"<reply>" in asked.raw:
        return screened(turns_of(asked)[0])
    if b"<reply_a>" in asked.raw:
        shown = re.findall(r"<reply_[ab]>\n(.*?)\n", turns_of(asked)[0])
        return leaning("A", "B", float(shown[1].count("un") - shown[0].count("un")))
    return in_chain(asked, lambda prompt: f"A reply that is {prompt}", mended)


def mended(turns: list[str]) -> str:
    fault = str(re.findall(r"Be (\w+)\.", turns[-1])[-1])
    return turns[1].replace(f"un{fault}", fault)


def mute(asked: Asked) -> Answer:
    return says("Perhaps.")(asked) if b"<reply>" in asked.raw else chain(asked)


@pytest.fixture(scope="module")
def server() -> Iterator[Habits]:
    with serving({"chain": Mode(chain), "mute": Mode(mute)}) as habits:
        yield habits


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


PROMPTS = ["fine", "unkind", "unsafe", "unkind and unsafe", "unshort, unsafe and unkind"]


def run(server: Habits, out: Path, prompts: list[str] = PROMPTS, mode: str = "chain", **more: Any) -> GenerateRun:
    law = out.parent / "law.yaml"
    law.write_text(LAW)
    settings = {"model": "openai:m", "base_url": server.url(mode), "gate": False, "draw": "screen", "constitution": law}
    return GenerateRun(prompts, make_settings(GenerateSettings, {**settings, "out": out, **more}))


def stored(out: Path) -> int:
    """How many calls a run has paid for."""
    with closing(Store(out, read_only=True)) as store:
        return store.spent().calls


def questions(server: Habits, mode: str = "chain") -> int:
    return sum(bool(asked.raw) for asked in server.asked(mode))


def test_a_round_is_under_a_principle_that_the_reply_goes_against(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", rounds=2).finish()
    drawn = [[turn.principle for turn in row.rounds] for row in revisions_of(tmp_path / "out")]
    assert drawn[:3] == [[], ["kind"], ["safe"]]
    assert sorted(drawn[3]) == ["kind", "safe"]
    assert len(set(drawn[4])) == 2
    assert [row.final for row in revisions_of(tmp_path / "out")[:4]] == [
        "A reply that is fine", "A reply that is kind", "A reply that is safe", "A reply that is kind and safe",
    ]  # fmt: skip


def test_the_row_says_what_the_screen_saw_and_why_a_chain_ended(server: Habits, tmp_path: Path) -> None:
    run(server, tmp_path / "out", ["unkind"], rounds=3).finish()
    [row] = revisions_of(tmp_path / "out")
    assert row.screens is not None
    assert [screening.principle for screening in row.screens] == ["kind", None]
    seen = {each.principle: each for each in row.screens[0].of}
    assert [seen[name].baseline for name in LEANING] == pytest.approx(list(LEANING.values()))
    assert seen["kind"].against == pytest.approx(6.0) and seen["kind"].keeps == pytest.approx(0.0)
    assert [seen[name].p for name in LEANING] == pytest.approx([1 / (1 + math.exp(-2.0)), 0.5, 0.5])
    assert row.models.keys() == {"assistant", "screen", "critic", "reviser"}


def test_the_baseline_is_asked_once_and_a_reply_that_stands_is_not_asked_about_again(
    server: Habits, tmp_path: Path
) -> None:
    before = questions(server)
    made = run(server, tmp_path / "out", ["fine", "unkind"], rounds=2, accept="openai:j")
    plan = estimate(made)
    assert plan.roles["critic"].calls == len(ordinary()) * 6 + 2 * 2 * (6 + 1)  # every revision is screened, too
    assert plan.most_calls is not None and plan.most_calls >= plan.calls
    assert questions(server) == before
    made.finish()
    again = questions(server)
    assert again - before <= len(ordinary()) * 6 + sum(len(row.calls) for row in revisions_of(tmp_path / "out"))
    run(server, tmp_path / "out", ["fine", "unkind"], rounds=2, accept="openai:j").finish()
    assert questions(server) == again


def test_a_plan_counts_the_baseline_once_for_each_worker(server: Habits, tmp_path: Path) -> None:
    calls = [
        estimate(run(server, tmp_path / f"out-{workers}", ["fine", "unkind"], rounds=1, workers=workers)).most_calls
        for workers in (None, 1, 8)
    ]
    assert calls[0] == calls[1] and (calls[2] or 0) - (calls[0] or 0) == 7 * len(ordinary()) * 6


@pytest.mark.parametrize("threshold", seldom([0.6, 0.5], [0.6]))
def test_rows_do_not_depend_on_concurrency_or_on_where_a_run_was_stopped(
    server: Habits, tmp_path: Path, threshold: float
) -> None:
    options = {"rounds": 2, "screen_at": threshold}
    run(server, tmp_path / "one", concurrency=1, **options).finish()
    run(server, tmp_path / "many", concurrency=64, **options).finish()
    for limit in (1, 3, None):
        run(server, tmp_path / "cut", concurrency=2, limit=limit, **options).finish()
    assert revisions_of(tmp_path / "one") == revisions_of(tmp_path / "many") == revisions_of(tmp_path / "cut")
    for name in ("sft.jsonl", "dpo.jsonl"):
        texts = {(tmp_path / out / name).read_bytes() for out in ("one", "many", "cut")}
        assert len(texts) == 1


def test_a_round_more_goes_on_from_the_same_draws(server: Habits, tmp_path: Path) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(server, whole, rounds=3, accept="openai:j").finish()
    run(server, grown, rounds=1, accept="openai:j").finish()
    before = questions(server)
    known = stored(grown)
    run(server, grown, rounds=3, accept="openai:j").finish()
    assert stored(grown) == stored(whole) > known
    assert questions(server) - before == stored(grown) - known
    assert {row.id: row for row in revisions_of(grown)} == {row.id: row for row in revisions_of(whole)}
    for name in ("sft.jsonl", "dpo.jsonl"):
        assert (grown / name).read_bytes() == (whole / name).read_bytes()


def test_seeds_draw_differently_among_the_principles_that_are_wanting(server: Habits, tmp_path: Path) -> None:
    prompts = [f"unkind and unsafe {number}" for number in range(8)]
    drawn = []
    for seed in (0, 1):
        run(server, tmp_path / str(seed), prompts, rounds=1, seed=seed).finish()
        drawn.append([row.rounds[0].principle for row in revisions_of(tmp_path / str(seed))])
    assert drawn[0] != drawn[1] and Counter(drawn[0] + drawn[1]).keys() == {"kind", "safe"}


def test_readers_of_a_row_without_a_round_know_what_to_do(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(server, out, ["fine", "unkind"], rounds=1).finish()
    assert [row["changed"] for row in map(json.loads, (out / "sft.jsonl").read_text().splitlines())] == [False, True]
    assert "1 of 2 screens found no principle" in " ".join(export_run(out).notes)
    card = (out / "README.md").read_text()
    assert "1 of 2 screens found none" in card


def test_show_and_report_say_what_screen_and_judge_found(server: Habits, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(server, out, ["fine", "unkind"], rounds=2, accept="openai:j").finish()
    fine, mended = (row.id for row in revisions_of(out))
    shown = cai("show", str(out), fine).stdout
    for words in ("screen 1", "kind", "+4.000", "none is likely enough: the reply stands"):
        assert words in shown
    shown = cai("show", str(out), mended).stdout
    verdict = "accepted, P(it is better) 0.731 (logprob)"
    for words in ("screen 1", "0.881", "drawn", verdict, "a is the revision", "screen 2"):
        assert words in shown
    make_report([out], tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text()
    assert "screens that found no principle" in report and "revisions accepted by the judge" in report


def test_what_a_screen_is_belongs_to_the_identity(server: Habits, tmp_path: Path) -> None:
    made = run(server, tmp_path / "out").identity
    assert run(server, tmp_path / "out", screen_at=0.7).identity != made
    plain = run(server, tmp_path / "out", draw="uniform").identity
    assert {name: value for name, value in made.items() if name != "screen"} == plain


def test_a_critic_that_says_neither_yes_nor_no_stops_the_run_before_the_first_prompt(
    server: Habits, tmp_path: Path
) -> None:
    with pytest.raises(Unreadable, match="the critic does not answer Yes or No"):
        run(server, tmp_path / "out", mode="mute").finish()
    shown = [asked.payload["messages"][0]["content"] for asked in server.asked("mute") if asked.raw]
    assert all("<reply>" in text for text in shown)


def test_a_set_without_its_question_and_a_threshold_without_a_screen_are_refused(
    server: Habits, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r"fewshot has no screen\.jinja: it cannot screen; name another"):
        run(server, tmp_path / "out", templates="fewshot")
    with pytest.raises(UsageError, match="--screen-at is for --draw screen"):
        make_settings(GenerateSettings, {"screen_at": 0.5})
