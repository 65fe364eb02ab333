"""Reads JSON that is not one record a line: a list of records, or values written over several lines, as a stream.

No more of it is held than one record, and what was read with it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from cai.errors import SourceError
from cai.sources.turns import is_turn

CHUNK = 2**18  # characters that are read at a time, or as many as are held already, if those are more
BLANKS = " \t\r\n"
CUT = 12  # characters: an error so near to the end of what was read may be that of a word that is cut there
LOOKED_AT = 2**20  # bytes of a line by which it is told what it begins
DECODER = json.JSONDecoder()
LIST, LIST_OF_OBJECTS = r"\[", r"\[\s*\{"


def is_document(line: bytes) -> bool:
    """Whether a text that begins with this line, which is not blank, is JSON of another form than one record a line.

    A list in one line is a record if it is a conversation, and otherwise holds records.
    """
    if not line.lstrip().startswith((b"[", b"{")):
        return False
    text = line[:LOOKED_AT].decode("utf-8", "replace").strip()
    try:
        value, end = DECODER.raw_decode(text)
    except JSONDecodeError as error:
        if len(line) <= LOOKED_AT and error.pos >= len(text):
            return True  # all of it may be the beginning of a value
        # A list of objects that is damaged is read up to the damage; a longer line is not taken apart twice.
        opened = LIST if len(line) > LOOKED_AT else LIST_OF_OBJECTS
        return re.match(opened, text) is not None and not _begins_with_turn(text)
    except RecursionError:
        return False
    return end == len(text) and isinstance(value, list) and bool(value) and not is_turn(value[0])


def _begins_with_turn(text: str) -> bool:
    """Whether the first item of a list that begins here is a message; a longer one is taken for one."""
    try:
        return is_turn(DECODER.raw_decode(text[1:].lstrip())[0])
    except JSONDecodeError:
        return True


def document_values(start: bytes, stream: BufferedIOBase, where: str | Path, most: int) -> Iterator[tuple[int, Any]]:
    """The records in such a text, numbered from 1; a list of messages is one record, another list holds records.

    start: what was read of the stream before. most: characters that a record may have.
    Raises SourceError at what is not JSON, with its line.
    """
    text = _Text(start, stream, where, most)
    number = 0
    in_list = False
    while True:
        mark = text.mark()
        if not mark and in_list:
            raise text.fault("the list of records is not closed")
        if not mark:
            return
        if in_list and mark in ",]":
            text.place += 1
            in_list = mark == ","
        elif not in_list and mark == "[" and not is_turn(text.first_item()):
            text.place += 1
            in_list = True
        else:
            number += 1
            yield number, text.value()


class _Text:
    """The text of a stream, of which a part is held; `place` is where reading has come to in it."""

    def __init__(self, start: bytes, stream: BufferedIOBase, where: str | Path, most: int) -> None:
        self.place = 0
        self._stream = stream
        self._where = where
        self._most = most
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # `as_text` refuses lone surrogates
        self._start = BytesIO(start)
        self._held = ""
        self._lines = 1  # the number of the first line that is held
        self._ended = False

    def mark(self, after: int = 0) -> str:
        """The next character that is not blank, at least so many after the place; "" at the end."""
        place = self.place + after
        while True:
            while place < len(self._held) and self._held[place] in BLANKS:
                place += 1
            if place < len(self._held) or self._ended:
                break
            self._more()
        if not after:
            self.place = place
        return self._held[place : place + 1]

    def first_item(self) -> Any:
        """The first item of the list that begins here; None if it is empty."""
        if self.mark(after=1) in ("", "]"):
            return None
        place = self.place + 1
        while self._held[place] in BLANKS:
            place += 1
        return self._decoded(place)[0]

    def value(self) -> Any:
        """The value that begins here."""
        if self.place > CHUNK:  # a part that is held for long would be copied often
            self._lines += self._held.count("\n", 0, self.place)
            self._held = self._held[self.place :]
            self.place = 0
        value, self.place = self._decoded(self.place)
        return value

    def fault(self, problem: str, place: int | None = None) -> SourceError:
        """The error about what is read, with its line."""
        line = self._lines + self._held.count("\n", 0, self.place if place is None else place)
        return SourceError(f"not JSON: {problem}; what came before was read", self._where, line)

    def _decoded(self, place: int) -> tuple[Any, int]:
        """The value at a place, and where it ends."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._held, place)
            except JSONDecodeError as error:
                cut = error.pos >= len(self._held) - CUT or error.msg.startswith("Unterminated string")
                if self._ended or not cut:
                    raise self.fault(error.msg, error.pos) from None
            except RecursionError:
                raise self.fault("nested too deeply", place) from None
            else:
                if end < len(self._held) or self._ended or isinstance(value, str | list | dict):
                    return value, end
            if len(self._held) - place > self._most:
                raise self.fault(f"a record has more than {self._most:,} characters", place)
            self._more()

    def _more(self) -> None:
        """Read on, twice as much as is held: a long value is then decoded a few times, not often."""
        size = max(CHUNK, len(self._held) - self.place)
        data = self._start.read(size) or self._stream.read(size)
        self._ended = not data
        self._held += self._decoder.decode(data, final=self._ended)
