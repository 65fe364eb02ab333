"""A run folder: whose it is, what it holds, and what a drop that is tried again leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cai.disk.writing import write_atomically
from cai.errors import RunError
from cai.folder.identity import differences
from cai.folder.info import read_info
from cai.folder.journal.inputs import DONE
from cai.folder.run import RunFolder
from cai.records import BadPrompt, ConstitutionRef, Drop, Prompt, Revision, Usage

IDENTITY: dict[str, Any] = {"command": "generate", "seed": 0}
ROWS = "revisions.jsonl"


BAD = BadPrompt(line=1, problem="not JSON")


def prompt(position: int) -> Prompt:
    return Prompt(id=f"r{position}", messages=({"role": "user", "content": f"Question {position}?"},))


def lost(position: int, reason: Any = "model_error", detail: str = "…") -> Drop:
    asked = prompt(position)
    return Drop(id=asked.id, position=position, stage="assistant", reason=reason, detail=detail, prompt=asked.messages)


def bad(position: int) -> Drop:
    return Drop(id=None, position=position, stage="source", reason="bad_input", detail="no JSON", line=position + 1)


def row(position: int) -> Revision:
    asked = prompt(position)
    return Revision(
        id=asked.id,
        position=position,
        prompt=asked.messages,
        initial="a",
        rounds=(),
        final="a",
        constitution=ConstitutionRef(name="kind", version="1", hash="c0ffee"),
        templates="7e57",
        models={"assistant": "m"},
        seed=0,
        usage=Usage(),
        calls=(),
    )


def opened(folder: Path, **more: Any) -> RunFolder:
    return RunFolder(folder, IDENTITY, **more)


def session(folder: Path, items: Iterable[Revision | Drop], end: Callable[[RunFolder], None] = RunFolder.close) -> None:
    """Finish `items` in a folder as a job does."""

    async def fill() -> None:
        run = opened(folder)
        run.write_info()
        for item in items:
            if item.prompt is not None:
                assert run.pending(prompt(item.position), item.position) is True
            if isinstance(item, Drop):
                await run.drop(item)
            else:
                await run.keep(item, item.position, prompt(item.position))
        end(run)

    asyncio.run(fill())


def killed(run: RunFolder) -> None:
    """End as `kill -9` does: what is committed stays, nothing is tidied."""
    run.store.close()
    run._lock.close()


def drops(folder: Path) -> list[tuple[int, str, str]]:
    lines = map(json.loads, (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["position"], line["reason"], line["detail"]) for line in lines]


def states(folder: Path) -> dict[int, str]:
    run = opened(folder)
    found = {position: state for position, _, state in run.store.rows.states()}
    run.close()
    return found


def reset(folder: Path, journal: str) -> None:
    """Take from the journal what a kill while dropped.jsonl is replaced, or a user, may take."""
    if journal == "deleted":
        (folder / "calls.sqlite").unlink()
    elif journal == "reset":
        db = sqlite3.connect(folder / "calls.sqlite")
        db.execute("UPDATE files SET size = 0 WHERE name = 'dropped.jsonl'")
        db.commit()
        db.close()


# Drops that are tried again


def test_a_drop_that_is_tried_again_keeps_its_line_until_its_prompt_is_reached(tmp_path: Path) -> None:
    session(tmp_path, [lost(0), lost(1), lost(2)])
    session(tmp_path, [row(1)])
    assert drops(tmp_path) == [(0, "model_error", "…"), (2, "model_error", "…")]
    run = opened(tmp_path)
    assert run.pending(prompt(0), 0) is True  # asked for, and then interrupted
    run.close()
    assert [position for position, *_ in drops(tmp_path)] == [0, 2]


def test_a_drop_that_comes_again_has_one_line(tmp_path: Path) -> None:
    session(tmp_path, [lost(0), lost(1, detail="first"), lost(2, "truncated")])
    session(tmp_path, [lost(1, detail="second"), lost(0, "empty")])
    assert drops(tmp_path) == [(2, "truncated", "…"), (1, "model_error", "second"), (0, "empty", "…")]


@pytest.mark.parametrize("journal", ["kept", "reset", "deleted"])
def test_after_a_kill_the_lines_of_what_was_tried_again_go_at_the_next_open(tmp_path: Path, journal: str) -> None:
    session(tmp_path, [bad(4), lost(0), lost(1, detail="first"), lost(2), lost(3)])
    session(tmp_path, [row(0), lost(1, detail="second"), lost(2, "empty")], end=killed)
    assert len(drops(tmp_path)) == 7
    reset(tmp_path, journal)
    opened(tmp_path).close()
    kept = [(4, "bad_input", "no JSON"), (3, "model_error", "…"), (1, "model_error", "second"), (2, "empty", "…")]
    assert drops(tmp_path) == kept
    error = "model_error"
    wanted = {0: DONE, 1: error, 2: "empty", 3: error, 4: "bad_input"}
    assert states(tmp_path) == wanted
    reset(tmp_path, "deleted")
    assert states(tmp_path) == wanted and drops(tmp_path) == kept


def test_a_row_on_its_way_to_the_disk_is_not_lost_as_the_folder_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path, [lost(0), lost(1)])
    at_replace: list[int] = []  # lines of rows when dropped.jsonl is replaced, at which a kill may come
    replace = os.replace

    def watched_replace(old: Path, new: Path) -> None:
        at_replace.append((tmp_path / ROWS).read_bytes().count(b"\n"))
        replace(old, new)

    monkeypatch.setattr(os, "replace", watched_replace)

    async def cancelled() -> None:
        run = opened(tmp_path)
        assert run.pending(prompt(0), 0) is True
        task = asyncio.create_task(run.keep(row(0), 0, prompt(0)))
        await asyncio.sleep(0)
        run.close()
        task.cancel()

    asyncio.run(cancelled())
    assert at_replace == [1]
    assert json.loads((tmp_path / ROWS).read_text())["position"] == 0
    assert drops(tmp_path) == [(1, "model_error", "…")]
    assert states(tmp_path) == {0: DONE, 1: "model_error"}


# Files


def test_a_file_is_on_disk_and_closed_before_it_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("tells open files by /proc")
    seen: list[tuple[str, str]] = []
    replace, fsync = os.replace, os.fsync

    def open_files() -> set[str]:
        return {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}

    def watched_fsync(number: int) -> None:
        seen.append(("fsync", Path(os.path.realpath(f"/proc/self/fd/{number}")).name))
        fsync(number)

    def watched_replace(old: Path, new: Path) -> None:
        seen.append(("replace", Path(old).name))
        assert not {str(Path(old).resolve()), str(Path(new).resolve())} & open_files()
        replace(old, new)

    session(tmp_path, [lost(0), lost(1)])
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    session(tmp_path, [row(0)])
    write_atomically(tmp_path / "README.md", b"#")
    names = ["run.json.part", "dropped.tmp", "README.md.part"]
    assert seen == [(what, name) for name in names for what in ("fsync", "replace")]


# Whose the folder is


@pytest.mark.parametrize("items", [[row(0)], [lost(0)]])
@pytest.mark.parametrize("calls", [True, False])
def test_rows_without_a_run_json_are_refused_and_force_starts_anew(
    tmp_path: Path, items: list[Revision | Drop], calls: bool
) -> None:
    session(tmp_path, items)
    (tmp_path / "run.json").unlink()
    if not calls:
        (tmp_path / "calls.sqlite").unlink()
    with pytest.raises(RunError, match=r"has rows but no run\.json: restore it, name another --out, or --force"):
        opened(tmp_path)
    opened(tmp_path, force=True).close()
    assert states(tmp_path) == {} and drops(tmp_path) == [] and (tmp_path / ROWS).read_bytes() == b""


def test_a_run_that_ended_before_its_first_row_and_run_json_goes_on(tmp_path: Path) -> None:
    opened(tmp_path).close()
    session(tmp_path, [row(0)])
    assert states(tmp_path) == {0: DONE}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "is damaged"),
        ("3", "is damaged"),
        ("{}", "is damaged"),
        ('{"identity": 3}', "is damaged"),
        ('{"format": 0, "identity": {}}', "is damaged"),
        ('{"format": "1", "identity": {}}', "is damaged"),
        ('{"format": 2, "identity": {}}', r"was made by a newer cai \(format 2, this one reads 1\)"),
        ("{", "cannot be read"),
    ],
)
def test_a_damaged_run_json_is_told_in_one_line_and_force_starts_anew(
    tmp_path: Path, content: str, problem: str
) -> None:
    session(tmp_path, [row(0)])
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=problem) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=problem) as caught:
        read_info(tmp_path, "name a run")
    assert "--force" not in str(caught.value)
    assert str(caught.value).endswith(("restore it, or name a run", "upgrade cai-toolkit"))
    run = opened(tmp_path, force=True)
    run.write_info()
    run.close()
    assert states(tmp_path) == {}


@pytest.mark.parametrize("name", ["thesis.tex", "run.json"])
def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"name": "of another program"}')
    with pytest.raises(RunError, match=r"holds other files|is damaged"):
        opened(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == [name]


# Prompts that changed


def test_a_record_that_is_no_prompt_is_dropped_once(tmp_path: Path) -> None:
    session(tmp_path, [bad(1)])
    run = opened(tmp_path)
    assert (isinstance(run.pending(BAD, 0), Drop), run.pending(BAD, 1)) == (True, False)
    run.close()


def test_a_prompt_that_became_no_prompt_or_came_in_its_place_is_refused(tmp_path: Path) -> None:
    session(tmp_path, [row(0), lost(1), bad(2)])
    run = opened(tmp_path)
    for position in (0, 1):
        with pytest.raises(RunError, match=rf"the input changed: number {position + 1} \(now no prompt\)"):
            run.pending(BAD, position)
    with pytest.raises(RunError, match=r"the input changed: number 3 \('r2'\)"):
        run.pending(prompt(2), 2)
    run.close()


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes among the files there")
@pytest.mark.parametrize("name", [".lock", "run.json", "calls.sqlite", "revisions.jsonl", "dropped.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    RunFolder(tmp_path, IDENTITY).close()
    (tmp_path / name).unlink(missing_ok=True)
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}
    make[kind](tmp_path / name)
    with pytest.raises(RunError, match=rf"{name} is not a file: move it away"):
        RunFolder(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("there", "now", "text"),
    [
        (None, {"at": 0.6}, "screen is not set there, set now"),
        ({"at": 0.6}, None, "screen is set there, not set now"),
        ({"at": 0.6}, {"at": 0.7}, "screen.at is 0.6 there, 0.7 now"),
        (None, "x", "screen is not set there, 'x' now"),
    ],
)
def test_what_two_runs_disagree_on_is_said_in_words(there: Any, now: Any, text: str) -> None:
    assert differences({"screen": there}, {"screen": now}) == [text]
