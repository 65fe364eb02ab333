"""Drawing principles by weight, from the seed and the id of a row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.draw import draw
from cai.constitution.principles import Principle

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6)


def weighted(*weights: float) -> list[Principle]:
    return [Principle.model_validate({"id": f"p{i}", "text": "Be good.", "weight": w}) for i, w in enumerate(weights)]


@given(st.integers(1, 6), st.integers(0, 20), st.integers(), st.text(max_size=20))
def test_no_principle_comes_twice_before_all_have_come(count: int, rounds: int, seed: int, row: str) -> None:
    drawn = [p.id for p in draw(weighted(*[1.0] * count), rounds, seed, row, stream="principles")]
    assert len(drawn) == rounds
    for start in range(0, rounds, count):
        turn = drawn[start : start + count]
        assert len(set(turn)) == len(turn)


def test_a_draw_depends_on_seed_and_row_alone() -> None:
    principles = weighted(1, 2, 3, 4, 5)
    draws = {
        (s, r): tuple(p.id for p in draw(principles, 4, s, r, stream="principles")) for s in range(5) for r in "abcde"
    }
    assert draws == {
        key: tuple(p.id for p in draw(principles, 4, *key, stream="principles")) for key in reversed(draws)
    }
    assert len({draws[0, row] for row in "abcde"}) > 1
    assert len({draws[seed, "a"] for seed in range(5)}) > 1


def test_a_longer_chain_begins_like_a_shorter_one() -> None:
    principles = weighted(1, 2, 3, 4, 5)
    assert draw(principles, 4, 0, "row", stream="principles")[:2] == draw(principles, 2, 0, "row", stream="principles")


def test_the_draws_of_a_seed_are_the_same_on_every_machine_and_day() -> None:
    principles = weighted(1, 1, 1, 1)
    drawn = [[p.id for p in draw(principles, 3, 7, row, stream="principles")] for row in ("a", "b", "ö")]
    assert drawn == [["p3", "p0", "p1"], ["p1", "p0", "p3"], ["p0", "p1", "p2"]]
    drawn = [[p.id for p in draw(principles, 3, 7, row, stream="judge")] for row in ("a", "b", "ö")]
    assert drawn == [["p2", "p0", "p1"], ["p3", "p1", "p2"], ["p1", "p0", "p3"]]


def test_principles_come_as_often_as_their_weights_say() -> None:
    weights, rows = (1.0, 2.0, 3.0, 4.0), 4_000
    counts = Counter(draw(weighted(*weights), 1, 0, str(row), stream="principles")[0].id for row in range(rows))
    expected = {f"p{i}": rows * weight / sum(weights) for i, weight in enumerate(weights)}
    chi_square = sum((counts[name] - wanted) ** 2 / wanted for name, wanted in expected.items())
    assert chi_square < 16.3  # 3 degrees of freedom: one seed in a thousand exceeds it


@pytest.mark.parametrize("weights", [(1e308, 1e308, 1e308), (5e-324, 5e-324), (1e308, 5e-324)])
def test_extreme_weights_can_be_drawn_from(weights: tuple[float, ...]) -> None:
    assert len(draw(weighted(*weights), len(weights), 0, "row", stream="principles")) == len(weights)


def test_a_row_whose_id_is_odd_text_is_drawn_for_like_any_other() -> None:
    odd: list[Any] = ["", "\0", "\U0001f600", "a" * 10_000]
    assert all(len(draw(weighted(1, 1), 2, 0, row, stream="principles")) == 2 for row in odd)


@given(WEIGHTS, st.sampled_from([2.0**-900, 0.125, 4.0, 2.0**900]), st.integers(0, 5), st.integers(1, 5))
def test_weights_scale_out_of_the_draw(weights: list[float], factor: float, seed: int, count: int) -> None:
    scaled = weighted(*(weight * factor for weight in weights))
    drawn = draw(weighted(*weights), count, seed, "row", stream="judge")
    assert [p.id for p in draw(scaled, count, seed, "row", stream="judge")] == [p.id for p in drawn]


def test_two_principles_are_drawn_together_as_often_as_their_weights_say() -> None:
    law = weighted(1, 2, 7)
    both = Counter(frozenset(p.id for p in draw(law, 2, 0, f"row {n}", stream="judge")) for n in range(4_000))
    # Without repetition: 0.1·(2/9) + 0.2·(1/8) for the two light ones.
    assert both[frozenset({"p0", "p1"})] / 4_000 == pytest.approx(0.1 * 2 / 9 + 0.2 / 8, abs=0.01)


def test_the_draws_of_two_streams_are_independent() -> None:
    law = weighted(*[1.0] * 16)
    rows = [f"row {n}" for n in range(50)]
    pairs = [(draw(law, 3, 7, row, stream="principles"), draw(law, 3, 7, row, stream="judge")) for row in rows]
    assert sum(one == other for one, other in pairs) < 5
