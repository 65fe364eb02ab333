"""Tables as lines of text."""

from __future__ import annotations

from cai.texts.tables import columns, number


def test_the_first_column_is_aligned_left_and_the_others_right() -> None:
    assert columns([["name", "n"], ["a", "1,000"]]) == ["name      n", "a     1,000"]


def test_a_row_of_one_cell_is_a_heading_and_widens_nothing() -> None:
    assert columns([["a heading that is long"], [], ["a", "1"]]) == ["a heading that is long", "", "a  1"]


def test_a_number_that_is_not_known_is_a_dash() -> None:
    assert [number(None, ".1%"), number(0.5, ".1%")] == ["–", "50.0%"]
