"""Reads the labels of a run for a cut: prompt by prompt in input order, with what is known of their texts.

Knows files and lines; what a text shows is told by `cai.export.pairs`, and nothing here knows what is kept.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import orjson
from pydantic import ValidationError

from cai.export import pairs
from cai.export.pairs import KNOWN, Row, read_texts
from cai.folder.files import write_atomically
from cai.folder.run import PAIR_BITS
from cai.records import Label
from cai.texts import hygiene, refusals

TEXTS = ".texts"  # the file in which what reading found is remembered
BAD_ROW = (LookupError, TypeError, AttributeError, ValueError)  # what a row that is no label leads to


class Texts:
    """What reading the texts of labels found, remembered in a file of the run folder from one cut to the next.

    Reading takes ten times as long as all else, and finds the same at every threshold: the first cut reads every text.
    A label is known by its texts, as its key need not name them; a file made by other code is no use and is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TEXTS
        self._version = _reading_version()
        self._keys, self._bits = array("Q"), b""
        self._new: dict[int, int] = {}
        with suppress(FileNotFoundError):
            content = self._path.read_bytes()
            start = len(self._version)
            if content.startswith(self._version) and (len(content) - start) % 9 == 0:
                middle = start + (len(content) - start) // 9 * 8
                self._keys.frombytes(content[start:middle])
                self._bits = content[middle:]

    def add_to(self, row: Row) -> None:
        """Have `read_texts` of a row find what is known; read what is not."""
        a, b, asked = row["a"], row["b"], row["prompt"][-1]["content"]  # all that `read_texts` looks at
        told = f"{len(a)} {len(b)} {a}{b}{asked}".encode()
        key = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")
        place = bisect_left(self._keys, key)
        if place < len(self._keys) and self._keys[place] == key:
            row[KNOWN] = self._bits[place]
        else:
            self._new[key] = read_texts(row)

    def save(self) -> None:
        """Write what is new."""
        if self._new:
            self._new.update(zip(self._keys, self._bits, strict=True))
            found = sorted(self._new.items())
            keys = array("Q", (key for key, _ in found))
            write_atomically(self._path, self._version + keys.tobytes() + bytes(bits for _, bits in found))


def _reading_version() -> bytes:
    """32 bytes that differ where other code would read the texts."""
    digest = hashlib.sha256(sys.byteorder.encode())
    for file in (__file__, pairs.__file__, hygiene.__file__, refusals.__file__):
        digest.update(Path(file).read_bytes())
    return digest.digest()


def read_units(path: Path) -> Iterator[list[Row]]:
    """The labels of one prompt after another, in input order.

    As `lines_in_order` does, but a line is parsed once: its position is found in it, which is a tenth of all the time.
    """
    places = []  # position and offset in one integer
    with open(path, "rb", buffering=2**18) as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                places.append(_position(line) << 48 | start)
            start += len(line)
        places.sort()
        for _, unit in itertools.groupby(places, key=lambda place: place >> 48 + PAIR_BITS):
            rows = []
            for place in unit:
                file.seek(place & (1 << 48) - 1)
                rows.append(orjson.loads(file.readline()))
            yield rows


def _position(line: bytes) -> int:
    """The position of a row; the first key of that name is the row's own: a text before it has its quotes escaped."""
    start = line.find(b'"position":') + 11
    digits = line[start : line.find(b",", start)]
    return int(digits) if start > 10 and digits.strip().isdigit() else int(orjson.loads(line)["position"])


def are_labels(unit: Sequence[Row]) -> bool:
    """Whether an error in cutting them is not theirs."""
    try:
        for row in unit:
            Label.model_validate_json(orjson.dumps({name: row[name] for name in row if name != KNOWN}))
    except ValidationError:
        return False
    return True
