from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import get_args

import pytest

from cai.errors import CaiError
from cai.folder.journal.inputs import DONE, REASONS_OF_0_1_0, state_of
from cai.folder.journal.store import Store
from cai.folder.run import RunFolder
from cai.records import DropReason

# As version 0.1.0 listed them. A folder of that version holds places in this list, so that it must never change.
OF_0_1_0 = (
    "bad_input invalid_vote order_flip low_confidence identical duplicate_prompt near_duplicate empty truncated "
    "preamble_leak role_mixup refused_benign length_ratio both_refused content_filter model_error too_long not_extreme "
    "over_target"
)


def old_journal(folder: Path, states: list[int]) -> None:
    """Turn the journal of a folder into one of version 0.1.0, with these states at its positions."""
    Store(folder).close()
    db = sqlite3.connect(folder / "calls.sqlite")
    db.executescript(
        "DROP TABLE inputs; PRAGMA user_version=1;"
        "CREATE TABLE inputs(position INTEGER PRIMARY KEY, hash BLOB NOT NULL, state INTEGER NOT NULL);"
    )
    db.executemany("INSERT INTO inputs VALUES (?, ?, ?)", [(at, b"h", state) for at, state in enumerate(states)])
    db.commit()
    db.close()


def test_a_kind_of_run_that_is_not_registered_says_where_to_add_it(tmp_path: Path) -> None:
    with pytest.raises(CaiError, match=r"a run of cai topic is of no kind that .*\(KINDS in cai/records/kinds\.py\)"):
        RunFolder(tmp_path / "run", {"command": "topic"})
    assert not (tmp_path / "run").exists()


def test_the_numbers_of_version_0_1_0_keep_their_meaning() -> None:
    assert " ".join(REASONS_OF_0_1_0) == OF_0_1_0
    assert set(REASONS_OF_0_1_0) <= set(get_args(DropReason))


def test_a_state_is_read_by_name_whichever_version_wrote_it() -> None:
    assert [state_of(1), state_of(100), state_of(107), state_of(118)] == [DONE, "bad_input", "empty", "over_target"]
    assert [state_of("done"), state_of("a reason of a later version")] == ["done", "a reason of a later version"]


def test_an_old_journal_is_read_and_continued_by_name(tmp_path: Path) -> None:
    old_journal(tmp_path, [1, 101, 1, 115])
    store = Store(tmp_path)
    rows = store.rows
    assert [state for _, _, state in rows.states()] == [DONE, "invalid_vote", DONE, "model_error"]
    rows.mark(3, b"h", DONE)
    rows.mark(4, b"i", "invalid_vote")
    assert rows.state(1) == (b"h", "invalid_vote")
    assert rows.count() == {DONE: 3, "invalid_vote": 2}
    store.close()


@pytest.mark.parametrize("states", [[], [1, 101]])
def test_new_states_are_stored_by_name(tmp_path: Path, states: list[int]) -> None:
    old_journal(tmp_path, states)
    store = Store(tmp_path)
    store.rows.mark(len(states), b"h", "near_duplicate")
    store.close()
    db = sqlite3.connect(tmp_path / "calls.sqlite")
    assert [row[0] for row in db.execute("SELECT state FROM inputs ORDER BY position")] == [*states, "near_duplicate"]
    db.close()


def test_a_new_reason_between_the_others_renames_no_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_journal(tmp_path, [1, 108])
    first, *others = get_args(DropReason)
    monkeypatch.setattr("cai.folder.run.DROP_REASONS", (first, "of_tomorrow", *others))
    run = RunFolder(tmp_path, {"command": "generate"})
    run.store.rows.mark(0, b"h", DONE)
    run.store.rows.mark(1, b"h", "truncated")
    run.store.rows.mark(2, b"i", "of_tomorrow")
    run.store.rows.mark(3, b"j", "of_next_week")
    assert run.counts() == {"rows": 1, "dropped": {"of_tomorrow": 1, "truncated": 1, "of_next_week": 1}}
    run.close()


def test_a_state_that_was_read_ahead_is_not_stale(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = store.rows
    assert [rows.state(0), rows.state(1)] == [None, None]
    rows.mark(1, b"h", "model_error")
    assert [rows.state(0), rows.state(1)] == [None, (b"h", "model_error")]
    rows.mark(5_000, b"i", DONE)
    assert [rows.state(5_000), rows.state(1)] == [(b"i", DONE), (b"h", "model_error")]
    rows.forget()
    assert [rows.state(1), rows.state(5_000)] == [None, None]
    store.close()
