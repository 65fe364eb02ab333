"""The votes in a file, which is followed while it grows: those of all people, and of one, who may take them back."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from cai.disk.reading import check_files
from cai.errors import SourceError
from cai.judge.gold import RANDOM, TAKEN_BACK, is_vote, vote_of, word_of
from cai.judge.majority import People
from cai.sources.labels import OTHER
from cai.sources.lines import json_line
from cai.sources.values import BadRecord
from cai.viewer.growing import Growing
from cai.viewer.pairs import AT_ONCE

Act = tuple[str, str | None, bool | None]  # key, queue and blindness of a vote


class Votes:
    """Votes, those of one annotator apart; others may be writing the file.

    people: the votes of all that may certify. mine: those of the annotator, whether they may or not. by_queue: the last
    word of the annotator, by queue and key. standing: the annotator's votes that are not taken back, the last one last.
    shown: keys of pairs that the annotator has labelled in the random queue, and so has been shown the verdict on.
    """

    def __init__(self, path: Path, annotator: str) -> None:
        check_files(path.parent, [path.name])
        self._file, self._annotator = Growing(path), annotator
        self._start_anew()

    def _start_anew(self) -> None:
        self._file.restart()
        self.people = People()
        self.mine = People(every=True)
        self.by_queue: dict[str | None, dict[str, str]] = defaultdict(dict)
        self.standing: dict[Act, None] = {}
        self.shown: set[str] = set()

    def follow(self) -> None:
        """Read what was added; raises SourceError for a line that is not a vote."""
        while (lines := self._file.read(AT_ONCE)) != []:
            if lines is None:
                self._start_anew()
                continue
            for line in lines:
                if line.content is None or not line.content.isspace():
                    self._add(line.number, json_line(line.content or b""))

    def _add(self, line: int, record: Any) -> None:
        try:
            if not is_vote(record):
                raise BadRecord("is not a vote: name a file of votes alone, or a new one")
            vote = vote_of(record)
            self.people.add(line, vote)
        except BadRecord as bad:
            self._start_anew()  # to say it again
            raise SourceError(bad.problem, self._file.path, line) from None
        if vote.annotator != self._annotator:
            return
        word = word_of(vote)
        act = vote.key, vote.queue, vote.blind
        self.mine.add(line, vote)
        self.by_queue[vote.queue][vote.key] = word
        if vote.queue == RANDOM and word in OTHER:
            self.shown.add(vote.key)
        self.standing.pop(act, None)
        if word != TAKEN_BACK:
            self.standing[act] = None
