"""What a folder holds when it is opened after an end that was none: rows are believed only with all their calls."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
from pathlib import Path

import pytest
from stored_runs import IDENTITY, lost, revision

from cai.folder.journal.payloads import call_key, canonical_call
from cai.folder.lines import read_rows
from cai.folder.run import RunFolder
from cai.records import Completion, Prompt, Revision

ROWS = "revisions.jsonl"
EACH = 3  # calls of a row


def key(position: int, number: int) -> bytes:
    return call_key(canonical_call("openai", "m", {"messages": [f"{position}-{number}"]}, 0))


def row(position: int) -> Revision:
    made = revision(position, "better", "best")
    return made.model_copy(update={"calls": tuple(key(position, number).hex() for number in range(EACH))})


def fill(folder: Path, positions: range) -> None:
    """Finish rows in a folder as a run does."""

    async def play() -> None:
        run = RunFolder(folder, IDENTITY)
        for position in positions:
            made = row(position)
            for number in range(EACH):
                payload = {"messages": [f"{position}-{number}"]}
                done = Completion(f"answer {position}-{number}", "stop", "m", 1, 1)
                run.store.put(key(position, number), "openai", "m", payload, done, 0.5)
            await run.keep(made, position, Prompt(id=made.id, messages=made.prompt))
        run.write_info()
        run.close()

    asyncio.run(play())


def change(folder: Path, *statements: str) -> None:
    db = sqlite3.connect(folder / "calls.sqlite")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


def forget_calls(folder: Path, *positions: int, number: int = EACH - 1) -> None:
    """Leave what a kill before the commit left: lines whose last call, place and size were not committed."""
    for position in positions:
        change(folder, f"DELETE FROM calls WHERE hex(key) = '{key(position, number).hex().upper()}'")
        change(folder, f"DELETE FROM inputs WHERE position = {position}")
    lines = (folder / ROWS).read_bytes().splitlines(keepends=True)
    size = len(b"".join(lines[: min(positions)]))
    change(folder, f"UPDATE files SET size = {size} WHERE name = '{ROWS}'")


def opened(folder: Path) -> tuple[list[int], list[int]]:
    """Positions of the lines, and of the inputs that are finished, once the folder was opened."""
    run = RunFolder(folder, IDENTITY)
    finished = [position for position, _, state in run.store.rows.states() if state == "done"]
    run.close()
    lines = [Revision.model_validate_json(line).position for line in (folder / ROWS).read_bytes().splitlines()]
    return lines, finished


@pytest.mark.parametrize("gone", [(5,), (4, 5), (3, 5), (2, 3, 4, 5), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("number", range(EACH))
def test_a_row_whose_calls_are_not_all_there_is_not_believed(
    tmp_path: Path, gone: tuple[int, ...], number: int
) -> None:
    fill(tmp_path, range(6))
    forget_calls(tmp_path, *gone, number=number)
    change(tmp_path, f"DELETE FROM inputs WHERE position >= {min(gone)}")
    kept = [position for position in range(6) if position not in gone]
    assert opened(tmp_path) == (kept, kept)
    fill(tmp_path, range(min(gone), min(gone) + 1))
    assert sorted(opened(tmp_path)[0]) == sorted([*kept, min(gone)])


def test_a_row_that_is_taken_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, range(3))
    forget_calls(tmp_path, 2)
    with caplog.at_level(logging.WARNING):
        opened(tmp_path)
    assert "1 rows are taken out: their calls are lost" in caplog.text


@pytest.mark.parametrize("times", [1, 2])  # at the first replacement, and at one that repairs it
def test_a_kill_while_rows_are_taken_out_loses_none_and_makes_none_twice(
    tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, range(4))
    forget_calls(tmp_path, 3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(times):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "replace", killed)
            RunFolder(tmp_path, IDENTITY)
    assert opened(tmp_path) == ([0, 1, 2], [0, 1, 2])


@pytest.mark.parametrize("seed", range(5))
def test_a_line_that_is_there_twice_is_one_row(tmp_path: Path, seed: int) -> None:
    fill(tmp_path, range(5))
    lines = (tmp_path / ROWS).read_bytes().splitlines(keepends=True)
    chance = random.Random(seed)
    twice = [*lines, *chance.sample(lines, 2)]
    chance.shuffle(twice)
    (tmp_path / ROWS).write_bytes(b"".join(twice))
    if seed % 2:
        (tmp_path / "calls.sqlite").unlink()
    else:
        change(tmp_path, "UPDATE files SET size = 0")
    positions, finished = opened(tmp_path)
    assert sorted(set(positions)) == finished == list(range(5))
    assert [row.position for row in read_rows(tmp_path / ROWS, Revision)] == finished


def test_rows_are_kept_without_any_calls_if_the_store_was_taken_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, range(3))
    (tmp_path / "calls.sqlite").unlink()
    assert opened(tmp_path) == ([0, 1, 2], [0, 1, 2])
    assert "3 rows are kept, but the calls that made them are gone" in caplog.text
    fill(tmp_path, range(3, 5))
    assert opened(tmp_path) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_rows_that_were_still_to_grow_are_played_again_if_the_store_was_taken_away(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    longer = IDENTITY | {"rounds": 3}
    run = RunFolder(tmp_path, longer)
    run.grow()
    run.write_info()
    run.close()
    (tmp_path / "calls.sqlite").unlink()
    run = RunFolder(tmp_path, longer)
    assert [state for _, _, state in run.store.rows.states()] == ["grows"] * 3
    assert run.counts() == {"rows": 3, "dropped": {}}
    run.close()


def test_a_drop_that_the_journal_does_not_know_is_believed(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with (tmp_path / "dropped.jsonl").open("ab") as file:
        file.write(lost(2).model_dump_json().encode() + b"\n")
    run = RunFolder(tmp_path, IDENTITY)
    assert run.counts() == {"rows": 2, "dropped": {"truncated": 1}}
    run.close()
