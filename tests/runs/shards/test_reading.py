"""What commands that read a run see of one that was played in shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sharded import PROMPTS, at, folders, generate, played
from steady import Steady

import cai
from cai.errors import RunError
from cai.export.inspect_log import export_inspect
from cai.report.report import make_report
from cai.runs.batch_list import batches_in
from cai.viewer.sources import find_sources
from cai.viewer.terminal.folders import resuming
from cai.viewer.terminal.row import find_row
from cai.viewer.terminal.shelf import find_folders


def test_a_row_is_shown_with_its_calls(copy: Path) -> None:
    found = find_row(copy, "g")
    assert [call.stored is not None for call in found.calls] == [True] * len(found.calls)
    assert found.calls and not found.notes


def test_a_report_has_one_section(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)  # a long path would be cut
    report = make_report([copy.name], tmp_path / "report.html")
    [section] = report.sections
    assert section.title == copy.name


def test_a_view_has_one_source(copy: Path) -> None:
    [source] = find_sources([copy])
    assert source.folder == copy and source.rows.exists()


def test_a_log_for_inspect_has_every_row(copy: Path, tmp_path: Path) -> None:
    export_inspect(copy, tmp_path / "log.json")
    log = json.loads((tmp_path / "log.json").read_bytes())
    rows = (copy / "revisions.jsonl").read_bytes().count(b"\n")
    assert len(log["samples"]) == rows > 0


def test_answers_of_shards_are_reused(copy: Path, tmp_path: Path, server: Steady) -> None:
    before = server.answered
    prompts = copy.parent / "p.jsonl"
    prompts.write_text(json.dumps({"id": "g", "prompt": "What is bread?"}) + "\n")
    generate(prompts, tmp_path / "again", server, reuse=copy)
    assert server.answered == before


def test_a_command_without_a_folder_does_not_go_on_in_joined_shards(
    copy: Path, tmp_path: Path, server: Steady, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = ["One?", "Two?"]
    for shard in ("0/2", "1/2"):
        for _ in cai.sample(prompts, "openai:writer", out="runs/sample-1", shard=shard, **at(server)):
            pass
    find_sources(["runs/sample-1"])
    from cai.runs.kinds.sample import SampleRun, SampleSettings

    run = SampleRun(prompts, SampleSettings(model="openai:writer", base_url=server.url + "/v1"))
    assert run.out != Path("runs/sample-1")


def test_batches_are_those_of_a_shard(copy: Path) -> None:
    with pytest.raises(RunError, match=r"each with its own batches: name one, such as .*00000-of-00003"):
        batches_in(copy)
    assert batches_in(folders(copy)[0]).batches == ()


# The list of what there is


def test_shards_are_parts_of_their_run(copy: Path) -> None:
    [shelf] = find_folders(copy).folders
    assert (shelf.path, shelf.kind, shelf.state) == (copy, "generate", "done")
    assert [part.path for part in shelf.parts] and len(shelf.parts) == 3
    assert shelf.rows == sum(part.rows or 0 for part in shelf.parts)


def test_missing_shards_show(copy: Path) -> None:
    shutil.rmtree(folders(copy)[1])
    [shelf] = find_folders(copy).folders
    assert shelf.state == "unfinished" and "shard 1 of 3 is missing" in shelf.why


def test_the_command_of_an_unfinished_shard_is_shown(copy: Path) -> None:
    part = folders(copy)[2]
    info = json.loads((part / "run.json").read_bytes())
    (part / "run.json").write_text(json.dumps(info | {"stopped": "interrupted", "command": "cai generate p.jsonl"}))
    [shelf] = find_folders(copy).folders
    assert shelf.state == "unfinished" and "00002-of-00003" in shelf.why
    assert shelf.shard == "2/3"
    shelf.command = "cai generate p.jsonl"
    assert "cai generate p.jsonl --shard 2/3 --out" in str(resuming(shelf))


def test_whoever_reads_unfinished_shards_is_told(tmp_path: Path, server: Steady) -> None:
    out = played(tmp_path, server, 2, PROMPTS[:3])
    shutil.rmtree(folders(out)[0])
    for read in (find_row, lambda path: find_sources([path]), lambda path: make_report([path], tmp_path / "r.html")):
        with pytest.raises(RunError, match="shard 0 of 2 is missing"):
            read(out)
