"""The last line of an input is its row: to whoever reads as the run goes on, after a kill, and once it is closed."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_runs import IDENTITY, lost, make_run, revision

import cai
from cai.folder import lookup as module
from cai.folder.journal.inputs import GROWS, digest_of
from cai.folder.lines import lines_in_order, read_rows
from cai.folder.lookup import Lookup
from cai.folder.run import RunFolder
from cai.records import Drop, Prompt, Revision
from cai.sources.files import read_records

ROOMS = itertools.count()
NAME = "revisions.jsonl"
# What becomes of an input each time it is played: a row of so many rounds, or a drop for some reason.
OUTCOMES = st.integers(1, 9) | st.sampled_from(["model_error", "truncated", "empty"])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 2_000)


def outcome(position: int, what: int | str) -> Revision | Drop:
    if isinstance(what, str):
        drop = lost(position, what)
        return drop.model_copy(update={"prompt": revision(position).prompt})
    return revision(position, *(f"text {number}" for number in range(what)))


def left_out(position: int) -> Drop:
    """What an export writes of a row that is in none of its files."""
    return Drop(id=f"r{position}", position=position, stage="sft", reason="preamble_leak", detail="…")


def play(folder: Path, turns: Sequence[tuple[int, int | str]], copy: Path | None = None) -> None:
    """Play inputs, some of them again and again; copy: gets what a kill would leave."""

    async def fill() -> None:
        run = RunFolder(folder, IDENTITY)
        run.write_info()
        before = dict[int, int | str]()
        for position, what in turns:
            item = outcome(position, what)
            prompt = Prompt(id=f"r{position}", messages=revision(position).prompt)
            if isinstance(before.get(position), int):
                await run.store.committed()
                run.store.rows.mark(position, digest_of(None, prompt.messages), GROWS)
            if position in before:
                run.retried = ("model_error", "truncated", "empty")
                assert run.pending(prompt, position) is True
            before[position] = what
            if isinstance(item, Drop):
                await run.drop(item)
            else:
                await run.keep(item, position, prompt)
        if copy is not None:
            shutil.copytree(folder, copy)
        run.close()

    asyncio.run(fill())


def rows_and_drops(folder: Path) -> tuple[dict[int, bytes], dict[int, str]]:
    """What `Lookup` says of every input."""
    rows, drops = {}, {}
    with Lookup(folder, NAME) as run:
        for position in range(8):
            entry = run.at(position)
            if entry is not None and entry.row is not None:
                rows[position] = entry.row
            elif entry is not None:
                drops[position] = entry.drop["reason"]  # type: ignore[index]
    return rows, drops


def lines(folder: Path, name: str) -> list[int]:
    return sorted(orjson.loads(line)["position"] for line in (folder / name).read_bytes().splitlines())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=st.lists(st.tuples(st.integers(0, 7), OUTCOMES), min_size=1, max_size=20))
def test_every_reader_takes_the_last_outcome_of_an_input(turns: list[tuple[int, int | str]], tmp_path: Path) -> None:
    folder, killed = tmp_path / str(next(ROOMS)), tmp_path / str(next(ROOMS))
    play(folder, turns, killed)
    last = {position: outcome(position, what) for position, what in turns}
    rows = {at: item.model_dump_json().encode() for at, item in last.items() if isinstance(item, Revision)}
    drops = {at: item.reason for at, item in last.items() if isinstance(item, Drop)}
    ended_as_rows = {at: line for at, line in dict(lines_in_order(killed / NAME)).items() if at in rows}
    assert {at: line.rstrip() for at, line in ended_as_rows.items()} == rows
    assert rows_and_drops(killed) == (rows, drops)
    RunFolder(killed, IDENTITY).close()
    for settled in (killed, folder):
        assert rows_and_drops(settled) == (rows, drops)
        assert (lines(settled, NAME), lines(settled, "dropped.jsonl")) == (sorted(rows), sorted(drops))


@pytest.mark.parametrize("seed", range(5))
def test_the_last_of_several_lines_is_read_in_input_order(tmp_path: Path, seed: int) -> None:
    turns = [(at, 1) for at in range(9)] + [(at * (seed + 2) % 9, 2 + at % 2) for at in range(9)]
    path = tmp_path / NAME
    path.write_bytes(b"".join(outcome(*turn).model_dump_json().encode() + b"\n" for turn in turns) + b'{"torn')
    last = dict(turns)
    assert [(row.position, len(row.rounds)) for row in read_rows(path, Revision)] == sorted(last.items())


def test_lines_of_an_export_stay_beside_rows_that_grew(tmp_path: Path) -> None:
    play(tmp_path, [(0, 1), (1, 1), (2, "truncated")])
    with (tmp_path / "dropped.jsonl").open("ab") as file:
        file.writelines(left_out(at).model_dump_json().encode() + b"\n" for at in (0, 0, 1))
    db = sqlite3.connect(tmp_path / "calls.sqlite")
    size = (tmp_path / "dropped.jsonl").stat().st_size
    db.execute("UPDATE files SET size = ? WHERE name = 'dropped.jsonl'", (size,))
    db.commit()
    db.close()
    play(tmp_path, [(0, 2), (0, 3), (1, 2), (1, "empty"), (2, "truncated"), (2, 2)])
    assert lines(tmp_path, NAME) == [0, 2]
    assert lines(tmp_path, "dropped.jsonl") == [0, 0, 1, 1]


@pytest.mark.parametrize("times", [1, 2])
def test_a_row_whose_files_must_be_read_again_is_played_again_after_growth(tmp_path: Path, times: int) -> None:
    """Files alone do not say whether the row or the drop of an input came last, nor how long a row is to be."""
    killed = tmp_path / "killed"
    play(tmp_path / "run", [(0, 1), (1, 1), (2, 1), (0, 2), (1, "truncated")], killed)
    for _ in range(times):
        db = sqlite3.connect(killed / "calls.sqlite")
        db.execute(f"UPDATE files SET size = 0 WHERE name = '{NAME}'")
        db.commit()
        db.close()
        run = RunFolder(killed, IDENTITY)
        assert {state for _, _, state in run.store.rows.states()} == {GROWS}
        run.store.close()
        run._lock.close()


def test_a_folder_of_a_version_that_left_no_note_is_looked_through_once(tmp_path: Path) -> None:
    make_run(tmp_path, [outcome(0, 1), outcome(1, 1)])
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + outcome(0, 2).model_dump_json().encode() + b"\n")
    db = sqlite3.connect(tmp_path / "calls.sqlite")
    db.execute("DELETE FROM files WHERE name = 'repeats'")
    db.execute("UPDATE files SET size = ?", (path.stat().st_size,))
    db.execute("UPDATE files SET size = 0 WHERE name = 'dropped.jsonl'")
    db.commit()
    db.close()
    assert len(orjson.loads(rows_and_drops(tmp_path)[0][0])["rounds"]) == 2
    RunFolder(tmp_path, IDENTITY).close()
    assert lines(tmp_path, NAME) == [0, 1]


@pytest.mark.parametrize("most", [1, 3, 9])
def test_what_is_to_grow_does_not_show_whether_a_model_can_be_read(tmp_path: Path, most: int) -> None:
    """A judge whose answers were cut gets a higher limit: its old ones must not stop the run again."""
    make_run(tmp_path, [outcome(at, 1) for at in range(6)])
    run = RunFolder(tmp_path, IDENTITY)
    for at in (0, 1, 4):
        run.store.rows.mark(at, digest_of(None, revision(at).prompt), GROWS)
    assert [row.position for row in run.first_rows(most)] == [2, 3, 5][:most]
    run.close()


# Files that are read as any other file of records


@pytest.mark.parametrize("seed", range(4))
def test_records_of_a_run_that_was_killed_as_it_grew_are_those_that_it_will_have(tmp_path: Path, seed: int) -> None:
    turns = [(at, 1) for at in range(6)] + [(at * (seed + 1) % 5, 2 + at % 2) for at in range(5)]
    killed = tmp_path / "killed"
    play(tmp_path / "run", turns, killed)
    assert len((killed / NAME).read_bytes().splitlines()) > 6
    of_killed, of_run = (dict(read_records(folder / NAME)) for folder in (killed, tmp_path / "run"))
    assert sorted(map(orjson.dumps, of_killed.values())) == sorted(map(orjson.dumps, of_run.values()))
    lines = (killed / NAME).read_bytes().splitlines()
    assert all(orjson.loads(lines[number - 1]) == record for number, record in of_killed.items())
    assert cai.audit(killed / NAME).rows == 6
    copy = tmp_path / "copy.jsonl"  # without a run beside it, lines are lines
    copy.write_bytes((killed / NAME).read_bytes())
    assert len(list(read_records(copy))) == len(lines)


def test_what_people_write_into_the_rows_takes_the_place_of_none(tmp_path: Path) -> None:
    make_run(tmp_path, [outcome(0, 1), outcome(1, 1)])
    path = tmp_path / NAME
    own = path.read_bytes().splitlines()
    by_people = [orjson.dumps({**orjson.loads(own[0]), "annotator": who}) for who in ("ann", "bob")]
    path.write_bytes(b"\n".join([*own, *by_people, b""]))
    assert len(list(read_records(path))) == 4
    RunFolder(tmp_path, IDENTITY).close()
    assert path.read_bytes().splitlines() == own
