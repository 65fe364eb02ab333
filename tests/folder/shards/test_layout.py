"""Which shard plays what, where its folder is, and what may not be in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import RunError, UsageError
from cai.folder.shards.layout import Shard, check_place, ranges, shard_of, shards_in


@given(st.integers(1, 70), st.integers(0, 300))
def test_every_place_is_in_one_shard(count: int, total: int) -> None:
    shards = [shard_of(f"{number}/{count}") for number in range(count)]
    for place in range(total):
        assert sum(shard.has(place) for shard in shards) == 1
    assert sum(shard.size(total) for shard in shards) == total


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("64/64", "numbered from 0 to 63"),
        ("3", "write i/n"),
        ("-1/4", "write i/n"),
        ("a/b", "write i/n"),
        ("", "write i/n"),
        ("1/2/3", "write i/n"),
        ("0/0", "1 to 99,999"),
        ("0/100000", "1 to 99,999"),
        ("1/1", "numbered from 0 to 0"),
    ],
)
def test_what_is_no_shard_is_refused_with_its_value(text: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice) as raised:
        shard_of(text)
    assert text in str(raised.value)


def test_the_folder_of_a_shard_is_found_again(tmp_path: Path) -> None:
    shards = [Shard(63, 64), Shard(3, 64), Shard(10, 64)]
    for shard in shards:
        shard.folder(tmp_path).mkdir(parents=True)
    (tmp_path / "shards" / "notes").mkdir()
    assert shard_of("3/64").folder(tmp_path) == tmp_path / "shards" / "00003-of-00064"
    assert shards_in(tmp_path) == sorted(shards)


def test_a_folder_holds_a_whole_run_or_shards_of_one_number(tmp_path: Path) -> None:
    check_place(tmp_path, Shard(0, 2))
    check_place(tmp_path, None)
    Shard(0, 2).folder(tmp_path).mkdir(parents=True)
    check_place(tmp_path, Shard(1, 2))
    with pytest.raises(RunError, match="holds shards of 2, and --shard 0/3"):
        check_place(tmp_path, Shard(0, 3))
    with pytest.raises(RunError, match="holds shards of 2: add --shard i/2"):
        check_place(tmp_path, None)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "run.json").write_text('{"identity": {"command": "sample"}}')
    with pytest.raises(RunError, match="holds a run without shards: leave out --shard 0/2"):
        check_place(whole, Shard(0, 2))


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    named = []
    for part in filter(None, ranges(sorted(numbers)).split(", ")):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
