"""A line of `gold.jsonl`, which says what one person said of one pair: how it is written, and read."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field, StrictBool, ValidationError

from cai.disk.locks import lock_file
from cai.disk.writing import append_whole, unwritable
from cai.folder.lines import is_torn
from cai.records import Record, Turns
from cai.sources.values import BadRecord, shown

FILE = "gold.jsonl"
RANDOM = "random"  # the queue whose order is drawn
SKIPPED, TAKEN_BACK = "skipped", "taken back"
MOST_SKIPPED = 0.1  # share of the pairs that people may skip before the others are no longer a random draw
OWN = {"annotator", "blind"}  # columns by which a vote is told from another pair with a key
Side = Literal["a", "b"]


class GoldVote(Record):
    """A line of gold.jsonl: what one person said of one pair."""

    model_config = ConfigDict(extra="ignore")  # a later version may have more columns

    schema_: Literal[1] = Field(default=1, alias="schema")
    key: str = Field(pattern="^[0-9a-f]{32}$")
    id: str
    prompt: Turns
    a: str
    b: str
    human: Literal["a", "b", "tie"] | None  # None: skipped, or a vote before this one is taken back
    skipped: StrictBool = False
    annotator: str = Field(min_length=1)
    shown_first: Side | None = None
    blind: StrictBool | None = None  # whether the judge's verdict was hidden
    queue: str | None = None  # in whose order the pair came
    seed: int | None = None  # of the random order
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)  # that the pair was looked at
    at: int | str = Field(default_factory=lambda: int(time.time()))  # Unix time


def late_in(order: Sequence[str], drawn: Set[str]) -> int:
    """How many of the pairs that were drawn are not among the first in a random order, but for a few skipped there."""
    first = math.ceil(len(drawn) / (1 - MOST_SKIPPED))
    return len(drawn - set(order[:first]))


def random_order(keys: Iterable[str], seed: int) -> list[str]:
    """Keys of pairs in the order in which people are asked: of any number, the first are a random draw."""
    return sorted(set(keys), key=lambda key: draw_of(key, seed))


def draw_of(key: str, seed: int) -> bytes:
    """What the random order sorts a pair by."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def append_vote(path: Path, vote: GoldVote) -> None:
    """Write a vote, and return when it is on disk; others may be writing the same file. Raises RunError.

    What a kill left of a line was never confirmed to anyone: it is cut off.
    """
    line = vote.model_dump_json(exclude=None if vote.skipped else {"skipped"}).encode() + b"\n"
    try:
        with open(path, "ab+", buffering=0) as file:
            lock_file(file)
            tail = _tail(path)
            if tail and _is_json(tail):  # written by an editor, say
                line = b"\n" + line
            elif tail:
                file.truncate(file.seek(-len(tail), os.SEEK_END))
            append_whole(file, line)
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(
            path, error, "the vote is not kept: free some space, change its permissions, or name another --gold"
        ) from error


def _tail(path: Path) -> bytes:
    """What follows the last line feed of a file."""
    if not is_torn(path):
        return b""
    with open(path, "rb") as file:
        return list(file)[-1]


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


# Reading


def is_vote(record: Any) -> bool:
    """Whether a record is a line of gold.jsonl; other pairs may have human labels, too."""
    return isinstance(record, Mapping) and {"key", "a", "b"} <= record.keys() and not OWN.isdisjoint(record)


def vote_of(record: Any) -> GoldVote:
    """The vote that a record is; raises BadRecord."""
    try:
        return GoldVote.model_validate(record)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        name = ".".join(map(str, details["loc"]))
        if details["type"] == "missing":
            raise BadRecord(f"{name!r} is missing") from None
        problem = f"{name!r} is {shown(details['input'])}"
        message = details["msg"].replace("a valid string", "text")
        if message.startswith("Input should be "):
            raise BadRecord(f"{problem}, not {message.removeprefix('Input should be ')}") from None
        raise BadRecord(f"{problem}: {message}") from None


def word_of(vote: GoldVote) -> str:
    """a, b or tie; or that the pair was skipped, or a vote taken back."""
    if vote.human is None:
        return SKIPPED if vote.skipped else TAKEN_BACK
    return vote.human
