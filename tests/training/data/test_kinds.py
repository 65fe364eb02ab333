"""The columns of a dataset decide what it trains; a null costs its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai.errors import InputError
from cai.training.data.dataset import load_rows
from cai.training.data.rowfile import read_rows

Record = dict[str, Any]


def user(text: str) -> list[Record]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[Record]:
    return [{"role": "assistant", "content": text}]


def pair(n: int) -> Record:
    return {"prompt": user(f"Question {n}?"), "chosen": said(f"Good {n}."), "rejected": said(f"Bad {n}, yes.")}


def letters(n: int) -> Record:
    return {"prompt": f"Question {n}?", "a": f"Good {n}.", "b": f"Bad {n}, yes.", "human": "a"}


def chat(n: int) -> Record:
    return {"messages": user(f"Question {n}?") + said(f"Answer {n}."), "source": "x"}


def plain(n: int) -> Record:
    return {"prompt": f"Question {n}?", "completion": f"Answer {n}."}


def alpaca(n: int) -> Record:
    return {"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."}


def graded(n: int) -> Record:
    return {"prompt": user(f"Question {n}?"), "completion": said(f"Answer {n}."), "label": n % 2 == 0}


SHAPES = [
    ("dpo", pair), ("reward", pair), ("dpo", letters), ("kto", pair), ("kto", graded), ("sft", chat), ("sft", plain),
    ("sft", alpaca),
]  # fmt: skip
NULLS = [
    pytest.param(method, shape, column, missing, place, id=f"{method}-{shape.__name__}-{column}-{missing}-{place}")
    for method, shape in SHAPES
    for column in shape(0)
    if column not in ("source", "input", "human")
    for missing in (None, float("nan"))
    for place in (0, 3)
]


@pytest.mark.parametrize(("method", "shape", "column", "missing", "place"), NULLS)
def test_a_null_costs_its_record_wherever_it_stands(
    method: str, shape: Any, column: str, missing: Any, place: int
) -> None:
    rows = [shape(n) for n in range(6)]
    rows[place] = {**rows[place], column: missing}
    file = read_rows(rows, method)
    assert [drop.line for drop in file.drops] == [place + 1]
    assert len(file.rows) == (10 if (method, shape) == ("kto", pair) else 5)
    assert file.read == len(file.rows) + 1


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_column_that_a_record_lacks_costs_that_record_too(place: int) -> None:
    rows = [pair(n) for n in range(6)]
    del rows[place]["rejected"]
    file = read_rows(rows, "dpo")
    assert ([drop.line for drop in file.drops], len(file.rows)) == ([place + 1], 5)


def test_a_label_without_a_value_does_not_make_sft_rows_of_graded_replies() -> None:
    rows = [graded(n) for n in range(4)]
    rows[0]["label"] = None
    file = read_rows(rows, "sft")
    assert len(file.rows) == 1 and all("cai train kto" in drop.detail for drop in file.drops)


LABELS: list[Any] = ["math", 3, 0.25, ["math"], {"kind": "math"}, "", None, -1]


@pytest.mark.parametrize("label", LABELS)
def test_sft_ignores_a_label_that_is_no_grade(label: Any) -> None:
    file = read_rows([{**plain(n), "label": label} for n in range(5)], "sft")
    assert (len(file.rows), file.drops) == (5, [])


def test_sft_ignores_numbers_that_are_classes_among_others() -> None:
    assert len(read_rows([{**plain(n), "label": n} for n in range(5)], "sft").rows) == 5


@pytest.mark.parametrize(
    "labels", [(True, False), (1, 0), (1.0, 0.0), ("True", "False"), ("true", "false"), ("1", "0")]
)
def test_true_and_false_labels_make_a_kto_file(tmp_path: Path, labels: tuple[Any, Any]) -> None:
    rows = [{**plain(n), "label": labels[n % 2]} for n in range(6)]
    with pytest.raises(InputError, match="single replies with a label, not what sft trains on: cai train kto"):
        load_rows(rows, "sft")
    assert [row.label for row in read_rows(rows, "kto").rows] == [True, False] * 3


@pytest.mark.parametrize("column", ["response", "output", "reply"])
def test_true_and_false_are_grades_of_replies_in_any_column(column: str) -> None:
    rows = [{"prompt": f"Question {n}?", column: f"Answer {n}.", "label": n % 2 == 0} for n in range(4)]
    assert [row.label for row in read_rows(rows, "kto").rows] == [True, False] * 2
    with pytest.raises(InputError, match="cai train kto"):
        read_rows(rows, "sft")


@pytest.mark.parametrize("label", ["yes", -1, 2, 0.5, "math"])
def test_kto_drops_a_label_that_is_no_grade(label: Any) -> None:
    [drop] = read_rows([graded(0), {**graded(1), "label": label}, graded(2)], "kto").drops
    assert "'label' is" in drop.detail and "not true or false" in drop.detail


def test_a_dataset_of_another_kind_is_refused_after_its_first_thousand_records() -> None:
    drawn = 0

    def endless() -> Any:
        nonlocal drawn
        while True:
            drawn += 1
            yield chat(drawn)

    with pytest.raises(InputError, match="cai train sft"):
        read_rows(endless(), "dpo")
    assert drawn == 1_000


def test_records_of_another_kind_among_the_others_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [chat(0), pair(1), pair(2), chat(3)]))
    file = read_rows(path, "dpo")
    assert ([drop.line for drop in file.drops], len(file.rows)) == ([1, 4], 2)


# Single replies from pairs


@pytest.mark.parametrize("shape", [pair, letters])
def test_a_pair_is_a_desirable_and_an_undesirable_reply(shape: Any) -> None:
    data = load_rows([{**shape(n), "id": f"q{n}"} for n in range(4)], "kto", split=1)
    told = [(row.id, row.reply, row.label) for row in data.train]
    assert told[:2] == [("q0:chosen", "Good 0.", True), ("q0:rejected", "Bad 0, yes.", False)]
    assert data.read == len(told) == 8
    assert all(first.key == second.key for first, second in zip(data.train[::2], data.train[1::2], strict=True))


def test_a_pair_without_a_preference_or_with_a_tie_grades_nothing() -> None:
    file = read_rows([letters(0), {**letters(1), "human": None}, {**letters(2), "human": "tie"}], "kto")
    assert [drop.reason for drop in file.drops] == ["bad_input", "low_confidence"]


def test_the_conversation_beside_a_pair_is_what_sft_learns() -> None:
    rows = [{**pair(n), "messages": chat(n)["messages"]} for n in range(3)]
    assert [row.reply for row in read_rows(rows, "sft").rows] == [f"Answer {n}." for n in range(3)]
    assert [row.reply for row in read_rows(rows, "dpo").rows] == [f"Good {n}." for n in range(3)]
