"""Which entries hold some words: a full-text index without the texts, which stay in their files."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any
from unicodedata import category

import orjson

from cai.report.html.rows import NOT_SHOWN
from cai.viewer.entries import DROPS, ROWS, Condition, numbers_of

# Marks belong to their letters, and so does what this SQLite has not heard of; accents and case do not count.
TOKENS = "unicode61 remove_diacritics 2 categories 'L* N* M* Co Cn'"
TABLE = f"CREATE VIRTUAL TABLE {{}} USING fts5(text, content = '', detail = none, tokenize = \"{TOKENS}\")"
# Scripts without spaces between words: Thai to Myanmar, Khmer, kana, Chinese characters. They are found by letters.
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
NOT_LETTERS = re.compile(r"[^\w\s]")
WORD = re.compile(r"([^\s*_]+)(\*?)")
MOST_TEXT = 1_000_000  # characters of an entry that are searched
MOST_QUERY = 200  # of what is searched for
MOST_WORDS = 10
LEAST_START = 3  # characters of the start of a word: of fewer, nearly every word is one
NOT_SEARCHED = {*NOT_SHOWN, "models"}


class Words:
    """The words of the entries of one source. table: the number of the source."""

    def __init__(self, db: sqlite3.Connection, table: int) -> None:
        self._db = db
        self._tables = [f"words{table}_{file}" for file in (ROWS, DROPS)]
        self._next, self._counts = [0, 0], [0, 0]
        for file in (ROWS, DROPS):
            self.forget(file)

    def forget(self, file: int) -> None:
        """The entries of a file are gone; a table without texts cannot forget single ones."""
        self._db.execute(f"DROP TABLE IF EXISTS {self._tables[file]}")
        self._db.execute(TABLE.format(self._tables[file]))
        self._next[file], self._counts[file] = numbers_of(file)[0], 0

    @property
    def count(self) -> int:
        """How many entries can be found."""
        return sum(self._counts)

    def waiting(self, file: int) -> Condition:
        """The entries of a file that are yet to be added."""
        return Condition("number BETWEEN ? AND ?", (self._next[file], numbers_of(file)[1]))

    def add(self, file: int, number: int, content: bytes) -> None:
        """The words of an entry; those of a file come in order."""
        text = text_of(content)[:MOST_TEXT]
        if not text.isascii():
            text = _apart(text)
        self._db.execute(f"INSERT INTO {self._tables[file]}(rowid, text) VALUES (?,?)", (number, text))
        self._next[file] = number + 1
        self._counts[file] += 1

    def hits(self, text: str) -> int:
        """How many entries hold all words of a text, with those that have become hidden since."""
        query = " AND ".join(words_of(text))
        counts = (f"SELECT COUNT(*) FROM {table} WHERE {table} MATCH ?" for table in self._tables)
        return sum(number for count in counts for (number,) in self._db.execute(count, (query,)))

    def condition(self, text: str) -> Condition | None:
        """That entries hold all words of a text, in any order; one that ends in * is the start of a word.

        None for a text without a word.
        """
        query = " AND ".join(words_of(text))
        if not query:
            return None
        inside = " UNION ALL ".join(f"SELECT rowid FROM {table} WHERE {table} MATCH ?" for table in self._tables)
        return Condition(f"number IN ({inside})", [query] * 2)


def words_of(text: str) -> Iterator[str]:
    """The words of a query as the index splits them, in quotes, with a * behind those that are the start of one."""
    for word, star in WORD.findall(_apart(text[:MOST_QUERY]))[:MOST_WORDS]:
        yield f'"{word}"{star if len(word) >= LEAST_START else ""}'


def _apart(text: str) -> str:
    """The text with space between its words: this SQLite may take a symbol that is newer than itself for a letter."""
    return UNSPACED.sub(r" \1 ", NOT_LETTERS.sub(_mark_or_space, text))


def _mark_or_space(found: re.Match[str]) -> str:
    kind = category(found[0])
    return found[0] if kind[0] == "M" or kind in ("Co", "Cn") or found[0] == "*" else " "


def text_of(content: bytes) -> str:
    """All texts in a line, each once; what is not JSON, as it is."""
    try:
        return "\n".join(dict.fromkeys(_texts_in(orjson.loads(content))))
    except (ValueError, RecursionError):
        return content[:MOST_TEXT].decode("utf-8", "replace")


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in NOT_SEARCHED:
                yield from _texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
