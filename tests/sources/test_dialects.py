"""Tables and texts as other programs write them are read, or refused in one line; none is read as another thing."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import SourceError
from cai.records import Prompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources.files import read_prompts, read_records
from cai.sources.tables import csv_rows
from cai.training.data.rowfile import read_rows

READERS: list[Callable[[Path], Any]] = [
    lambda path: list(read_prompts(path)),
    lambda path: list(read_pairs(path)),
    lambda path: read_rows(path, "dpo"),
    lambda path: list(read_records(path)),
]
TABLE = "id,prompt,chosen,rejected\n1,Why?,x,y\n2,How?,x,y\n"
LINES = '{"prompt": "Why?", "chosen": "x", "rejected": "y"}\n' * 20


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows.csv", data)
    return file.getvalue()


REFUSED = {
    "semicolons.csv": (TABLE.replace(",", ";").encode(), ":1: its columns are separated by ';', not by commas"),
    "tabs.csv": (TABLE.replace(",", "\t").encode(), r":1: its columns are separated by '\t', not by commas"),
    "bars.csv": (TABLE.replace(",", "|").encode(), ":1: its columns are separated by '|', not by commas"),
    "prose.csv": (b"prompt;chosen;rejected\nWell, why?;x;y\n", "are separated by ';'"),
    "marked.csv": (b"\xef\xbb\xbf" + TABLE.replace(",", ";").encode(), "are separated by ';'"),
    "twice.csv": (b"prompt,chosen,rejected,prompt\nWhy?,x,y,How?\n", ":1: two columns are called 'prompt'"),
    "mac.csv": (TABLE.replace("\n", "\r").encode(), "lines end with a carriage return alone"),
    "mac.txt": (b"Why?\rHow?\r", "lines end with a carriage return alone"),
    "mac.jsonl": (LINES.replace("\n", "\r").encode(), "lines end with a carriage return alone"),
    "wide.csv": (TABLE.encode("utf-16"), "text in UTF-16"),
    "packed.jsonl": (gzip.compress(LINES.encode()), "packed by gzip: its name must end in .gz"),
    "packed.txt": (bz2.compress(LINES.encode()), "packed by bzip2: unpack it first"),
    "packed.json": (lzma.compress(LINES.encode()), "packed by xz: unpack it first"),
    "zstd.jsonl": (b"(\xb5/\xfd\x04Xabcdef", "packed by zstd: unpack it first"),
    "sheet.csv": (zipped(TABLE.encode()), "a zip archive, or a table of Excel"),
    "table.jsonl": (b"PAR1\x15\x04\x15", "is parquet: its name must end in .parquet"),
    "pointer.txt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "a pointer of Git LFS"),
    "pointer.csv": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "a pointer of Git LFS"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(LINES.encode())), "packed by gzip"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", READERS)
def test_what_would_be_read_as_another_thing_is_refused(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    content, problem = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path)) and problem in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


READ = {
    "plain.csv": TABLE,
    "blank lines first.csv": "\n\n" + TABLE,
    "windows.csv": TABLE.replace("\n", "\r\n"),
    "marked.csv": "\ufeff" + TABLE,
    "index.csv": "".join(f",{line}\n" for line in TABLE.splitlines()),
    "empty column.csv": "".join(f"{line},\n" for line in TABLE.splitlines()),
    "numbers.jsonl": '{"prompt": "Why?", "n": NaN, "id": 1}\n{"prompt": "How?", "n": -Infinity, "id": 2}\n',
}


@pytest.mark.parametrize("name", READ)
def test_harmless_differences_of_dialects_do_not_matter(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(READ[name].encode())
    prompts = [prompt for prompt in read_prompts(path) if isinstance(prompt, Prompt)]
    assert [(prompt.id, prompt.messages[0]["content"]) for prompt in prompts] == [("1", "Why?"), ("2", "How?")]


def test_words_about_nan_are_not_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "NaN and Infinity?"}\n{"prompt": "NaN"\n')
    [first, second] = read_prompts(path)
    assert isinstance(first, Prompt) and not isinstance(second, Prompt)


# Quotes that two rows leave open

OPEN = {
    "two columns with ids": 'id,prompt\n1,"Open\n2,fine\n3,closed"\n4,Last\n',
    "two lines": 'id,prompt\n1,"Open\n2,closed"\n4,Last\n',
    "words as ids": 'id,prompt\nq1,"Open\nq2,fine\nq3,closed"\nq4,Last\n',
    "three columns": 'id,prompt,completion\n1,"Open,a\n2,closed",b\n3,Last,c\n',
    "the first column": 'prompt,completion\n"Open,a\nfine,b\nclosed",c\nLast,d\n',
    "the last column": 'prompt,completion\nWhy,"Open\nHow,fine\nWho,closed"\nLast,d\n',
    "quotes before and after": 'a,prompt,b\n"x, y","Open,z\n2,fine,z\n3,closed","z, z"\n4,Last,z\n',
    "many rows": 'id,prompt\n1,"Open\n' + "".join(f"{n},fine\n" for n in range(2, 90)) + '90,closed"\n91,Last\n',
    "windows": 'id,prompt\r\n1,"Open\r\n2,fine\r\n3,closed"\r\n4,Last\r\n',
}


@pytest.mark.parametrize("name", OPEN)
def test_quotes_that_two_rows_leave_open_stop_the_run(tmp_path: Path, name: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(OPEN[name].encode())
    for read in (READERS[0], READERS[3]):
        with pytest.raises(SourceError) as refusal:
            read(path)
        assert str(refusal.value).startswith(
            f"{path}:2: a quote that was left open here seems to have swallowed lines 3"
        )


TEXTS = {
    "prose": "Dear Ann,\nthank you, really,\nyours",
    "a letter": "Dear Ann,\nHow are you?",
    "a poem": "Roses are red,\nviolets, blue,\nsugar, sweet",
    "one comma a line": "Salt, pepper\nmilk, sugar\nbread, butter",
    "a table": "a,b,c\n1,2,3\n4,5,6",
    "a table of two columns": "a,b\n1,2\n3,4",
    "code": "def f(a, b):\n    return a, b\nf(1, 2)",
    "numbered": "1. One\n2. Two, too\n3. Three",
    "quotes": 'He said "yes, no"\nand "1,2"\n"so"',
    "blank lines": "One\n\nTwo,\n\nthree",
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", TEXTS)
def test_text_of_several_lines_with_commas_is_read(name: str, place: int) -> None:
    row = ["7", "Why, then?", "Because."]
    row[place] = TEXTS[name]
    file = io.StringIO()
    csv.writer(file).writerows([["id", "prompt", "completion"], row, ["8", "a", "b"]])
    lines = file.getvalue().encode().splitlines(keepends=True)
    assert [list(record.values()) for _, record in csv_rows(lines, "x", ())] == [row, ["8", "a", "b"]]


@given(st.lists(st.lists(st.text(st.sampled_from('ab ,\n"x;'), max_size=12), min_size=3, max_size=3), max_size=4))
def test_what_a_writer_of_csv_wrote_is_read_as_it_was(rows: list[list[str]]) -> None:
    prose = [[field.replace(",", ", ") for field in ("t", *row)] for row in rows]
    file = io.StringIO()
    csv.writer(file).writerows([["t", "u", "v", "w"], *prose])
    lines = file.getvalue().encode().splitlines(keepends=True)
    assert [list(record.values()) for _, record in csv_rows(lines, "x", ())] == prose


def test_a_json_file_of_pairs_is_a_list_of_records_and_not_a_conversation(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"input": "Why?", "output": "So."}, {"input": "How?", "output": "Thus."}]))
    assert [prompt.messages[0]["content"] for prompt in read_prompts(path) if isinstance(prompt, Prompt)] == [
        "Why?",
        "How?",
    ]
