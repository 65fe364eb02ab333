"""JSON that is not one record a line, tables in memory, and texts as sources."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai import sample
from cai.errors import SourceError
from cai.records import BadPrompt, Candidates, Prompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources import documents
from cai.sources.files import examine, read_prompts, read_records

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: f"q{text}?")
RECORDS = st.lists(
    st.fixed_dictionaries({"prompt": TEXTS}, optional={"id": st.integers(), "more": st.recursive(TEXTS, st.lists)}),
    min_size=1,
    max_size=8,
)


def as_list(records: list[Any], indent: int | None = None) -> str:
    return json.dumps(records, ensure_ascii=False, indent=indent)


def one_after_the_other(records: list[Any], between: str = "\n", indent: int | None = 2) -> str:
    return between.join(json.dumps(record, ensure_ascii=False, indent=indent) for record in records)


WRITERS: dict[str, Callable[[list[Any]], str]] = {
    "a list in one line": as_list,
    "an indented list": lambda records: as_list(records, 2),
    "a list, one record a line": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    "a list after blanks and a mark": lambda records: "\ufeff\n\n  " + as_list(records, 1) + "\n\n",
    "a list that opens with its first record": lambda records: as_list(records, 1).replace("[\n {", "[{\n", 1),
    "indented values": one_after_the_other,
    "indented values without breaks between": lambda records: one_after_the_other(records, ""),
    "indented values with tabs": lambda records: json.dumps(records[0], indent="\t") + one_after_the_other(records[1:]),
    "one record a line": lambda records: one_after_the_other(records, "\n", None),
}


def asked(source: Any, **options: Any) -> list[Any]:
    return [
        item.messages[-1]["content"] if isinstance(item, Prompt) else item for item in read_prompts(source, **options)
    ]


def stdin(content: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(content.encode())))


@pytest.mark.parametrize("writer", WRITERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 10)
@given(records=RECORDS)
def test_records_are_read_however_their_json_is_laid_out(tmp_path: Path, writer: str, records: list[Any]) -> None:
    expected = [record["prompt"] for record in records]
    text = WRITERS[writer](records)
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        assert asked(tmp_path / name) == asked(tmp_path / f"{name}.gz") == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin(text))
        assert asked("-") == expected


@settings(max_examples=60)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists).map(
        lambda value: {"a": value, "b": [1.25, "é", {"c": True}]}
    ),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
)
def test_no_place_at_which_a_read_ends_changes_a_value(value: Any, indent: int | None, chunk: int) -> None:
    data = json.dumps([value, value], ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "CHUNK", chunk)
        found = documents.document_values(data[:1], io.BytesIO(data[1:]), "a.json", 10**6)
        expected = json.loads(data.decode("utf-8", "surrogateescape"))
        assert list(found) == [(1, expected[0]), (2, expected[1])]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_messages_is_one_conversation_and_a_list_of_those_is_several(
    tmp_path: Path, indent: int | None
) -> None:
    talk = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2?"},
    ]
    (tmp_path / "a.json").write_text(as_list(talk, indent))
    assert asked(tmp_path / "a.json") == ["2?"]
    (tmp_path / "a.json").write_text(as_list([talk, talk[:1]], indent))
    assert asked(tmp_path / "a.json") == ["2?", "One?"]
    (tmp_path / "a.json").write_text(as_list(["Why?", "How?"], indent))
    assert asked(tmp_path / "a.json") == ["Why?", "How?"]


def test_pairs_in_a_list_are_read_by_their_number(tmp_path: Path) -> None:
    pairs = [{"prompt": "Hi?", "chosen": "a", "rejected": "b"}, {"prompt": "Hi?"}]
    (tmp_path / "a.json").write_text(as_list(pairs, 4))
    [(_, pair), (_, bad)] = read_pairs(tmp_path / "a.json")
    assert getattr(pair, "b_from", None) in ("chosen", "rejected")
    assert isinstance(bad, BadPrompt) and bad.line == 2


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[\n{"prompt": "one"},\n{"prompt" "two"}\n]', 3, "Expecting ':' delimiter"),
        ('[\n{"prompt": "one"},\n{"prompt": "tw\no"}\n]', 3, "Invalid control character at"),
        ('{\n "prompt": "one"\n}\n{\n "prompt": two\n}', 5, "Expecting value"),
        ('[{"prompt": "one"}, {"prompt": "two"}\n', 2, "the list of records is not closed"),
        ('[\n{"prompt": "one"},\n{"prompt": "two', 3, "Unterminated string"),
        ('[\n{"prompt": "one"}\n] and more', 3, "Expecting value"),
        ('[{"prompt": "one"}, {"prompt": "two"}, {"pro', 1, "Unterminated string"),
        ('[{"prompt": "one"}, {"prompt": "two"', 1, "Expecting ',' delimiter"),
        ('[{"prompt": "one"}, {"prompt" "two"}]\n', 1, "Expecting ':' delimiter"),
        ('[{"prompt": "one"}, {\'prompt\': "two"}]\n[{"prompt": "three"}]\n', 1, "Expecting property name"),
        ('[ {"prompt": "one"}, tru', 1, "Expecting value"),
    ],
)
def test_what_is_not_json_ends_the_reading_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    (tmp_path / "a.json").write_text(text)
    prompts = read_prompts(tmp_path / "a.json")
    assert isinstance(next(prompts), Prompt)
    with pytest.raises(SourceError) as caught:
        list(prompts)
    assert f"a.json:{line}: not JSON: {problem}" in str(caught.value)
    assert "what came before was read" in str(caught.value)


def test_a_first_line_that_is_not_json_costs_that_line_only(tmp_path: Path) -> None:
    for first in ("{oops", '{"prompt": "cut', '["a", ', "{'prompt': 'one'}"):
        (tmp_path / "a.jsonl").write_text(f'{first}x\n{{"prompt": "two"}}\n')
        bad, two = asked(tmp_path / "a.jsonl")
        assert isinstance(bad, BadPrompt) and bad.line == 1 and two == "two"


def test_a_long_list_in_one_line_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write("[")
        for number in range(20_000):
            file.write(f'{"," * (number > 0)}{{"prompt": "{number} {"x" * 1_000}"}}')
        file.write("]")
    assert path.stat().st_size > 20_000_000
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 60_000_000  # its first line is held, to see what it is
    tracemalloc.stop()


def test_how_many_records_a_list_has_is_not_known_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(as_list([{"prompt": "one"}, {"prompt": "two"}], 1))
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "two"}\n')
    assert examine(tmp_path / "a.json")[1] is None
    assert examine(tmp_path / "b.jsonl")[1] == 2


# Ids


@pytest.mark.parametrize("digits", ["1" * 20, "123456789012345678901234567890", "9" * 400])
@pytest.mark.parametrize("indent", [None, 1])
def test_whole_numbers_of_any_length_keep_their_digits_as_ids(tmp_path: Path, digits: str, indent: int | None) -> None:
    rows = [{"id": int(digits) + number, "prompt": f"{number}?"} for number in range(3)]
    (tmp_path / "a.jsonl").write_text(one_after_the_other(rows, indent=indent))
    ids = [item.id for item in read_prompts(tmp_path / "a.jsonl") if isinstance(item, Prompt)]
    assert ids == [str(row["id"]) for row in rows]


def test_rows_whose_id_another_has_are_named_by_their_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = tmp_path / "answers.jsonl"
    names = ["1", "2.5"]
    prompts = [
        {"id": value, "prompt": f"{number}?"} for number, value in enumerate([1.0, 2.5, None, True, "1", 1, ["a"]])
    ]
    hashes = [
        item.id for item in read_prompts([{"prompt": row["prompt"]} for row in prompts]) if isinstance(item, Prompt)
    ]
    expected = [names[0], names[1], *hashes[2:]]
    replies = [{"id": name, "role": "assistant", "index": 0, "reply": f"to {name}"} for name in expected]
    answers.write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    rows = list(sample(prompts, model=f"recorded:{answers}", n=1, out=tmp_path / "run"))
    assert sorted(row.id for row in rows) == sorted(expected)
    assert all(isinstance(row, Candidates) and row.replies[0].text == f"to {row.id}" for row in rows)
    assert sum("has the id of number 1" in message for message in caplog.messages) == 1
    assert list(sample(prompts, model=f"recorded:{answers}", n=1, out=tmp_path / "run")) == []  # all are there


# Tables in memory, and texts

RECORDS_OF_TABLES: list[dict[str, Any]] = [
    {"id": 1, "prompt": "one", "messages": None},
    {"id": 2, "prompt": None, "messages": [{"role": "user", "content": "two"}]},
    {"id": 3, "prompt": "three", "messages": None},
]


def frames() -> Iterator[Any]:
    pandas = pytest.importorskip("pandas")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(RECORDS_OF_TABLES)
    yield pandas.DataFrame(RECORDS_OF_TABLES)
    yield pandas.DataFrame(RECORDS_OF_TABLES).set_index("id", drop=False).convert_dtypes()
    yield table.to_pandas()  # lists are arrays of numpy
    yield table
    yield _LikePolars(RECORDS_OF_TABLES)


class _LikePolars:
    """The members of a polars frame that are used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self.columns = list(rows[0])

    def iter_rows(self, *, named: bool) -> Iterator[Any]:
        return iter(self._rows if named else [tuple(row.values()) for row in self._rows])


def test_the_rows_of_a_table_in_memory_are_records() -> None:
    count = 0
    for frame in frames():
        items = list(read_prompts(frame))
        assert [item.messages[-1]["content"] for item in items if isinstance(item, Prompt)] == ["one", "two", "three"]
        assert [item.id for item in items if isinstance(item, Prompt)] == ["1", "2", "3"]
        assert examine(frame) == ("python", None)
        count += 1
    assert count == 5


def test_a_frame_with_gaps_has_no_values_there() -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"id": 7, "prompt": "Hi?", "system": "Be brief.", "a": "x", "b": "y", "label": "a"},
            {"id": None, "prompt": "Ho?", "system": None, "a": "x", "b": "y", "label": None}]  # fmt: skip
    [(_, first), (_, second)] = read_pairs(pandas.DataFrame(rows))
    assert (first.id, first.human, len(first.messages)) == ("7", "a", 2)  # type: ignore[union-attr]
    assert (second.human, len(second.messages)) == (None, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        "How do I bake bread?", "Write a haiku about rain", "Is 1/2 more than 1/3?", "two\nlines", "What is e.g.",
        "Why? " * 2_000, "nul \0 inside",
    ],
)  # fmt: skip
def test_a_text_that_is_no_path_is_one_prompt(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert asked(text) == [text]


@pytest.mark.parametrize(
    "path",
    [
        "prompts", "prompts.jsonl", "my prompts.jsonl", "my prompts.json.gz", "data/my prompts", "/no such/folder",
        "./my prompts", "~/my prompts", "my prompts.tsv", "some/dataset",
    ],
)  # fmt: skip
def test_a_text_that_looks_like_a_path_is_a_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        list(read_prompts(path))


def test_a_file_whose_name_has_blanks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my own prompts.txt").write_text("one")
    assert asked("my own prompts.txt") == ["one"]


def test_a_run_over_one_text_asks_it(tmp_path: Path) -> None:
    [prompt] = read_prompts("How do I bake bread?")
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        json.dumps({"id": getattr(prompt, "id", ""), "role": "assistant", "index": 0, "reply": "Knead."})
    )
    [row] = sample("How do I bake bread?", model=f"recorded:{answers}", n=1, out=tmp_path / "run")
    assert row.replies[0].text == "Knead."
