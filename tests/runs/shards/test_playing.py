"""A run that is played in shards: the same rows, drops and calls as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import PROMPTS, at, calls, folders, generate, lines, shards, written
from steady import Steady

import cai
from cai.errors import RunError, UsageError
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.settings import LabelSettings, SampleSettings
from cai.runs.plan import estimate
from cai.sources.yamlfile import make_settings


@pytest.mark.parametrize("count", [3, 15])
def test_shards_have_the_rows_drops_and_calls_of_one_run(
    tmp_path: Path, server: Steady, whole: Path, count: int
) -> None:
    prompts = written(tmp_path / "prompts.jsonl")
    before = server.answered
    for shard in reversed([*shards(count)]):
        generate(prompts, tmp_path / "run", server, shard=shard)
    runs = folders(tmp_path / "run")
    assert [run.name for run in runs] == [f"{number:05}-of-{count:05}" for number in range(count)]
    assert lines(runs) == lines([whole])
    assert calls(runs) == calls([whole])
    assert server.answered - before == len(calls([whole]))


def test_a_shard_cuts_no_training_rows(tmp_path: Path, server: Steady) -> None:
    generate(["Hello?", "Again?"], tmp_path, server, shard="0/2")
    assert not [*tmp_path.rglob("sft.jsonl")]


@given(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 14))
@settings(max_examples=4)
def test_a_limit_is_of_the_whole_source(
    tmp_path_factory: pytest.TempPathFactory, server: Steady, prompts: list[Any], count: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("limit")
    file = written(folder / "prompts.jsonl", [{"prompt": "There is one."}, *prompts])
    generate(file, folder / "whole", server, limit=limit)
    for shard in shards(count):
        generate(file, folder / "parts", server, shard=shard, limit=limit)
    assert lines(folders(folder / "parts")) == lines([folder / "whole"])


def test_all_pairs_of_a_prompt_are_in_one_shard(tmp_path: Path, server: Steady) -> None:
    for _ in cai.sample(["One?", "Two?", "Three?"], "openai:writer", n=3, out=tmp_path / "replies", **at(server)):
        pass
    told = at(server, judge="openai:judge", principles=1)
    for out, shard in [("whole", None), *(("parts", shard) for shard in shards(2))]:
        for _ in cai.label(tmp_path / "replies", "harmless", out=tmp_path / out, shard=shard, **told):
            pass
    runs = folders(tmp_path / "parts")
    assert lines(runs) == lines([tmp_path / "whole"])
    prompts = [{row["prompt_id"] for row in lines([run])["labels.jsonl"]} for run in runs]
    assert [*map(len, prompts)] == [2, 1] and not prompts[0] & prompts[1]


def test_the_best_replies_of_a_shard_are_judged_in_it(tmp_path: Path, server: Steady) -> None:
    told = at(server, judge="openai:judge", best_of=2, principles=1)
    for out, shard in [("whole", None), *(("parts", shard) for shard in shards(2))]:
        for _ in cai.sample(["One?", "Two?", "Three?"], "openai:writer", out=tmp_path / out, shard=shard, **told):
            pass
    runs = folders(tmp_path / "parts")
    assert lines(runs) == lines([tmp_path / "whole"])
    assert lines([run / "labels" for run in runs]) == lines([tmp_path / "whole" / "labels"])


# Growing


def test_a_shard_goes_on_with_prompts_that_are_added_at_the_end(tmp_path: Path, server: Steady, whole: Path) -> None:
    for length in (5, 9, len(PROMPTS)):
        prompts = written(tmp_path / "prompts.jsonl", PROMPTS[:length])
        for shard in shards(3):
            generate(prompts, tmp_path / "run", server, shard=shard)
    assert lines(folders(tmp_path / "run")) == lines([whole])
    assert calls(folders(tmp_path / "run")) == calls([whole])


def test_prompts_that_would_change_shards_are_refused(tmp_path: Path, server: Steady) -> None:
    generate(written(tmp_path / "p.jsonl", PROMPTS[:6]), tmp_path / "run", server, shard="0/3")
    prompts = written(tmp_path / "p.jsonl", [{"prompt": "New?"}, *PROMPTS[:6]])
    with pytest.raises(RunError, match="'a', which now falls into another shard: add what is new at the end"):
        generate(prompts, tmp_path / "run", server, shard="0/3")


def test_prompts_that_stay_in_their_shards_may_move(tmp_path: Path, server: Steady) -> None:
    prompts = ["One?", "Two?", "Three?", "Four?"]
    longer = ["New?", "Newer?", *prompts]
    for source in (prompts, longer):
        for shard in shards(2):
            generate(source, tmp_path / "parts", server, shard=shard)
    generate(longer, tmp_path / "whole", server)
    assert lines(folders(tmp_path / "parts")) == lines([tmp_path / "whole"])


# What does not go together


def test_a_shard_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="--shard 0/2 needs the folder that all shards have in common"):
        make_settings(SampleSettings, {"shard": "0/2"})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"gold": "gold.jsonl"}, "--gold would be judged in every shard"),
        ({"target": 5, "max_candidates": 4}, "--target counts the pairs of all shards together"),
        ({"min_confidence": 0.8}, "--min-confidence is for the cut, which shards leave to cai export"),
        ({"pairing": "best-worst"}, "--pairing best-worst is for the cut"),
    ],
)
def test_what_counts_all_pairs_does_not_go_with_shards(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        make_settings(LabelSettings, {"shard": "0/2", "out": "labels", **values})


def test_a_folder_with_shards_takes_no_run_without(tmp_path: Path, server: Steady) -> None:
    generate(["One?"], tmp_path / "run", server, shard="0/2")
    with pytest.raises(RunError, match="holds shards of 2: add --shard i/2"):
        generate(["One?"], tmp_path / "run", server)
    with pytest.raises(RunError, match="--shard 0/3 would play some of its prompts again"):
        generate(["One?"], tmp_path / "run", server, shard="0/3")


# A plan


def test_the_plans_of_shards_add_up_to_that_of_one_run(tmp_path: Path) -> None:
    def planned(shard: str | None) -> tuple[int, ...]:
        values = {"judge": "openai:judge", "out": tmp_path / "labels", "shard": shard, "principles": 1}
        pairs = [{"prompt": f"Question {n % 5}?", "chosen": "Yes.", "rejected": "No."} for n in range(7)]
        plan = estimate(LabelRun(pairs, make_settings(LabelSettings, values)))
        return plan.prompts, plan.unusable, plan.calls

    parts = [planned(shard) for shard in shards(3)]
    prompts, unusable, calls = planned(None)
    assert (prompts, unusable) == (5, 2)
    assert tuple(map(sum, zip(*parts, strict=True))) == (prompts, unusable, calls)
