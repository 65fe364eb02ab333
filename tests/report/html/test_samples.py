"""Which rows a page shows: fair in every group, the same ones each time, as many as fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cai.report.html.samples import MOST_GROUPS, Sample, Strata, fitting


def load(places: frozenset[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from ((place, {"place": place}) for place in sorted(places))


def sample_of(groups: list[str], most: int = 10, seed: int = 0) -> Sample:
    strata = Strata(most, seed, "run")
    for place, group in enumerate(groups):
        strata.offer(group, place)
    sample = strata.sample(load)
    assert sample is not None
    return sample


def encode(row: dict[str, Any]) -> bytes:
    return b"%06d" % row["place"]


@given(st.lists(st.sampled_from("abc"), min_size=1), st.integers(1, 20))
def test_a_sample_takes_from_every_group_in_turn(groups: list[str], most: int) -> None:
    sample = sample_of(groups, most)
    totals = Counter(groups)
    assert {group.name: group.total for group in sample.groups} == totals
    assert len(sample.order) == len(set(sample.order)) == min(most, len(groups))
    drawn = Counter(sample.groups[number].name for number, _ in sample.order)
    assert all(groups[place] == sample.groups[number].name for number, place in sample.order)
    open_groups = [name for name in totals if drawn[name] < totals[name]]
    assert all(drawn[name] + 1 >= max(drawn.values()) for name in open_groups)


def test_every_row_of_a_group_has_the_same_chance() -> None:
    counts = Counter(place for seed in range(2_000) for _, place in sample_of(["a"] * 20, 5, seed).order)
    # 500 expected of each, with a standard deviation of 19
    assert len(counts) == 20 and all(420 < count < 580 for count in counts.values())


def test_the_order_in_which_rows_pass_does_not_matter() -> None:
    strata = [Strata(5, 0, "run") for _ in range(2)]
    for one, places in zip(strata, (range(50), reversed(range(50))), strict=True):
        for place in places:
            one.offer("a", place)
    first, second = (one.sample(load) for one in strata)
    assert first is not None and second is not None and first.order == second.order


def test_groups_that_data_makes_up_without_end_are_put_together() -> None:
    sample = sample_of([f"reason {place}" for place in range(200)])
    assert len(sample.groups) == MOST_GROUPS + 1
    assert sample.groups[-1].total == 200 - MOST_GROUPS


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 60), st.integers(0, 300))
def test_samples_share_rows_and_bytes(sizes: list[int], most: int, room: int) -> None:
    samples = [sample_of(["a"] * size, 30) for size in sizes]
    shown = fitting(samples, most, room, encode)
    counts = [len(one.rows) for one in shown]
    assert sum(counts) <= most and sum(len(row) + 1 for one in shown for row in one.rows) <= room
    assert [sum(one.counts) for one in shown] == counts
    assert all(one.rows == sorted(one.rows) for one in shown)
    if room >= 7 * sum(sizes):
        assert sum(counts) == min(most, sum(sizes))
