from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_labels import LEAK, MIXED, PLAIN, REFUSED, A, filters, label, swapped, unit

from cai.export.options import Filters
from cai.export.pairs import standing_reason, standings
from cai.sources.conversations import prompt_hash


def test_a_reply_stands_at_its_mean_probability_over_the_pairs_it_is_in() -> None:
    rows = unit((0, 1, 1.0), (0, 2, 3.0), (1, 2, None))
    found = {reply.name[1]: reply for reply in standings(rows, PLAIN)}
    sigma = [1 / (1 + math.exp(-z)) for z in (1.0, 3.0)]
    assert found["sample 0"].p == pytest.approx(sum(sigma) / 2)
    assert found["sample 1"].p == pytest.approx(1 - sigma[0])
    assert found["sample 0"].labels == ["q0:0-1", "q0:0-2"]
    assert (found["sample 2"].id, found["sample 2"].labels) == ("q0:0-2:sample 2", ["q0:0-2"])


def test_equal_texts_are_one_reply_under_the_lowest_number() -> None:
    rows = unit((0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5))
    for row in rows:
        row |= {side: " Same. " if row[f"{side}_from"] != "sample 1" else "Other." for side in "ab"}
    found = standings(rows, PLAIN)
    assert [(reply.name[1], reply.text, len(reply.won)) for reply in found] == [
        ("sample 0", " Same. ", 2),
        ("sample 1", "Other.", 2),
    ]


def test_a_reply_that_met_itself_alone_and_one_without_text_are_told_apart() -> None:
    [alone] = standings([label(0.3, A, A + "\n")], PLAIN)
    assert alone.p is None
    assert standing_reason(alone, [], PLAIN, 0.5) == ("identical", "it was only compared with itself")
    assert [reply.text for reply in standings([label(2.0, A, " ")], PLAIN)] == [A]


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=3, max_size=3), filters)
def test_replies_stand_the_same_when_pairs_are_swapped(odds: list[tuple[float, bool]], asked: Filters) -> None:
    rows = unit(*((x, y, z) for (x, y), (z, _) in zip([(0, 1), (0, 2), (1, 2)], odds, strict=True)))
    turned = [swapped(row) if swap else row for row, (_, swap) in zip(rows, odds, strict=True)]
    assert standings(turned, asked) == standings(rows, asked)


@pytest.mark.parametrize(
    ("z", "a", "upper", "whys"),
    [
        (2.0, A, 0.7, [None, None]),
        (0.5, A, 0.7, ["low_confidence"] * 2),
        (0.0, A, 0.5, ["low_confidence"] * 2),
        (0.1, A, 0.5, [None, None]),
        (2.0, LEAK, 0.7, ["preamble_leak", None]),
        (-2.0, LEAK, 0.7, [None, None]),
        (2.0, MIXED, 0.7, ["role_mixup", None]),
        (2.0, REFUSED, 0.7, ["refused_benign", None]),
        (-2.0, REFUSED, 0.7, [None, None]),
    ],
)
def test_a_reply_is_an_example_outside_the_dead_zone_and_without_a_fault_to_imitate(
    z: float, a: str, upper: float, whys: list[str | None]
) -> None:
    row = label(z, a)
    asked = Filters(0.5, benign=frozenset([prompt_hash(row["prompt"])]))
    reasons = [standing_reason(reply, row["prompt"], asked, upper) for reply in standings([row], asked)]
    assert [reason and reason[0] for reason in reasons] == whys
