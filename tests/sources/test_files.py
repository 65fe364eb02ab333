from __future__ import annotations

import csv
import gc
import gzip
import io
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import shared

from cai.errors import MissingExtra, SourceError, UsageError
from cai.records import BadPrompt, Message, Prompt
from cai.sources import lines
from cai.sources.files import examine, read_prompts

ROOT = Path(__file__).resolve().parents[2]

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return put


def asked(source: Any, **options: Any) -> list[str]:
    """The last turn of every prompt; a bad one as `line: problem`."""
    return [
        item.messages[-1]["content"] if isinstance(item, Prompt) else f"{item.line}: {item.problem}"
        for item in read_prompts(source, **options)
    ]


def failure(source: Any, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        list(read_prompts(source, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '"one"\n{"prompt": "two"}\n'),
        ("a.JSONL", '\ufeff"one"\r\n\r\n"two"'),
        ("a.txt", "one\n\n  \ntwo"),
        ("a.csv", "prompt,n\none,1\n\ntwo,2\n"),
        ("a.csv", '\ufeffid,prompt\r\n1,one\r\n2,"two"\r\n'),
    ],
)
def test_each_text_format_gives_its_prompts(write: Write, name: str, content: str, packed: str) -> None:
    assert asked(write(name + packed, content)) == asked(str(write(name + packed, content))) == ["one", "two"]


def test_the_examples_of_the_page_about_prompts_are_true(write: Write) -> None:
    page = (ROOT / "docs" / "prompts.md").read_text()
    examples = re.findall(r"```(jsonl|csv|txt)([^\n]*)\n(.*?)```\n\n```json\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 9
    for kind, arguments, content, expected in examples:
        words = iter(arguments.split())
        options = {name.removeprefix("--prompt-").removeprefix("--"): next(words) for name in words}
        prompts = list(read_prompts(write(f"example.{kind}", content), **options))
        assert [list(prompt.messages) for prompt in prompts if isinstance(prompt, Prompt)] == json.loads(expected)
        assert len(prompts) == len(json.loads(expected))


def test_the_built_in_set_is_read_when_no_source_is_named() -> None:
    prompts = list(read_prompts())
    assert prompts and all(isinstance(prompt, Prompt) for prompt in prompts)
    assert examine(None)[0].startswith(".jsonl ")


def test_a_set_that_comes_along_is_read_by_its_name_unless_a_file_is_called_so(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(list(read_prompts("contrast"))) == 200
    assert examine("builtin") == examine(None)
    (tmp_path / "contrast").mkdir()
    with pytest.raises(SourceError, match="is a folder"):
        read_prompts("contrast")
    with pytest.raises(SourceError, match="no such file; built-in are builtin, contrast, ordinary; of the hub is"):
        read_prompts("questions")


def test_bad_lines_come_out_with_their_line_and_the_rest_is_read(write: Write) -> None:
    lines = [b'"one"', b"", b"{oops", b'"\\ud800"', b'"\xff"', b"[NaN]", b'{"n": 1}', b'{"prompt": " "}', b'"two"']
    items = list(read_prompts(write("a.jsonl", b"\n".join(lines))))
    assert [item.line for item in items if isinstance(item, BadPrompt)] == [3, 4, 5, 6, 7, 8]
    assert [item.reason for item in items if isinstance(item, BadPrompt)] == ["bad_input"] * 5 + ["empty"]
    assert [item.messages[0]["content"] for item in items if isinstance(item, Prompt)] == ["one", "two"]


def test_a_text_line_that_is_not_utf8_is_a_bad_line(write: Write) -> None:
    assert asked(write("a.txt", b"one\nt\xffo\n")) == ["one", "2: not UTF-8: invalid start byte (byte 2)"]


def test_lines_end_at_newlines_only(write: Write) -> None:
    assert asked(write("a.txt", " a\u2028b\x0bc\x85d \r\n")) == [" a\u2028b\x0bc\x85d "]
    assert asked(write("a.jsonl", '"a\u2028b"\n')) == ["a\u2028b"]


def test_escaped_nul_characters_pass(write: Write) -> None:
    assert asked(write("a.jsonl", '"a\\u0000b"')) == ["a\0b"]


def test_a_line_of_ten_megabytes_is_a_prompt(write: Write) -> None:
    assert [len(text) for text in asked(write("a.jsonl", '"' + "x" * 10_000_000 + '"\n"b"'))] == [10_000_000, 1]


def test_a_line_over_the_cap_is_passed_over(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    content = '"{}"\n"{}"\n"ok"\n"{}"'.format("x" * 97, "y" * 950, "z" * 99)
    assert asked(write("a.jsonl", content)) == [
        "x" * 97, "2: the line is longer than 100 bytes", "ok", "4: the line is longer than 100 bytes",
    ]  # fmt: skip
    assert "a.csv:2: the line is longer" in failure(write("a.csv", "prompt\n" + "x" * 101))


def test_csv_fields_may_hold_newlines_commas_and_quotes_and_be_large(write: Write) -> None:
    texts = ['say "hi",\r\nthen go', "x" * 200_000, "{{ 7*7 }}"]
    out = io.StringIO()
    csv.writer(out).writerows([["n", "prompt"], *enumerate(texts)])
    assert asked(write("a.csv", out.getvalue())) == texts


def test_bad_csv_rows_come_out_with_the_line_they_start_on(write: Write) -> None:
    content = b'id,prompt\n1,"two\nlines"\n2,un,quoted\n3\n4,b\xffd\n5,"a"b\n6,\n7,fine\n'
    problems = asked(write("a.csv", content))
    assert problems[0] == "two\nlines" and problems[6] == "fine"
    assert [problem.split(":")[0] for problem in problems[1:6]] == ["4", "5", "6", "7", "8"]
    assert len(problems) == 7
    assert "3 fields, but the header has 2" in problems[1]
    assert "not UTF-8" in problems[3] and "not CSV" in problems[4] and "empty" in problems[5]


OPEN = {  # the rows of a CSV in which a quote is left open, and the lines that are not read
    "until the end": (['b,"Why is the sky', "c,What is rain?", "d,What is snow?"], (3, 5)),
    "in the last row": (["b,What is fog?", 'c,"Why is the sky'], (4, 4)),
    "until a quoted row": (['b,"Why is the sky', "c,What is rain?", 'd,"What is snow?"', "e,ice"], (3, 5)),
    "until a quoted word": (['b,"Why is the sky', 'c,What is "rain" to you?', "d,ice"], (3, 4)),
    "until a quote before a comma": (['b,"Why is the sky', "c,What is rain?", 'd,",of', "e,What is ice?"], (3, 5)),
    "in the first column": (['"b,Why is the sky', "c,What is rain?", "d,What is snow?"], (3, 5)),
    "after an inner quote": (['b,"Why ""is"" the sky', "c,What is rain?"], (3, 4)),
    "twice": (['b,"Why is the sky', 'c,"What is rain?', "d,What is snow?"], (3, 4)),
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("name", OPEN)
def test_a_quote_that_is_left_open_ends_the_reading_with_the_lines_that_are_lost(
    write: Write, name: str, end: str, packed: str
) -> None:
    rows, (first, last) = OPEN[name]
    path = write(f"a.csv{packed}", (end or "\n").join(["id,prompt", "a,What is tea?", *rows]) + end)
    prompts = read_prompts(path)
    for number in range(2, first):
        assert isinstance(next(prompts), Prompt), number
    with pytest.raises(SourceError) as caught:
        list(prompts)
    lines = f"line {first} was" if first == last else f"lines {first} to {last} were"
    assert f"{path}:{first}: a quote is not closed in the row that begins here: {lines} not read" in str(caught.value)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_csv_writer_writes_is_read_back(tmp_path: Path, rows: list[list[str]]) -> None:
    texts = [f"{number}{text}" for number, (text, _) in enumerate(rows)]
    out = io.StringIO()
    csv.writer(out).writerows([["prompt", "n"], *([text, row[1]] for text, row in zip(texts, rows, strict=True))])
    (tmp_path / "a.csv").write_bytes(out.getvalue().removesuffix("\r\n").encode())
    if texts:
        assert asked(tmp_path / "a.csv") == texts


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('1,5" of snow', '5" of snow'),
        ('1,say "hi" twice', 'say "hi" twice'),
        ('1,"a ""quoted"" word"', 'a "quoted" word'),
        ('1,""', "2: the prompt is empty"),
        ("1,a; b\tc | d", "a; b\tc | d"),
        ('1,"one\ntwo, three\nfour"', "one\ntwo, three\nfour"),
        ("1,nul \0 late", "nul \0 late"),
    ],
)
def test_quotes_and_other_marks_inside_fields_are_text(write: Write, row: str, text: str) -> None:
    filler = "0," + "x" * 9_000 + "\n" if "\0" in row else ""
    found = asked(write("a.csv", f"id,prompt\n{filler}{row}"))
    assert found[-1] == text


def test_a_table_without_a_usable_column_names_those_it_has(write: Write, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"headline": ["a"]}), tmp_path / "b.parquet")
    for path in (write("a.csv", "headline\na\n"), tmp_path / "b.parquet"):
        assert "it has 'headline'; name yours with --prompt-field" in failure(path)
        assert "did you mean 'headline'?" in failure(path, field="hedline")
        assert asked(path, field="headline") == ["a"]


def test_parquet_gives_strings_and_lists_of_messages(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": 1, "prompt": "one", "messages": None, "blob": b"x"},
        {"id": 2, "prompt": None, "messages": [{"role": "user", "content": "two"}], "blob": b"y"},
        {"id": 3, "prompt": None, "messages": None, "blob": b"z"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    items = list(read_prompts(tmp_path / "a.parquet"))
    assert [item.id for item in items if isinstance(item, Prompt)] == ["1", "2"]
    assert items[2] == BadPrompt(line=3, problem="'prompt' is null", reason="empty")


def test_a_damaged_parquet_file_is_an_error(write: Write) -> None:
    pytest.importorskip("pyarrow")
    assert "cannot be read as parquet" in failure(write("a.parquet", b"PAR1 nonsense"))


@pytest.mark.parametrize(("source", "package"), [("a.parquet", "pyarrow"), ("hf:a/b", "datasets")])
def test_a_missing_package_names_the_extra(
    write: Write, monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = write("a.parquet", b"")
    with pytest.raises(MissingExtra, match=r"pip install 'cai-toolkit\[data\]'"):
        next(read_prompts(path if source == "a.parquet" else source))


@pytest.fixture
def hub_set(write: Write, tmp_path: Path) -> str:
    """A folder in the hub's layout, which `load_dataset` takes in place of a name."""
    pytest.importorskip("datasets")
    write("one.jsonl", '{"prompt": "train of a"}\n{"messages": [{"role": "user", "content": "second"}]}\n')
    write("two.jsonl", '{"prompt": "test of a"}\n')
    write("three.jsonl", '{"question": "only of b"}\n')
    card = {"a": {"train": "one.jsonl", "test": "two.jsonl"}, "b": {"only": "three.jsonl"}}
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {path}\n" for split, path in files.items())
        for name, files in card.items()
    )
    write("README.md", f"---\nconfigs:\n{configs}---\n")
    return f"hf:{tmp_path}"


def test_a_hub_dataset_is_streamed_by_configuration_and_split(hub_set: str) -> None:
    assert asked(f"{hub_set}:a") == ["train of a", "second"]
    assert asked(f"{hub_set}:a:test") == ["test of a"]
    assert asked(f"{hub_set}:b", field="question") == ["only of b"]


def test_a_hub_dataset_with_one_split_or_a_wrong_one(write: Write, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write("test.jsonl", '{"prompt": "alone"}\n')
    assert asked(f"hf:{tmp_path}") == asked(f"hf:{tmp_path}:test") == ["alone"]
    assert "no split 'tset'; did you mean 'test'?" in failure(f"hf:{tmp_path}:tset")
    assert "did you mean 'prompt'?" in failure(f"hf:{tmp_path}", field="promt")


def test_a_hub_dataset_that_cannot_be_loaded_is_one_clear_line(hub_set: str) -> None:
    assert f"{hub_set}: cannot be read after row 0: " in failure(hub_set)
    assert "hf:/no/such/folder:train: cannot be read" in failure("hf:/no/such/folder:train")
    assert "write hf:org/name" in failure("hf:a:b:c:d")


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> str:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    return "-"


def test_standard_input_mixes_json_records_and_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'"one"\n{"prompt": "two"}\n"three" she said\n42\n[four] is it\n{five\n\xff\n'
    items = asked(stdin(monkeypatch, content))
    assert items[:5] == ["one", "two", '"three" she said', "42", "[four] is it"]
    assert items[5].startswith("6: not JSON: ") and items[5].endswith("use --format text")
    assert items[6] == "7: not UTF-8: invalid start byte (byte 1)"
    assert asked(stdin(monkeypatch, b'{five\n"six"'), format="text") == ["{five", '"six"']
    assert asked(stdin(monkeypatch, b'{"q": "seven"}\n'), field="q") == ["seven"]
    assert "standard input: there is no prompt" in failure(stdin(monkeypatch, b"\n\n"))


def test_any_iterable_of_records_is_a_source() -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="four"),))
    records = ["one", {"prompt": "two"}, [{"role": "user", "content": "three"}], prompt, 5]
    assert asked(iter(records)) == ["one", "two", "three", "four", "5: " + asked([5])[0][3:]]


def test_a_dataset_in_memory_is_a_source() -> None:
    datasets = pytest.importorskip("datasets")
    assert asked(datasets.Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}])) == ["one", "two"]


def test_an_endless_source_is_read_one_record_at_a_time() -> None:
    drawn = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            drawn.append(number)
            yield str(number)

    prompts = read_prompts(endless())
    assert not drawn
    next(prompts)
    assert drawn == [0]


def test_a_file_is_closed_when_reading_stops_early(write: Write) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name in ("a.jsonl", "a.jsonl.gz"):
            prompts = read_prompts(write(name, '"one"\n"two"\n'))
            next(prompts)
            del prompts
        gc.collect()
    assert told == []  # an open file would warn


@pytest.mark.parametrize("cut", [20, 60])
def test_a_cut_off_gzip_gives_the_rows_before_the_damage(tmp_path: Path, cut: int) -> None:
    packed = gzip.compress(b"".join(b'"%d %s"\n' % (number, os.urandom(40).hex().encode()) for number in range(2000)))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) * cut // 100])
    seen = 0
    with pytest.raises(SourceError, match=r"damaged or cut off after line (\d+) .*what came before was read") as caught:
        for _ in read_prompts(tmp_path / "a.jsonl.gz"):
            seen += 1
    assert f"after line {seen} " in str(caught.value)
    assert abs(seen - 2000 * cut / 100) < 40


def test_a_gzip_with_a_wrong_checksum_or_none_at_all_is_an_error(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'"one"\n"two"\n'))
    packed[-6] ^= 1
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert "damaged" in failure(tmp_path / "a.jsonl.gz")
    (tmp_path / "a.jsonl.gz").write_bytes(b'"one"\n')
    assert "damaged or cut off after line 0 " in failure(tmp_path / "a.jsonl.gz")


def test_a_missing_file_is_an_error_at_once_and_suggests_a_sibling(write: Write, tmp_path: Path) -> None:
    write("prompts.jsonl", '"a"')
    with pytest.raises(SourceError, match=r"no such file; did you mean .*prompts\.jsonl\?"):
        read_prompts(tmp_path / "promts.jsonl")
    with pytest.raises(SourceError, match="hf:org/name"):
        read_prompts("some/dataset")
    with pytest.raises(SourceError, match="cannot be looked up: File name too long"):
        examine("why" * 100)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", "", "there is no prompt in it"),
        ("a.jsonl.gz", "", "there is no prompt in it"),
        ("a.txt", "\n \n", "there is no prompt in it"),
        ("a.csv", "", "there is no prompt in it"),
        ("a.csv", "prompt\n", "there is no prompt in it"),
        ("a.csv", '"prompt', "a.csv:1: a quote is not closed"),
        ("a.csv", 'id,"prompt\n1,one\n2,two\n', "a.csv:1: a quote is not closed in the row that begins here: lines 1"),
        ("a.csv", 'pro"mpt\n"a"b', "no column"),
        ("a.txt", b"\x7fELF\0\0", "NUL bytes"),
        ("a.jsonl", '"a"'.encode("utf-16"), "UTF-16"),
        ("a.csv.gz", b"prompt\n\0", "NUL bytes"),
        ("a.toml", "a", "unknown kind of prompt file; known: .jsonl[.gz], .json[.gz], .csv[.gz], .txt[.gz], .parquet"),
        ("a.parquet.gz", "", "unknown kind"),
        ("noextension", "a", "- for standard input"),
    ],
)
def test_a_source_that_cannot_be_used_says_so(write: Write, name: str, content: str | bytes, says: str) -> None:
    assert says in failure(write(name, content))


def test_a_folder_a_dict_and_an_empty_list_are_refused(tmp_path: Path) -> None:
    assert "is a folder" in failure(tmp_path)
    assert "there is no prompt" in failure([])
    with pytest.raises(UsageError, match="one split"):
        read_prompts({"train": []})


def test_an_unknown_format_is_refused_at_once_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown prompt format 'mesages'; did you mean 'messages'\?"):
        read_prompts(["a"], format="mesages")
    with pytest.raises(UsageError, match="known: auto, text, prompt, messages, hh"):
        read_prompts(["a"], format="xyz")


def test_the_identity_of_a_file_is_its_content_and_kind_not_its_place(write: Write, tmp_path: Path) -> None:
    path = write("a.jsonl", '"one"')
    before = examine(path)[0]
    moved = path.rename(tmp_path / "moved.jsonl")
    assert examine(moved)[0] == examine(str(moved))[0] == before
    assert examine(write("b.txt", '"one"'))[0] != before
    assert examine(write("c.jsonl", '"two"'))[0] != before


def test_the_identity_of_what_cannot_be_hashed_is_its_kind() -> None:
    assert [examine(source) for source in ("-", "hf:a/b", ["a"])] == [
        ("stdin", None),
        ("hf:a/b", None),
        ("python", None),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary() | st.recursive(st.text(), st.lists).map(orjson.dumps), min_size=1))
def test_no_line_ends_the_reading(tmp_path: Path, values: list[bytes]) -> None:
    rows = [b"".join(line.splitlines()).replace(b"\0", b"") for line in values]
    for kind in ("jsonl", "txt", "csv"):
        (tmp_path / f"a.{kind}").write_bytes(b'prompt\n"first"\n' + b"\n".join(rows))
        try:
            items = list(read_prompts(tmp_path / f"a.{kind}"))
        except SourceError as error:
            assert kind == "csv" and "a quote is not closed" in str(error)
            continue
        places = [item.line for item in items if isinstance(item, BadPrompt)]
        assert places == sorted(set(places))
        if kind != "csv":
            assert len(items) == 2 + sum(not line.isspace() and line != b"" for line in rows)


@pytest.mark.shared_data
def test_real_preference_transcripts_part_where_the_last_answers_begin() -> None:
    path = shared("hh_harmless_dev.jsonl.gz")
    with gzip.open(path) as lines:
        rows = [orjson.loads(line) for line in lines]
    chosen, rejected = list(read_prompts(path)), list(read_prompts(path, field="rejected"))
    assert len(chosen) == 1156 and chosen == rejected
    kept = [item for item in chosen if isinstance(item, Prompt)]
    assert len(kept) == 1156
    assert sum(sum(turn["role"] == "user" for turn in prompt.messages) > 1 for prompt in kept) == 808
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    whole = ["".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in prompt.messages) for prompt in kept]
    exact = sum(
        row["chosen"].startswith(f"{text}\n\nAssistant:") and row["rejected"].startswith(f"{text}\n\nAssistant:")
        for row, text in zip(rows, whole, strict=True)
    )
    assert exact >= 1150  # the others hold two answers in a row, which are merged
