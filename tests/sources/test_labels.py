"""Which of two replies a label means: by its words, by the file's own numbers, or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shape_readers import JUDGING, Record

from cai.errors import SourceError
from cai.evaluation.bench import _labelled
from cai.judge.majority import People
from cai.records import BadPrompt, Contest
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case
from cai.sources.replies import ENDS, NAMES
from cai.training.data.rowfile import read_rows

COLUMNS = [(name + first, name + second) for name in NAMES for first, second in ENDS]
LETTERS = [("a", "b"), ("A", "B"), *((f, s) for f, s in COLUMNS if f[-1] in "aA")]
FROM_1 = [(f, s) for f, s in COLUMNS if f.endswith("1")]
FROM_0 = [(f, s) for f, s in COLUMNS if f.endswith("0")]


def pairs(columns: tuple[str, str], labels: Any, name: str = "label") -> list[Record]:
    """Records whose first reply is x and whose second is y."""
    first, second = columns
    return [{"prompt": f"Q{n}?", first: "x", second: "y", name: label} for n, label in enumerate(labels)]


def preferred(records: list[Record]) -> list[str | None]:
    """What each record prefers, read for a judge, if training reads the same: x, y, tie, or None: nothing."""
    preferences: list[str | None] = []
    for record, (_, item) in zip(records, read_pairs(records), strict=True):
        assert isinstance(item, Contest)
        better = {"a": item.a, "b": item.b}.get(item.human or "", item.human)
        rows = read_rows([record], "dpo")
        assert [row.reply for row in rows.rows] == ([better] if better in ("x", "y") else [])
        preferences.append(better)
    return preferences


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_label_may_be_the_column_of_a_reply(columns: tuple[str, str]) -> None:
    assert preferred(pairs(columns, [*columns, columns[1].upper()], "winner")) == ["x", "y", "y"]


IN_WORDS = {
    "x": ("a", "A", " a ", "[[A]]", "(a)", "**A**", "first", "model_a", "Model A", "response_a", "assistant A", "A>B",
          "A>>B", "[[A>B]]", True, "True"),
    "y": ("b", "second", "MODEL_B", "reply B", "output-b", "answer b.", "B>A", "A<B", "B>>A", False, "false"),
    "tie": ("tie", "Tie", "draw", "A=B", "[[A=B]]", "tie (bothbad)", "both_bad", "Both good", 0.5, "0.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["label", "winner", "gold", "human", "preference", "preferred", "choice", "chosen"])
@pytest.mark.parametrize("meaning", IN_WORDS)
def test_words_mean_the_same_in_every_column(meaning: str, name: str) -> None:
    for columns in LETTERS[::4]:
        assert set(preferred(pairs(columns, IN_WORDS[meaning], name))) == {meaning}


@pytest.mark.parametrize("label", [0, 1, "1", -1, "-1", 2, "math", "abc", "c", "response", "a or b", 1.5, "ab", [1]])
def test_what_could_be_either_reply_beside_letters_is_no_label(label: Any) -> None:
    for columns in LETTERS[::4]:
        assert preferred(pairs(columns, [label])) == [None]


def test_a_drop_names_the_label_that_could_be_either_reply() -> None:
    [drop] = read_rows(pairs(("answer_a", "answer_b"), [1]), "dpo").drops
    assert "nothing says which of 'answer_a' and 'answer_b' is better, and 'label' 1 could be either" in drop.detail
    [drop] = read_rows(pairs(("answer_a", "answer_b"), [None]), "dpo").drops
    assert drop.detail == "nothing says which of 'answer_a' and 'answer_b' is better: cai label asks a judge"


# Numbers


@pytest.mark.parametrize("columns", [*FROM_1, *FROM_0])
@pytest.mark.parametrize("form", [int, float, str, "{}.0".format])
def test_numbers_are_those_of_the_columns(columns: tuple[str, str], form: Any) -> None:
    numbers = [int(columns[0][-1]), int(columns[1][-1])]
    assert preferred(pairs(columns, [form(numbers[0]), form(numbers[1]), form(numbers[0])])) == ["x", "y", "x"]


def all_read(source: Any) -> Iterator[Any]:
    yield lambda: list(read_pairs(source))
    yield lambda: _labelled(source, People(), None)
    for method in ("dpo", "kto", "reward"):
        yield lambda method=method: read_rows(source, method)


@pytest.mark.parametrize("name", ["label", "winner", "preference", "better_response_id"])
@pytest.mark.parametrize(
    ("columns", "labels"),
    [*((columns, "01") for columns in FROM_1[::3]), *((columns, "12") for columns in FROM_0[::3])],
)
def test_a_file_whose_numbers_are_not_those_of_its_columns_is_refused(
    columns: tuple[str, str], labels: str, name: str
) -> None:
    for order in itertools.product(labels, repeat=3):
        if len(set(order)) > 1:
            for read in all_read(pairs(columns, map(int, order), name)):
                with pytest.raises(
                    SourceError, match=f"a label beside {columns[0]!r} is {labels.replace('1', '')}, so a 1"
                ):
                    read()


@given(st.lists(st.sampled_from([0, 1, 2]), min_size=3, max_size=9).filter(lambda labels: 2 in labels))
def test_0_is_a_tie_in_a_file_that_counts_from_1(labels: list[int]) -> None:
    read = [item for _, item in read_pairs(pairs(("output_1", "output_2"), labels))]
    expected = {0: "tie", 1: "a", 2: "b"}
    assert [getattr(item, "human", None) for item in read] == [expected[label] for label in labels]


@given(st.permutations([0, 1, 2, 1]))
def test_three_numbers_beside_columns_that_count_from_0_are_refused(labels: list[int]) -> None:
    for read in all_read(pairs(("response_0", "response_1"), labels)):
        with pytest.raises(SourceError, match="write a or b, or end the names of the columns"):
            read()


def test_records_wait_only_until_their_numbers_are_certain() -> None:
    taken = []

    def endless() -> Iterator[Record]:
        for number in itertools.count():
            taken.append(number)
            yield {"prompt": f"Q{number}?", "output_1": "x", "output_2": "y", "label": 2 if number == 3 else 1}

    stream = read_pairs(endless())
    assert [next(stream)[1].human for _ in range(6)] == ["a", "a", "a", "b", "a", "a"]  # type: ignore[union-attr]
    assert len(taken) <= 7


def test_the_error_names_the_file_and_the_line(tmp_path: Any) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,output_1,output_2,label\nQ?,x,y,1\nR?,x,y,1\nS?,x,y,0\n")
    for read in all_read(path):
        with pytest.raises(SourceError) as refusal:
            read()
        assert str(refusal.value).startswith(f"{path}:4: a label beside 'output_1' is 0, so a 1 may be")


@pytest.mark.parametrize("label", [[1], (2,), {"winner": 1}, [[1]], ["a"]])
def test_several_labels_are_not_one(label: Any) -> None:
    [(_, item)] = read_pairs(pairs(("output_1", "output_2"), [label]))
    assert isinstance(item, BadPrompt) and "not 1 or 2" in item.problem
    assert preferred(pairs(("response_a", "response_b"), [label])) == [None]


# Who wrote it


@pytest.mark.parametrize(
    ("record", "meaning"),
    [
        ({"model_a": "gpt-4", "model_b": "vicuna", "response_a": "x", "response_b": "y", "winner": "gpt-4"}, "x"),
        ({"model_a": "gpt-4", "model_b": "vicuna", "response_a": "x", "response_b": "y", "winner": "Vicuna "}, "y"),
        ({"model_A": "gpt-4", "model_B": "vicuna", "response_A": "x", "response_B": "y", "label": "vicuna"}, "y"),
        ({"model_1": "a1", "model_2": "b1", "output_1": "x", "output_2": "y", "winner": "b1"}, "y"),
        ({"generator_1": "a1", "generator_2": "b1", "output_1": "x", "output_2": "y", "preference": "a1"}, "x"),
        ({"model_0": "m", "model_1": "n", "answer_0": "x", "answer_1": "y", "winner": "n"}, "y"),
        ({"model_a": "m", "model_b": "m", "response_a": "x", "response_b": "y", "winner": "m"}, None),
        ({"model_a": "m", "model_b": "n", "response_a": "x", "response_b": "y", "winner": "o"}, None),
        ({"model_a": None, "model_b": "n", "response_a": "x", "response_b": "y", "winner": "None"}, None),
    ],
)
def test_a_winner_may_be_the_name_of_a_model(record: Record, meaning: str | None) -> None:
    assert preferred([{"prompt": "Q?", **record}]) == [meaning]


@pytest.mark.parametrize("scores", [(1.0, -1.0, "x"), (-0.5, 0.5, "y"), (0.0, 0.0, "tie"), (None, 1.0, None)])
def test_scores_of_webgpt_say_which_answer_is_better(scores: tuple[Any, Any, str | None]) -> None:
    first, second, meaning = scores
    record = {"question": {"full_text": "Q?"}, "answer_0": "x", "answer_1": "y", "score_0": first, "score_1": second}
    assert preferred([record]) == [meaning]


# Columns that say it themselves

SELF_EVIDENT = [
    ("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"), ("good_edited_response", "bad_edited_response"),
]  # fmt: skip


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize("columns", SELF_EVIDENT)
def test_the_first_of_these_columns_is_better(columns: tuple[str, str], command: str) -> None:
    for more in ({}, {"label": "b"}, {"winner": "model_b"}, {"label": 0}):  # of what the pair was made from
        [record] = pairs(columns, [None], "note")
        assert JUDGING[command]({**record, **more})[1:] == ("x", "y")


@pytest.mark.parametrize("tie", [{"status": "tie"}, {"label": "Tie"}, {"winner": "tie (bothbad)"}])
def test_a_tie_is_one_beside_chosen_too(tie: Record) -> None:
    [record] = pairs(("chosen", "rejected"), [None], "note")
    assert preferred([{**record, **tie}]) == ["tie"]


@pytest.mark.parametrize(("human", "meaning"), [("chosen", "x"), ("rejected", "y"), ("tie", "tie"), (None, None)])
def test_of_our_own_pairs_people_decide_what_the_label_is_and_the_judge_what_trains(
    human: str | None, meaning: str | None
) -> None:
    [record] = pairs(("chosen", "rejected"), [human], "human")
    [(_, item)] = read_pairs([record])
    assert isinstance(item, Contest)
    assert {"a": item.a, "b": item.b}.get(item.human or "", item.human) == meaning
    assert [row.reply for row in read_rows([record], "dpo").rows] == ["x"]


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_third_reply_is_not_passed_over(columns: tuple[str, str]) -> None:
    third = {"a": "c", "A": "C", "0": "2", "1": "3"}[columns[0][-1]]
    record = {**pairs(columns, ["a"])[0], columns[0][:-1] + third: "z"}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, BadPrompt) and "is a third reply" in item.problem
    [drop] = read_rows([record], "dpo").drops
    assert "list all of them under 'replies'" in drop.detail
    with pytest.raises(Exception, match="is a third reply"):
        read_case(record)


@pytest.mark.parametrize("name", ["replies", "generations", "responses", "outputs", "completions", "candidates"])
@pytest.mark.parametrize("column", ["ratings", "scores"])
@pytest.mark.parametrize("ratings", [[1, 5, 3], [2.0, 2.5, -1.0], [4, None, 1]])
def test_ratings_beside_a_list_of_replies_say_which_is_better(name: str, column: str, ratings: list[Any]) -> None:
    record = {"instruction": "Q?", name: ["r0", "r1", "r2"], column: ratings}
    for (x, y), (_, item) in zip([(0, 1), (0, 2), (1, 2)], read_pairs([record]), strict=True):
        first, second = ratings[x], ratings[y]
        expected = None if None in (first, second) else "a" if first > second else "b"
        assert (getattr(item, "a", None), getattr(item, "human", None)) == (f"r{x}", expected)
    known = [number for number in range(3) if ratings[number] is not None]
    best = max(known, key=lambda number: ratings[number])
    assert [row.reply for row in read_rows([record], "dpo").rows] == [f"r{best}"]


def test_ratings_of_another_length_say_nothing_and_lists_beside_a_pair_are_not_its_replies() -> None:
    record = {"prompt": "Q?", "generations": ["r0", "r1"], "ratings": [1, 2, 3]}
    [(_, item)] = read_pairs([record])
    assert getattr(item, "human", "") is None
    [(_, item)] = read_pairs([{**record, "chosen": "x", "rejected": "y"}])
    assert isinstance(item, Contest) and {item.a, item.b} == {"x", "y"}
