"""Finds human labels of pairs: votes in `gold.jsonl`, alone, among other records, or beside the labels of a run."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cai.errors import InputError, SourceError
from cai.folder.lines import is_torn
from cai.judge.gold import FILE, is_vote, vote_of
from cai.judge.majority import People
from cai.sources.files import Source, read_records
from cai.sources.replies import pair_of
from cai.sources.values import BadRecord, object_of

log = logging.getLogger("cai")
LABELS = "labels.jsonl"
HUMAN = re.compile(rb'"human": *"')  # of a row; quotes in texts are escaped


def read_people(source: Source) -> People:
    """What people say of the pairs of a source: votes, or records of two replies with a human label.

    Raises SourceError that names a line which cannot be read.
    """
    people = People()
    where = source if isinstance(source, str | Path) else None
    for number, (line, record) in enumerate(without_votes(read_records(source), where, people), 1):
        try:
            people.add_pair(line, pair_of(object_of(record, "two replies")))
        except BadRecord as bad:
            if number == line == 1 and is_cut_off(where):  # the first vote of all
                people.torn = True
                continue
            raise SourceError(bad.problem, where, line) from None
    return people


def votes_in(source: Source) -> People:
    """The votes of a file, which may have other records; there are none in other sources."""
    people = People()
    if isinstance(source, str | Path) and Path(source).is_file():
        for _ in without_votes(read_records(source), source, people):
            pass
    return people


def with_people(
    records: Iterable[tuple[int, Any]], where: str | Path | None, *, every: bool = False
) -> Iterator[tuple[int, Any]]:
    """The records that are not votes, then every pair with votes once, as a `Contest` with the label of most people.

    every: votes that may not certify count, too.
    """
    people = People(every=every)
    yield from without_votes(records, where, people)
    yield from people.pairs()


def without_votes(
    records: Iterable[tuple[int, Any]], where: str | Path | None, people: People
) -> Iterator[tuple[int, Any]]:
    """The numbered records that are not votes, as they come; the votes are counted by `people`.

    Raises SourceError for a vote that cannot be read, and for any such line beside votes; a torn last one is left out.
    """
    faults: list[tuple[int, BadRecord]] = []
    for line, record in records:
        if isinstance(record, BadRecord):
            faults.append((line, record))
        elif is_vote(record):
            _refuse(faults, where)
            try:
                people.add(line, vote_of(record))
            except BadRecord as bad:
                _refuse([(line, bad)], where)
        else:
            yield from faults
            faults.clear()
            yield line, record
    if people.lines and len(faults) == 1 and is_cut_off(where):
        people.torn = True
        return
    if people.lines:
        _refuse(faults, where)
    yield from faults


def is_cut_off(where: str | Path | None) -> bool:
    """Whether the last line of a source is not whole."""
    return where is not None and Path(where).is_file() and is_torn(Path(where))


def _refuse(faults: list[tuple[int, BadRecord]], where: str | Path | None) -> None:
    for line, bad in faults:
        raise SourceError(f"{bad.problem}; correct this vote, or delete its line", where, line)


def labels_and_votes(source: str | Path, gold: str | Path | None) -> tuple[Path, str | Path | None]:
    """The labels of a judge that a path means, and the votes of people on them, if they are in another file.

    source: a folder, its labels.jsonl, or a file of votes in it. gold: the votes, if they are elsewhere.
    """
    path = Path(source)
    if gold is None and path.is_file() and _begins_with_vote(path):
        labels = path.with_name(LABELS)
        if not labels.is_file():
            problem = "holds votes of people, and no labels of a judge lie beside it"
            raise InputError(f"{problem}: cai judge calibrate RUN --gold {shlex.quote(str(source))}", path)
        return labels, path
    labels = labels_file(path)
    votes = gold or votes_of_run(labels)
    unread = labels.with_name(FILE)
    if votes is None and labels.name == LABELS and unread.is_file() and unread.stat().st_size > 0:
        log.warning("%s is not read, as the rows of %s have human labels: name it as --gold to use it", unread, LABELS)
    return labels, votes


def _begins_with_vote(path: Path) -> bool:
    _, record = next(read_records(path))
    return is_vote(record)


def labels_file(path: str | Path) -> Path:
    """The file that a path means: of a folder, its labels.jsonl; raises InputError if it has none."""
    file = Path(path)
    if file.is_dir():
        file = file / LABELS
        if not file.is_file():
            raise InputError("is a folder without a labels.jsonl; name the --out of a cai label, or a file", path)
    return file


def votes_of_run(labels: Path) -> Path | None:
    """The file of votes beside the labels of a run; None if there is none, or the rows have human labels themselves."""
    votes = labels.with_name(FILE)
    is_there = labels.name == LABELS and labels.is_file() and votes.is_file() and votes.stat().st_size > 0
    return votes if is_there and not has_human_labels(labels) else None


def has_human_labels(labels: Path) -> bool:
    """Whether any row of a labels.jsonl says which reply people prefer."""
    with open(labels, "rb") as file:
        return any(HUMAN.search(line) for line in file)
