"""Shards that are read as one run: what an export of them gives, and which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import PROMPTS, at, calls, exports, folders, generate, lines, played, shards, written
from steady import Steady

import cai
from cai.disk.locks import LOCK, take_lock
from cai.errors import RunError
from cai.export.export import export_run
from cai.folder.lines import few_lines_in_order, lines_in_order
from cai.folder.shards.join import join
from cai.folder.shards.layout import Shard


def info(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
    return content


def change(folder: Path, **values: Any) -> None:
    (folder / "run.json").write_text(json.dumps(info(folder) | values))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_export_of_shards_is_that_of_one_run(tmp_path: Path, server: Steady, whole: Path, count: int) -> None:
    out = played(tmp_path, server, count)
    summary = export_run(out)
    assert exports(out) == exports(whole)
    assert (summary.rows, summary.dropped) == (export_run(whole).rows, export_run(whole).dropped)


def test_what_was_spent_is_the_sum_of_all_shards(copy: Path, whole: Path) -> None:
    join(copy)
    ours, other = info(copy), info(whole)
    for name in ("identity", "rows", "dropped", "usage", "settings", "stopped"):
        assert ours[name] == other[name], name
    assert ours["cost_usd"] == pytest.approx(other["cost_usd"])
    assert ours["seconds"] == pytest.approx(sum(info(part)["seconds"] for part in folders(copy)))
    assert ours["shards"] == 3


def test_calls_stay_in_the_shards_and_are_read_from_there(copy: Path, whole: Path) -> None:
    join(copy)
    assert calls([copy]) == calls([whole])


def test_shards_are_joined_once(copy: Path) -> None:
    join(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir() if path.is_file()}
    join(copy)
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir() if path.is_file()} == before


def test_an_export_of_one_shard_changes_nothing_for_the_whole(copy: Path, whole: Path) -> None:
    part = folders(copy)[0]
    export_run(part)
    assert export_run(copy).rows == info(whole)["rows"]
    assert exports(copy) == exports(whole)
    export_run(part, hygiene=False)
    join(copy)
    assert exports(copy) == exports(whole)


def test_processes_that_come_at_once_join_once(copy: Path, whole: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(join, [copy] * 4))
    export_run(copy)
    assert exports(copy) == exports(whole)


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 7))
@settings(max_examples=20)
def test_lines_are_in_order_however_few_are_held(
    tmp_path_factory: pytest.TempPathFactory, positions: list[int], most: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "dropped.jsonl"
    path.write_text("".join(f'{{"position":{position},"n":{n}}}\n' for n, position in enumerate(positions)))
    assert list(few_lines_in_order(path, most)) == list(lines_in_order(path))


def test_shards_that_went_on_are_joined_anew(tmp_path: Path, server: Steady, whole: Path) -> None:
    for length in (4, len(PROMPTS)):
        out = played(tmp_path, server, 3, PROMPTS[:length])
        export_run(out)
    assert exports(out) == exports(whole)


def test_more_rounds_are_joined_too(tmp_path: Path, server: Steady) -> None:
    prompts = [{"id": f"r{n}", "prompt": f"Question {n}?"} for n in range(5)]
    generate(written(tmp_path / "p.jsonl", prompts), tmp_path / "whole", server, rounds=2)
    for rounds in (1, 2):
        out = played(tmp_path, server, 2, prompts, rounds=rounds)
        export_run(out)
    assert lines([out]) == lines([tmp_path / "whole"])
    assert exports(out)["sft.jsonl"] == exports(tmp_path / "whole")["sft.jsonl"]


def test_training_rows_of_before_are_gone_once_shards_went_on(tmp_path: Path, server: Steady) -> None:
    out = played(tmp_path, server, 2, PROMPTS[:4])
    export_run(out)
    assert (out / "sft.jsonl").exists()
    join(played(tmp_path, server, 2))
    assert not (out / "sft.jsonl").exists() and not (out / "README.md").exists()


def test_labels_of_a_run_that_was_played_in_shards_are_those_of_one_run(tmp_path: Path, server: Steady) -> None:
    prompts = ["One?", "Two?", "Three?", "One?"]
    writer = at(server, n=2)
    judge = at(server, judge="openai:judge", principles=1)
    for kind in ("whole", "parts"):
        replies, labels = tmp_path / kind / "replies", tmp_path / kind / "judged"
        for shard in [None] if kind == "whole" else shards(2):
            for _ in cai.sample(prompts, "openai:writer", out=replies, shard=shard, **writer):
                pass
        for shard in [None] if kind == "whole" else shards(3):
            for _ in cai.label(replies, "harmless", out=labels, shard=shard, **judge):
                pass
        export_run(labels, min_confidence=0.6)
    assert exports(tmp_path / "parts" / "judged") == exports(tmp_path / "whole" / "judged")


def test_best_replies_of_shards_are_those_of_one_run(tmp_path: Path, server: Steady) -> None:
    settings = at(server, judge="openai:judge", best_of=2, principles=1)
    for out, shard in [("whole", None), *(("parts", shard) for shard in shards(2))]:
        for _ in cai.sample(["One?", "Two?", "Three?"], "openai:writer", out=tmp_path / out, shard=shard, **settings):
            pass
    export_run(tmp_path / "parts", best=True)
    assert exports(tmp_path / "parts") == exports(tmp_path / "whole")
    assert info(tmp_path / "parts" / "labels")["usage"] == info(tmp_path / "whole" / "labels")["usage"]


# Refused, with what is wrong


def test_a_missing_shard_is_named(copy: Path) -> None:
    shutil.rmtree(Shard(1, 3).folder(copy))
    with pytest.raises(RunError, match=r"shard 1 of 3 is missing in .*: play them with --shard i/3"):
        export_run(copy)
    assert not (copy / "run.json").exists()


def test_missing_shards_are_named_as_ranges(tmp_path: Path) -> None:
    for number in (0, 1, 2, 4, 5, 6):
        Shard(number, 10).folder(tmp_path).mkdir(parents=True)
    with pytest.raises(RunError, match="shards 3, 7-9 of 10 are missing"):
        join(tmp_path)


def stop(folder: Path) -> None:
    change(folder, stopped="interrupted")


def never_began(folder: Path) -> None:
    (folder / "run.json").unlink()


@pytest.mark.parametrize("spoil", [stop, never_began])
def test_an_unfinished_shard_is_named(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folders(copy)[2])
    problem = r"shard 2 of 3 is not finished in .* --shard i/3; .* cai export .*00002-of-00003"
    with pytest.raises(RunError, match=problem):
        export_run(copy)


def test_a_shard_that_is_being_played_is_named(copy: Path) -> None:
    lock = take_lock(folders(copy)[0] / LOCK)
    with pytest.raises(RunError, match="shard 0 of 3 is being played"):
        export_run(copy)
    lock.close()
    export_run(copy)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 5}, "seed is 0 in shard 0, 5 in shard 1"),
        ({"rounds": 2}, "rounds is 1 in shard 0, 2 in shard 1"),
        ({"gate": False}, "gate is 0.5 in shard 0, False in shard 1"),
    ],
)
def test_shards_of_other_settings_are_refused(copy: Path, changes: dict[str, Any], problem: str) -> None:
    part = folders(copy)[1]
    change(part, identity=info(part)["identity"] | changes)
    with pytest.raises(RunError, match=f"not of one run: {problem}; play both with the same command"):
        export_run(copy)


def test_shards_with_other_limits_are_refused(copy: Path) -> None:
    part = folders(copy)[2]
    change(part, settings=info(part)["settings"] | {"limit": 7})
    with pytest.raises(RunError, match="limit is not set in shard 0, 7 in shard 2"):
        export_run(copy)


def test_shards_that_two_versions_played_are_refused_until_one_has_played_both(
    copy: Path, three: Path, server: Steady
) -> None:
    change(folders(copy)[1], versions={"cai": "0.0.9", "python": "3.11.0"})
    with pytest.raises(
        RunError, match=r"not of one run: cai is '\S+' in shard 0, '0\.0\.9' in shard 1; play both with"
    ):
        export_run(copy)
    generate(three.parent / "prompts.jsonl", copy, server, shard="1/3")
    assert export_run(copy).rows


def test_shards_of_a_newer_version_are_refused(copy: Path) -> None:
    change(folders(copy)[1], format=2)
    with pytest.raises(RunError, match="newer cai"):
        export_run(copy)


def test_shards_of_several_numbers_are_refused(copy: Path) -> None:
    Shard(0, 2).folder(copy).mkdir()
    with pytest.raises(RunError, match="holds shards of 2 and of 3: move those away"):
        export_run(copy)


def test_a_shard_under_the_name_of_another_is_refused(copy: Path) -> None:
    first, second, _ = folders(copy)
    shutil.rmtree(first)
    shutil.copytree(second, first)
    with pytest.raises(RunError, match="is not of its shard: was it renamed"):
        export_run(copy)


def test_shards_of_other_sources_are_refused(tmp_path: Path, server: Steady) -> None:
    for shard, prompts in zip(shards(2), (["One?", "Two?"], ["Zero?", "One?"]), strict=True):
        generate(prompts, tmp_path / "run", server, shard=shard)
    with pytest.raises(RunError, match="has a prompt that another shard has, too: play all shards on the same source"):
        export_run(tmp_path / "run")
    generate(["One?", "Two?"], tmp_path / "run", server, shard="1/2", force=True)
    assert export_run(tmp_path / "run").rows == 2


def test_shards_beside_a_run_without_are_refused(copy: Path, whole: Path) -> None:
    shutil.copy(whole / "run.json", copy)
    with pytest.raises(RunError, match="holds a run without shards, and shards: move either away"):
        export_run(copy)
