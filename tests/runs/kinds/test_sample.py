"""Candidate replies: every model asked for each, the same at any concurrency, and nothing asked twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from players import Player
from sample_runs import PROMPTS, cutting, rows_of, run, seeded, setup
from seldom import seldom

from cai.cli.terminal.progress import Progress
from cai.errors import CaiError, ModelStopped, RunError, UsageError
from cai.folder.journal.store import read_calls
from cai.records import Completion, Place
from cai.runs.kinds.pairs import describe_source, read_pairs
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import SampleSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings


def two() -> tuple[Player, Player]:
    return Player(seeded, "one", seeds=True), Player(seeded, "two", seeds=True)


@pytest.mark.parametrize("seeds", [True, False])
def test_n_replies_of_each_model_and_no_two_from_one_call(tmp_path: Path, seeds: bool) -> None:
    models = Player(seeded, "one", seeds=seeds), Player(seeded, "two", seeds=seeds)
    job = run(PROMPTS, tmp_path / "out", *models, n=3)
    rows = rows_of(tmp_path / "out")
    assert job.finished == len(rows) == 12
    assert [[reply["sample"] for reply in row["replies"]] for row in rows] == [[0, 1, 2] * 2] * 12
    assert len({call for row in rows for call in row["calls"]}) == 12 * 6 == len(list(read_calls(tmp_path / "out")))
    assert [sum(model.asked.values()) for model in models] == [36, 36]
    assert [len(model.asked) for model in models] == ([36, 36] if seeds else [12, 12])
    assert rows[0]["usage"]["input_tokens"] == 30
    if seeds:
        assert len({reply["text"] for row in rows for reply in row["replies"]}) >= 36


def test_the_same_seed_draws_the_same_replies_at_concurrency_1_and_64_and_another_does_not(tmp_path: Path) -> None:
    for name, concurrency, seed in (("a", 1, 7), ("b", 64, 7), ("c", 64, 8)):
        run(PROMPTS, tmp_path / name, *two(), n=3, concurrency=concurrency, seed=seed)
    a, b, c = (rows_of(tmp_path / name) for name in "abc")
    assert a == b != c
    assert list(read_pairs(tmp_path / "a")) == list(read_pairs(tmp_path / "b"))


def test_a_cut_reply_stays_in_its_row_with_its_problem_and_a_prompt_without_any_other_is_dropped(
    tmp_path: Path,
) -> None:
    job = run(PROMPTS, tmp_path / "out", Player(cutting(2), "one", seeds=True), n=2)
    rows, drops = rows_of(tmp_path / "out"), rows_of(tmp_path / "out", "dropped.jsonl")
    assert len(rows) + len(drops) == job.read == 12 and rows and drops
    assert all(any(reply["problem"] is None for reply in row["replies"]) for row in rows)
    assert any(reply["problem"] == "truncated" and reply["text"] for row in rows for reply in row["replies"])
    assert {(drop["reason"], drop["stage"]) for drop in drops} == {("truncated", "assistant")}
    assert drops[0]["detail"] == "none of 2 replies can be used; raise --max-tokens"
    asked = {key for row in rows for key in row["calls"]}
    assert all(len(set(drop["calls"]) - asked) == 2 for drop in drops)


def one_prompt_more(prompts: Path, out: Path) -> None:
    with prompts.open("a") as file:
        file.write(json.dumps({"id": "more", "prompt": "And?"}) + "\n")


def killed(prompts: Path, out: Path) -> None:
    info = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**info, "stopped": "interrupted"}))


def one_failed(prompts: Path, out: Path) -> None:
    with closing(sqlite3.connect(out / "calls.sqlite")) as db, db:
        db.execute("UPDATE inputs SET state = 'model_error' WHERE position = 7")


@pytest.mark.parametrize("shard", seldom([None, "1/3"], [None]))
@pytest.mark.parametrize(
    ("change", "given"),
    [(None, {}), (None, {"n": 3}), (None, {"limit": 299}), (one_prompt_more, {}), (killed, {}), (one_failed, {})],
    ids=["nothing", "more replies", "fewer prompts", "a prompt more", "a kill", "a row that failed"],
)
def test_prompts_are_read_again_only_if_there_may_be_something_to_do(
    tmp_path: Path, change: Callable[[Path, Path], None] | None, given: dict[str, Any], shard: str | None
) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    prompts.write_text("".join(f'{{"id": "q{n}", "prompt": "Question {n}?"}}\n' for n in range(300)))
    folder = run(prompts, out, two()[0], shard=shard).out
    if change is not None:
        change(prompts, folder)
    again = setup(prompts, out, two()[0], shard=shard, **given)
    read: list[Place] = []
    items = again.items()
    again.items = lambda: (read.append(place) or place for place in items)
    again.finish()
    is_idle = change is None and "n" not in given
    assert (len(read) < 200) == is_idle
    assert again.read == again.total and again.skipped == again.total - again.finished


def test_a_run_that_was_stopped_asks_nothing_twice_and_ends_with_the_same_rows(tmp_path: Path) -> None:
    whole = two()
    run(PROMPTS, tmp_path / "whole", *whole, n=3)
    killed = two()

    async def some() -> None:
        made = setup(PROMPTS, tmp_path / "out", *killed, n=3, concurrency=2)
        async with aclosing(made.rows()) as rows:
            async for _ in rows:
                if sum(killed[0].asked.values()) > 12:
                    return

    asyncio.run(some())
    before = rows_of(tmp_path / "out")
    assert 0 < len(before) < 12
    job = run(PROMPTS, tmp_path / "out", *killed, n=3)
    assert job.skipped == len(before) and rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    for model, other in zip(killed, whole, strict=True):
        assert model.asked.keys() == other.asked.keys()
        assert sum(model.asked.values()) <= 36 + 6  # those that were on their way
    run(PROMPTS, tmp_path / "out", *(again := two()), n=3)
    assert not again[0].asked


def test_a_higher_limit_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    models = two()
    run(file, tmp_path / "out", *models, limit=5)
    job = run(file, tmp_path / "out", *models, limit=9)
    assert (job.skipped, job.finished) == (5, 4)
    assert sum(models[0].asked.values()) == 18 and set(models[0].asked.values()) == {1}


def test_a_model_that_stops_ends_the_run_and_the_other_models_answers_are_kept(tmp_path: Path) -> None:
    def down(payload: dict[str, Any]) -> Completion:
        raise ModelStopped("out of money")

    one, broken = Player(seeded, "one", seeds=True), Player(down, "two", seeds=True)
    with pytest.raises(ModelStopped, match="out of money"):
        run(PROMPTS, tmp_path / "out", one, broken, n=2, concurrency=1)
    assert rows_of(tmp_path / "out") == []
    paid = sum(one.asked.values())
    run(PROMPTS, tmp_path / "out", one, Player(seeded, "two", seeds=True), n=2)
    assert paid and set(one.asked.values()) == {1}


def test_a_plan_counts_what_the_run_then_asks(tmp_path: Path) -> None:
    models = two()
    plan = estimate(setup([*PROMPTS, PROMPTS[0], 17], tmp_path / "out", *models, n=3))
    run([*PROMPTS, PROMPTS[0], 17], tmp_path / "out", *models, n=3)
    assert plan.calls == sum(sum(model.asked.values()) for model in models) == 72
    assert (plan.prompts, plan.unusable) == (12, 2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n": 2, "temperature": 0}, "-n 2 at --temperature 0 gives the same reply 2 times: raise it, or -n 1"),
        ({"n": 0}, "-n 0 must be greater than or equal to 1"),
        ({"model": ()}, "--model must be a model spec, or a list of them"),
        ({"model": ("recorded:A", "recorded:A")}, "--model recorded:A is named twice: raise -n for more replies"),
        ({"model": 4}, "--model 4 must be of type str | collections.abc.Sequence[str]"),
        ({"m": 4}, "unknown setting 'm'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_what_to_do(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        SampleRun(PROMPTS, make_settings(SampleSettings, {"model": "recorded:A", **given}))
    assert str(refused.value).startswith(told)


def test_two_names_of_one_model_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").touch()
    specs = [f"recorded:{tmp_path / folder / 'x.jsonl'}" for folder in ("a", "b")]
    with pytest.raises(UsageError, match="name one model: raise -n for more replies of it"):
        SampleRun(PROMPTS, make_settings(SampleSettings, {"model": specs}))


def test_one_greedy_reply_is_no_mistake(tmp_path: Path) -> None:
    job = run(PROMPTS, tmp_path / "out", Player(seeded, "one"), n=1, temperature=0)
    assert job.finished == 12


@pytest.mark.parametrize("change", [{"n": 1}, {"seed": 1}, {"temperature": 0.5}, {"max_tokens": 9}, {"system": "x"}])
def test_another_run_in_the_same_folder_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run(PROMPTS, tmp_path / "out", *two(), n=2)
    with pytest.raises(RunError, match="is another run: "):
        run(PROMPTS, tmp_path / "out", *two(), **{"n": 2, **change})


def test_a_label_run_knows_how_many_replies_its_source_was_first_asked_for(tmp_path: Path) -> None:
    run(PROMPTS, tmp_path / "out", *two(), n=3)
    said = describe_source(tmp_path / "out")
    assert isinstance(said, dict) and (said["command"], said["n"]) == ("sample", 6)


def test_a_base_model_needs_templates_that_it_can_continue(tmp_path: Path) -> None:
    with pytest.raises(CaiError, match="no chat template"):
        setup(PROMPTS, tmp_path / "out", Player(seeded, "one", chat=False, completion=True))


# Its source


def test_a_file_is_read_once_to_name_and_count_its_prompts_and_once_to_play_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(prompt) + "\n\n" for prompt in PROMPTS))
    read: list[Path] = []
    opened = Path.open

    def counting(path: Path, *args: Any, **keywords: Any) -> Any:
        read.append(path)
        return opened(path, *args, **keywords)

    monkeypatch.setattr(Path, "open", counting)
    for limit, total in ((None, 12), (5, 5), (50, 12)):
        read.clear()
        made = setup(source, tmp_path / f"out-{limit}", Player(seeded), limit=limit)
        progress = Progress(made)
        progress.count()
        made.finish()
        assert progress.total == total == made.finished
        assert read.count(source) == 2


def test_prompts_in_a_table_are_counted_beside_the_run(tmp_path: Path) -> None:
    source = tmp_path / "prompts.csv"
    source.write_text("prompt\none\ntwo\n")
    for prompts, total in ((source, 2), (PROMPTS, None)):
        progress = Progress(setup(prompts, tmp_path / "out", Player(seeded)))
        assert progress.total is None
        progress.count()
        for thread in threading.enumerate():
            if thread.name == "cai-count":
                thread.join()
        assert progress.total == total
