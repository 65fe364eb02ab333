"""The votes in a file, which is followed while it grows: those of all people, and of one, who may take them back."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from cai.errors import SourceError
from cai.folder.files import check_files
from cai.judge.gold import TAKEN_BACK, is_vote, vote_of, word_of
from cai.judge.majority import People
from cai.sources.lines import json_line
from cai.sources.values import BadRecord
from cai.viewer.pairs import size_of

Act = tuple[str, str | None, bool | None]  # key, queue and blindness of a vote


class Votes:
    """Votes, those of one annotator apart; others may be writing the file.

    people: the votes of all that may certify. mine: those of the annotator, whether they may or not. by_queue: the last
    word of the annotator, by queue and key. standing: the annotator's votes that are not taken back, the last one last.
    """

    def __init__(self, path: Path, annotator: str) -> None:
        self._path, self._annotator = path, annotator
        self._start_anew()

    def _start_anew(self) -> None:
        self._end = self._line = self._file_number = 0  # of what was read
        self.people = People()
        self.mine = People(every=True)
        self.by_queue: dict[str | None, dict[str, str]] = defaultdict(dict)
        self.standing: dict[Act, None] = {}

    def follow(self) -> None:
        """Read what was added; raises SourceError for a line that is not a vote."""
        check_files(self._path.parent, [self._path.name])
        size, file_number = size_of(self._path)
        if size < self._end or file_number != self._file_number:
            self._start_anew()
            self._file_number = file_number
        if size == self._end:
            return
        with open(self._path, "rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # another viewer is writing it
                    break
                self._end += len(line)
                self._line += 1
                if not line.isspace():
                    self._add(line)

    def _add(self, line: bytes) -> None:
        record = json_line(line)
        try:
            if not is_vote(record):
                raise BadRecord("is not a vote: name a file of votes alone, or a new one")
            vote = vote_of(record)
            self.people.add(self._line, vote)
        except BadRecord as bad:
            raise SourceError(bad.problem, self._path, self._line) from None
        if vote.annotator != self._annotator:
            return
        word = word_of(vote)
        act = vote.key, vote.queue, vote.blind
        self.mine.add(self._line, vote)
        self.by_queue[vote.queue][vote.key] = word
        self.standing.pop(act, None)
        if word != TAKEN_BACK:
            self.standing[act] = None
