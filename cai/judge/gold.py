"""Human labels of pairs in `gold.jsonl`, a line for each vote of a person; and what all people say of a pair.

Only votes of the random queue that were cast blind may certify a threshold or correct an evaluation: pairs that are
picked, or labelled with the judge's verdict in view, say nothing about other pairs. Of those lines the last of a person
and a pair counts.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, Field, StrictBool, ValidationError

from cai.errors import SourceError
from cai.folder.files import lock_file, unwritable
from cai.folder.lines import is_torn
from cai.judge.metrics import cohen
from cai.records import Contest, Record, Turns
from cai.sources.conversations import prompt_hash
from cai.sources.files import Source, read_records
from cai.sources.labels import OTHER, Preference
from cai.sources.replies import pair_of
from cai.sources.values import BadRecord, shown
from cai.texts.wording import counted

FILE = "gold.jsonl"
RANDOM = "random"  # the queue whose order is drawn
SKIPPED, TAKEN_BACK = "skipped", "taken back"
Side = Literal["a", "b"]
SAME: Mapping[str, Preference] = {"a": "a", "b": "b", "tie": "tie"}
SWAPPED: Mapping[str, Preference] = {str(word): other for word, other in OTHER.items()}


class GoldVote(Record):
    """A line of gold.jsonl: what one person said of one pair."""

    model_config = ConfigDict(extra="ignore")  # a later version may have more columns

    schema_: Literal[1] = Field(default=1, alias="schema")
    key: str
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
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)  # that the pair was looked at
    at: int = Field(default_factory=lambda: int(time.time()))  # Unix time


class Agreement(NamedTuple):
    """How far two people agree on the pairs that both labelled."""

    people: tuple[str, str]
    n: int
    share: float
    kappa: tuple[float, float, float] | None  # with its 95 % interval; None: chance alone would always agree


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
            end = file.seek(0, os.SEEK_END)
            tail = _tail(path)
            if tail and _is_json(tail):  # written by an editor, say
                line = b"\n" + line
            elif tail:
                end -= len(tail)
                file.truncate(end)
            if file.write(line) != len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error, "the vote is not kept; free some space or change its permissions") from error


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


class People:
    """What people say of pairs."""

    def __init__(self) -> None:
        self.lines = 0  # votes read, those that may not certify among them
        self.torn = False  # whether the last line was left out, as it is not whole
        self.left_out: Counter[str] = Counter()  # lines that may not certify, by reason
        self.words: dict[str, dict[str | int, str]] = defaultdict(dict)  # by key and person; without one, by line
        self._pairs: dict[str, tuple[int, Contest]] = {}  # by key, with the line that was first

    def add(self, line: int, vote: GoldVote) -> None:
        """Count a vote; raises BadRecord if its key is that of another pair."""
        self.lines += 1
        is_swapped = self._is_swapped(line, _contest_of(vote))
        reason = _objection(vote)
        if reason is not None:
            self.left_out[reason] += 1
            return
        word: str = vote.human or (SKIPPED if vote.skipped else TAKEN_BACK)
        if vote.human is not None and is_swapped:
            word = OTHER[vote.human]
        self.words[vote.key][vote.annotator] = word

    def add_pair(self, line: int, pair: Contest) -> None:
        """Count a label of a person who is not named."""
        if pair.human is not None:
            self.words[pair.key][line] = OTHER[pair.human] if self._is_swapped(line, pair) else pair.human

    def _is_swapped(self, line: int, pair: Contest) -> bool:
        """Whether the replies of a pair are in the other order than in the first line of its key."""
        first, known = self._pairs.setdefault(pair.key, (line, pair))
        if (pair.a, pair.b) == (known.a, known.b):
            return False
        if (pair.a, pair.b) == (known.b, known.a):
            return True
        raise BadRecord(f"'key' is {shown(pair.key)}, that of line {first}, which has other replies")

    def human(self, key: str, a: str, b: str) -> Preference | None:
        """Which of two replies most people prefer, as a or b; a tie if as many say another thing; None: nobody says.

        None, too, if the pair of this key has other replies.
        """
        meanings = self._meanings(key, a, b)
        if meanings is None:
            return None
        counts = Counter(word for word in self.words.get(key, {}).values() if word in OTHER)
        if not counts:
            return None
        most = max(counts.values())
        best = [word for word, count in counts.items() if count == most]
        if len(best) > 1:
            return "tie"
        return meanings[best[0]]

    def _meanings(self, key: str, a: str, b: str) -> Mapping[str, Preference] | None:
        """What the words about a pair mean if its replies are these; None: they are others."""
        _, pair = self._pairs.get(key, (0, None))
        if pair is None:
            return None
        if (pair.a, pair.b) == (a, b):
            return SAME
        if (pair.a, pair.b) == (b, a):
            return SWAPPED
        return None

    def is_labelled(self, key: str) -> bool:
        """Whether anybody's label of a pair may certify."""
        return any(word in OTHER for word in self.words.get(key, {}).values())

    def is_lost(self, key: str) -> bool:
        """Whether a pair was drawn, and has no label, as all who saw it skipped it or took their label back."""
        return bool(self.words.get(key)) and not self.is_labelled(key)

    def pairs(self) -> Iterator[tuple[int, Contest]]:
        """Every pair with a vote and the line it came in first, in that order."""
        for line, pair in self._pairs.values():
            assert pair.a is not None and pair.b is not None
            yield line, replace(pair, human=self.human(pair.key, pair.a, pair.b))

    def agreements(self) -> list[Agreement]:
        """Of every two people who labelled the same pairs, those with the most pairs first."""
        both: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for words in self.words.values():
            labels = {who: word for who, word in words.items() if isinstance(who, str) and word in OTHER}
            for one, other in combinations(sorted(labels), 2):
                both[one, other].append((labels[one], labels[other]))
        agreements = []
        for names, words_of_both in sorted(both.items(), key=lambda item: -len(item[1])):
            first, second = zip(*words_of_both, strict=True)
            share = sum(map(str.__eq__, first, second)) / len(first)
            agreements.append(Agreement(names, len(first), share, cohen(first, second)))
        return agreements


def _contest_of(vote: GoldVote) -> Contest:
    return Contest(
        id=vote.id,
        position=0,
        key=vote.key,
        prompt_id=prompt_hash(vote.prompt),
        messages=vote.prompt,
        a=vote.a,
        b=vote.b,
        a_from="a",
        b_from="b",
    )


def _objection(vote: GoldVote) -> str | None:
    """Why a vote may not certify; None: it may."""
    if vote.queue != RANDOM:
        return "of no queue" if vote.queue is None else f"of the queue {vote.queue}"
    return None if vote.blind else "not blind"


def is_vote(record: Any) -> bool:
    """Whether a record is a line of gold.jsonl; other pairs may have human labels, too."""
    return isinstance(record, Mapping) and "key" in record and any(name in record for name in ("annotator", "blind"))


def vote_of(record: Any) -> GoldVote:
    """The vote that a record is; raises BadRecord."""
    try:
        return GoldVote.model_validate(record)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        name = ".".join(map(str, details["loc"]))
        if details["type"] == "missing":
            raise BadRecord(f"{name!r} is missing") from None
        need = details["msg"].removeprefix("Input should be ")
        raise BadRecord(f"{name!r} is {shown(details['input'])}, not {need}") from None


def read_people(source: Source) -> People:
    """What people say of the pairs of a source: lines of gold.jsonl, or records of two replies with a human label.

    Raises SourceError that names a line which cannot be read.
    """
    people = People()
    where = source if isinstance(source, str | Path) else None
    for line, record in without_votes(read_records(source), where, people):
        try:
            people.add_pair(line, pair_of(record))
        except BadRecord as bad:
            raise SourceError(bad.problem, where, line) from None
    return people


def without_votes(
    records: Iterable[tuple[int, Any]], where: str | Path | None, people: People
) -> Iterator[tuple[int, Any]]:
    """The numbered records that are not votes, as they come; the votes are counted by `people`.

    Raises SourceError for a vote that cannot be read, and for any such line beside votes; a torn last one is left out.
    """
    waiting: list[tuple[int, BadRecord]] = []
    for line, record in records:
        if isinstance(record, BadRecord):
            waiting.append((line, record))
        elif is_vote(record):
            _refuse(waiting, where)
            try:
                people.add(line, vote_of(record))
            except BadRecord as bad:
                _refuse([(line, bad)], where)
        else:
            yield from waiting
            waiting.clear()
            yield line, record
    if people.lines and len(waiting) == 1 and isinstance(where, str | Path) and is_torn(Path(where)):
        people.torn = True
        return
    if people.lines:
        _refuse(waiting, where)
    yield from waiting


def _refuse(faults: list[tuple[int, BadRecord]], where: str | Path | None) -> None:
    for line, bad in faults:
        raise SourceError(f"{bad.problem}: correct this vote, or delete its line", where, line)


def people_notes(people: People) -> Iterator[str]:
    """What a reader of figures made from votes must know."""
    if people.torn:
        yield "the last line of the votes is not whole, as after a kill or while it is written: it is left out"
    if people.left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in people.left_out.items())
        yield (
            f"{counted(people.left_out.total(), 'vote')} left out ({reasons}): only pairs drawn at random and labelled "
            "blind may certify"
        )
    for names, n, share, kappa in people.agreements():
        value = "undefined" if kappa is None else "{:.2f} (95 % interval {:.2f} to {:.2f})".format(*kappa)
        yield f"{names[0]} and {names[1]} agree on {share:.1%} of {counted(n, 'pair')}; Cohen's kappa {value}"
