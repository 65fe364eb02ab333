"""The search of a viewer: whole words in any script, in any order, and nothing that a person can type is an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unicodedata import category

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import lost, make_run, revision
from viewed_runs import add, facets, make_folder, opened, read, rows

from cai.viewer.entries import ROWS, open_tables
from cai.viewer.words import MOST_QUERY, MOST_TEXT, Words, words_of

TEXTS = (
    "Shall I sharpen a kitchen knife?", "Jalapeño, CAFÉ und Übung", "Жёлтая река течёт", "हिन्दी में लिखो",
    "北京烤鸭怎么做", "東京でラーメンを食べる", "ภาษาไทยอ่านง่าย", "한국어 문장", "don't stop-me now_ok", "x² + ½ = ①",
    "العربية لغة جميلة", "naïve cafe\u0301",
)  # fmt: skip


@pytest.fixture
def words() -> Iterator[Words]:
    with closing(open_tables()) as db:
        db.execute("CREATE TABLE entries0(number INTEGER PRIMARY KEY)")
        yield Words(db, 0)


def put(words: Words, *texts: str) -> None:
    for number, text in enumerate(texts):
        words.add(ROWS, number, orjson.dumps({"text": text}))


def found(words: Words, text: str) -> set[int]:
    """The entries that hold the words of a text."""
    condition = words.condition(text)
    assert condition is not None
    query = f"WITH every(number) AS (VALUES {','.join(f'({number})' for number in range(words.count))}) "
    every = words._db.execute(query + f"SELECT number FROM every WHERE {condition.sql}", condition.parameters)
    numbers = {number for (number,) in every}
    assert len(numbers) == words.hits(text)
    return numbers


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_text_is_found_by_any_of_its_words_however_they_are_written(words: Words, number: int) -> None:
    put(words, *TEXTS)
    text = TEXTS[number]
    for part in [text, *text.split(), text.upper(), text.lower()]:
        if list(words_of(part)):
            assert number in found(words, part), part


def test_all_words_must_be_there_in_any_order_and_whole(words: Words) -> None:
    put(words, "a quiet river", "a river", "quietly", "Quiet, the RIVER.")
    assert found(words, "river quiet") == {0, 3}
    assert found(words, "quie") == set()
    assert found(words, "quie* riv*") == {0, 3}
    assert found(words, "quiet*") == {0, 2, 3}


def test_words_next_to_each_other_in_scripts_without_spaces_are_found_inside(words: Words) -> None:
    put(words, "我在北京吃烤鸭", "東京タワー", "กินข้าว")
    assert found(words, "北京") == {0}
    assert found(words, "京") == {0, 1}
    assert found(words, "ข้าว") == {2}


def test_every_character_is_taken_for_the_same_by_the_index_and_by_a_query(words: Words) -> None:
    every = [chr(code) for code in range(0, sys.maxunicode + 1, 7) if category(chr(code)) not in ("Cs", "Cn", "Co")]
    put(words, *(f"q{each}z" for each in every))
    apart = {number for number, each in enumerate(every) if len(list(words_of(f"q{each}z"))) > 1}
    assert 1_000 < len(apart) < len(every) - 1_000
    assert found(words, "q z") == apart
    for number in list(set(range(len(every))) - apart)[::50]:
        assert number in found(words, f"q{every[number]}z"), hex(ord(every[number]))


@given(text=st.text(st.one_of(st.characters(), st.sampled_from('"*()^:+-{}_%\\ANDORNOTNEAR \u0301\x00')), max_size=30))
def test_nothing_that_can_be_typed_is_an_error(text: str) -> None:
    with closing(open_tables()) as db:
        words = Words(db, 0)
        put(words, "and or not near", "quiet")
        if words.condition(text) is not None:
            found(words, text)


@given(text=st.text(min_size=1, max_size=20).filter(lambda text: list(words_of(text))))
def test_a_text_holds_its_own_words(text: str) -> None:
    with closing(open_tables()) as db:
        words = Words(db, 0)
        put(words, text.encode("utf-8", "replace").decode(), "something else")
        assert 0 in found(words, text.replace("*", " "))


def test_a_query_without_words_chooses_nothing(words: Words) -> None:
    for text in ("", " ", "?!", "* **", '"', "\x00", "🙂"):
        assert words.condition(text) is None, text


def test_a_query_is_bounded(words: Words) -> None:
    put(words, "a " * MOST_QUERY)
    assert found(words, "a " * 100_000 + "b") == {0}


def test_the_start_of_a_word_has_three_letters(words: Words) -> None:
    put(words, "a river", "rivers", "ri")
    assert found(words, "riv*") == {0, 1}
    assert found(words, "ri*") == {2}


def test_a_text_is_searched_up_to_a_bound(words: Words) -> None:
    put(words, "start " + "x" * MOST_TEXT + " end")
    assert found(words, "start") == {0}
    assert found(words, "end") == set()


# In a run


def test_every_text_of_a_row_is_searched_and_its_other_columns_are_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0, "second", initial="primero", prompt="quand")])
    with opened(run) as index:
        read(index)
        for text in ("second", "primero", "quand", "hm", "p1"):
            assert len(rows(index, words=text)) == 1, text
        for text in ("c0ffee", "7e57", "small", "schema", "position"):
            assert rows(index, words=text) == [], text


def test_what_was_dropped_is_found_and_words_and_values_are_both_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [revision(0, prompt="quiet"), revision(1, prompt="loud"), lost(2), lost(3)])
    with opened(run) as index:
        read(index)
        assert [row["position"] for row in rows(index, words="lost")] == [2, 3]
        assert rows(index, words="lost", facets={"status": "kept"}) == []
        assert [row["position"] for row in rows(index, words="quiet", facets={"status": "kept"})] == [0]
        assert [row["position"] for row in rows(index, words="?!")] == [0, 1, 2, 3]


def test_rows_are_found_while_others_come(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "run")
    with opened(run) as index:
        for at in range(30):
            add(run / "revisions.jsonl", revision(at, prompt=f"word{at} common"))
            read(index)
            assert [row["position"] for row in rows(index, words=f"word{at}")] == [at]
            assert len(rows(index, words="common")) == at + 1
        assert facets(index)["status"] == {"kept": 30}
