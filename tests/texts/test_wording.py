from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from cai.texts.wording import (
    cell,
    close_to,
    columns,
    counted,
    listed,
    nearest,
    number,
    one_line,
    printable,
    reason_of,
    render_card,
)


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "row", "0 rows"),
        (1, "row kept", "1 row kept"),
        (2, "row kept", "2 rows kept"),
        (1200, "call", "1,200 calls"),
        (2, "reply rated", "2 replies rated"),
        (2, "day", "2 days"),
    ],
)
def test_a_count_agrees_with_its_noun(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("critiqe", "did you mean 'critique'?"),
        ("CRITIQUE", "did you mean 'critique'?"),
        ("zzz", "known: critique, revise"),
        (3, "known: critique, revise"),
    ],
)
def test_a_name_that_is_not_known_gets_the_nearest_one_or_all(name: object, hint: str) -> None:
    assert nearest(name, ("critique", "revise")) == hint


def test_the_nearest_name_is_written_as_it_is_known() -> None:
    assert close_to("prompts.jsnl", ["Prompts.jsonl"]) == "Prompts.jsonl"
    assert close_to("x", []) is None


def test_many_names_are_counted_after_the_first_forty() -> None:
    assert listed([f"n{number}" for number in range(42)]).endswith("n38, n39 and 2 more")


def test_an_error_is_told_in_one_line_of_bounded_length() -> None:
    assert reason_of(ValueError("two\n  lines\t")) == "two lines"
    assert reason_of(ValueError()) == "ValueError"
    assert len(reason_of(ValueError("x" * 1000))) == 300


def test_white_space_becomes_single_blanks() -> None:
    assert one_line(" a \r\n b\u2028c ") == "a b c"


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert printable("a\x1b[31m\u202eb\tc\n") == "a\\x1b[31m\\u202eb\tc\n"


def test_a_card_is_filled_in_and_nothing_in_a_value_can_leave_its_span(tmp_path: Path) -> None:
    template = tmp_path / "card.md.jinja"
    template.write_text("# {{ code(name) }}\n{% if rows %}\n\n{{ block('text', rows) }}\n{% endif %}\n", "utf-8")
    text = render_card(template, {"license": "unknown"}, name="`{{ x }}`\x1b", rows="1")
    assert text == "---\nlicense: unknown\n---\n\n# `` `{{ x }}`\ufffd ``\n\n```text\n1\n```\n\n"
    with pytest.raises(UndefinedError):
        render_card(template, {}, name="x")


def test_the_first_column_is_aligned_left_and_the_others_right() -> None:
    assert columns("name | n\na | 1,000\n") == "name      n\na     1,000\n"


def test_a_row_of_one_cell_is_a_heading_and_widens_nothing() -> None:
    assert columns("a heading that is long\n\na | 1\n") == "a heading that is long\n\na  1\n"


def test_a_remark_stands_behind_the_columns_as_it_is() -> None:
    assert columns("a | 1 || , it says\nbc | 20\n") == "a    1, it says\nbc  20\n"


@given(st.lists(st.text() | st.text(" |\n\x1f"), min_size=2, max_size=4))
def test_a_text_stays_in_its_cell_whatever_it_holds(texts: list[str]) -> None:
    row = " | ".join(map(cell, texts))
    first, *others = map(one_line, texts)
    assert columns(f"{row}\n") == f"{'  '.join([first, *others])}".rstrip() + "\n"


def test_a_number_that_is_not_known_is_a_dash() -> None:
    assert [number(None, ".1%"), number(0.5, ".1%")] == ["–", "50.0%"]
