"""The pairs of a run in the order in which people are asked, and where each is in the file of rows.

60 bytes a pair: a run has millions of texts, of which a person reads a few hundred.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import orjson

from cai.errors import RunError, UsageError
from cai.folder.kinds import kind_of
from cai.folder.lines import BAD_ROW, damage, position_of
from cai.folder.shards.join import read_run
from cai.judge.gold import RANDOM, draw_of
from cai.records import Contest, Message, Object
from cai.runs.kinds.pairs import OF_REPLIES
from cai.runs.kinds.pairs_of_row import pairs_of_row
from cai.sources.conversations import pair_hash
from cai.sources.lines import repeated_later
from cai.viewer.growing import Growing

UNCERTAIN = "uncertain"  # the queue of what the judge is least sure of
QUEUES = (RANDOM, UNCERTAIN)
AT_ONCE = 1 << 22  # bytes of lines that are read before the next


class Pair(NamedTuple):
    """Two replies, and what the judge says of them."""

    key: str
    id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    z: float | None = None  # log odds that a is better; None: no valid vote, or no judge was asked
    p_a: float | None = None


class Pairs:
    """The pairs of a label, sample or generate run; the file of its rows is followed while it grows.

    Raises RunError for other folders.
    """

    def __init__(self, run: Path, seed: int) -> None:
        command = read_run(run, "name a run whose pairs are to be labelled")["identity"]["command"]
        if command not in ("label", *OF_REPLIES):
            raise RunError(
                f"{run} is a run of cai {command}: pairs to label are in runs of cai label, sample or generate"
            )
        self.is_judged = command == "label"
        self._seed = seed
        self._file = Growing(run / kind_of(command).rows_file)
        self._start_anew()

    def _start_anew(self) -> None:
        self._file.restart()
        self._keys = bytearray()  # 16 bytes each
        self._draws = array("Q")  # the first 8 bytes of what the random order sorts by
        self._starts = array("Q")  # of the line
        self._line_starts, self._positions = array("Q"), array("Q")  # of every line, also of one without a pair
        self._sureness = array("d")  # the judge's confidence; infinite: no valid vote
        self._order = array("I")
        self._by_sureness: array[int] | None = None

    def __len__(self) -> int:
        return len(self._order)

    def follow(self) -> None:
        """Read the rows that were added."""
        before = len(self._positions)
        try:
            while (lines := self._file.read(AT_ONCE)) != []:
                if lines is None:  # another run, in the same folder
                    self._start_anew()
                    continue
                for line in lines:
                    if line.content is not None:
                        self._add(line.content, line.start)
        except BAD_ROW as error:
            self._start_anew()  # to say it again
            raise damage(self._file.path) from error
        if len(self._positions) != before:
            self._sort()

    def _add(self, line: bytes, start: int) -> None:
        self._line_starts.append(start)
        self._positions.append(position_of(line, self._file.path.name))
        if self.is_judged:
            key, sureness = _key_and_confidence(line)
            self._append(key, start, sureness)
            return
        row = orjson.loads(line)
        for a, b in _texts_of(row):
            if a != b:
                self._append(pair_hash(row["prompt"], a, b), start, math.inf)

    def _append(self, key: str, start: int, sureness: float) -> None:
        digits = bytes.fromhex(key)
        if len(digits) != 16:
            raise ValueError(f"{key!r} is no key of a pair")
        self._keys += digits
        self._draws.append(int.from_bytes(draw_of(key, self._seed)[:8]))
        self._starts.append(start)
        self._sureness.append(sureness)

    def _sort(self) -> None:
        order = array("I", sorted(range(len(self._draws)), key=self._draws.__getitem__))
        superseded = self._superseded()
        self._order = array("I")
        before = -1
        for place in order:  # a line that is there twice is one pair
            if self._draws[place] != before and self._starts[place] not in superseded:
                self._order.append(place)
                before = self._draws[place]
        self._by_sureness = None

    def _superseded(self) -> set[int]:
        """Where the lines start that a later line of their position has superseded: its row has grown."""
        return {self._line_starts[place] for place in repeated_later(self._positions)}

    def order(self, queue: str) -> Iterator[str]:
        """The keys of all pairs, as this queue has them; raises UsageError if it cannot have any."""
        if queue not in QUEUES:
            raise UsageError(f"queue {queue!r} must be {' or '.join(QUEUES)}")
        if queue == UNCERTAIN and not self.is_judged:
            raise UsageError("the queue uncertain needs a judge's labels: name a run of cai label, or the queue random")
        order = self._order
        if queue == UNCERTAIN:
            if self._by_sureness is None:
                self._by_sureness = array("I", sorted(self._order, key=self._sureness.__getitem__))
            order = self._by_sureness
        return (self._keys[16 * place : 16 * place + 16].hex() for place in order)

    def pair(self, key: str) -> Pair | None:
        """The pair of a key; None if the run has none."""
        place = self._place(key)
        if place is None:
            return None
        with open(self._file.path, "rb") as file:
            file.seek(self._starts[place])
            line = file.readline()
        try:
            row = orjson.loads(line)
            pairs = [_of_label(row)] if self.is_judged else map(_of_contest, pairs_of_row(row))
            return next((pair for pair in pairs if pair.key == key), None)
        except BAD_ROW:  # the run was started anew, and its file is another one
            return None

    def start(self, key: str) -> int | None:
        """Where the line of a pair's row starts."""
        place = self._place(key)
        return None if place is None else self._starts[place]

    def _place(self, key: str) -> int | None:
        draw = int.from_bytes(draw_of(key, self._seed)[:8])
        at = bisect_left(self._order, draw, key=self._draws.__getitem__)
        if at == len(self._order) or self._draws[self._order[at]] != draw:
            return None
        return self._order[at]


def _texts_of(row: Object) -> Iterable[tuple[str, str]]:
    """The two texts of each of the `pairs_of_row`, in a tenth of the time, as the row is one of ours."""
    if row.get("problem") is not None:
        return ()
    if "rounds" in row:
        revisions = (each["revision"] for each in row["rounds"] if each["revision"] is not None)
        return ((text, row["initial"]) for text in dict.fromkeys(revisions))
    usable = (reply["text"] for reply in row["replies"] if reply["problem"] is None and reply["text"].strip())
    return combinations(usable, 2)


def _of_label(row: Object) -> Pair:
    return Pair(row["key"], row["id"], tuple(row["prompt"]), row["a"], row["b"], row["z"], row["p_a"])


def _of_contest(pair: Contest) -> Pair:
    assert pair.a is not None and pair.b is not None
    return Pair(pair.key, pair.id, pair.messages, pair.a, pair.b)


def _key_and_confidence(line: bytes) -> tuple[str, float]:
    """The key and the confidence of a label, infinite if it has none; searched for in a tenth of the time of parsing.

    Quotes in texts are escaped. No column before the key holds others; none after the confidence has it as a name.
    """
    start = line.find(b'"key":"') + 7
    end = line.rfind(b'"confidence":') + 13
    value = line[end : line.find(b",", end)]
    if start > 6 and end > 12:
        return line[start : line.find(b'"', start)].decode(), math.inf if value == b"null" else float(value)
    row = orjson.loads(line)
    return row["key"], math.inf if row["confidence"] is None else row["confidence"]
