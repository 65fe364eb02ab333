"""Inputs that other shards play: they take contents and ids as in one run."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.folder.journal import elsewhere
from cai.folder.journal.inputs import names_of
from cai.folder.journal.rows import TABLES, Rows

Input = tuple[int, str]  # a number for its content, and its id; "" for none
INPUTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "a", "b", "c"])), max_size=14)


def outcomes(inputs: Sequence[Input], number: int, count: int) -> dict[int, tuple[str, int]]:
    """What becomes of the inputs of a shard: repeated, and of which; or the name of each, and who has its id."""
    found = {}
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(TABLES)
        guard: Any = SimpleNamespace(bare=nullcontext())
        rows = Rows(Path(), db, guard, lambda: None)
        for position, (content, given_id) in enumerate(inputs):
            digest = bytes([content]) * 16
            names = names_of(digest, given_id or digest.hex())
            if position % count != number:
                rows.pass_by(names, position)
                continue
            first = rows.first_position(names[0], position)
            if first != position:
                found[position] = "repeated", first
                continue
            owner = rows.first_position(names[-1], position)
            found[position] = "own id" if owner == position else "hash", owner
    return found


@given(INPUTS, st.integers(2, 4), st.sampled_from([1, 3, 1_000]))
def test_shards_find_what_one_run_finds(inputs: list[Input], count: int, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "AT_ONCE", at_once)
        parts: dict[int, tuple[str, int]] = {}
        for number in range(count):
            parts |= outcomes(inputs, number, count)
    assert parts == outcomes(inputs, 0, 1)
