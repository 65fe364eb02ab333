"""One source as it is read: its lines become entries, and entries become rows again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from pydantic import ValidationError

from cai.folder.kinds import EXPORT_STAGES
from cai.folder.lines import BAD_ROW
from cai.records import Drop, Label, Record, Values
from cai.report.folders import ANNOTATOR, parsed, reason_text
from cai.report.html.rows import shown
from cai.sources.labels import Preference
from cai.sources.yamlfile import first_fault
from cai.texts.wording import one_line
from cai.viewer.entries import DROPS, ROWS, Condition, Entries, Place
from cai.viewer.facets import LEFT_OUT, Facet, facets_of
from cai.viewer.growing import MOST_LINE, Growing, Line
from cai.viewer.sources import Source
from cai.viewer.words import Words

AT_ONCE = (1 << 17, 1 << 14)  # bytes of rows and of drops, after which whoever asks gets a turn: some milliseconds
WORDS_AT_ONCE = 8  # entries
LEAD = 400  # characters of a text in the list
START = 6_000  # bytes of a line that is not a row
VERDICT = ("z", "p_a", "votes", "rewards", "human")  # of a label: who has yet to vote must not see them
WHOLE_TEXT, WHOLE_LIST = 200_000, 1_000  # characters and items of a row that is opened
PROVENANCE = {"key", "constitution", "templates", "models", "seed", "usage", "calls"}  # which a list leaves out

Lock = AbstractContextManager[object]


class Unreadable(Record):
    """A line that is not such a row as others of its file."""

    id: str
    text: str


class Found(NamedTuple):
    """What was found in a line. record: None if it is not a row."""

    line: Line
    record: Record | None
    facets: Sequence[Facet] = ()


class About(NamedTuple):
    """An entry, by what is in the index. reasons: why it is not in training files."""

    place: Place
    facets: dict[str, list[str]]
    reasons: Sequence[str]


class Reader:
    """The entries of a source.

    problem: why a file cannot be read at present; what was read of it stays.
    """

    def __init__(self, source: Source, db: sqlite3.Connection, table: int) -> None:
        self.source = source
        self.entries = Entries(db, table)
        self.words = Words(db, table)
        self.problem: str | None = None
        self._files = [Growing(source.rows)]
        if source.drops is not None:
            self._files.append(Growing(source.drops))
        self._bytes = [(0, 0), (0, 0)]  # read, and in all, of each file
        self._before = [0, 0]  # position of the last entry of each file
        self._people: dict[int, Preference | None] = {}  # by the start of a label's line, votes that are not in it

    # Reading

    def advance(self, lock: Lock) -> bool:
        """Read some lines of both files, so that rows soon say what became of them; False if none has more.

        lock: of the database.
        """
        advanced, problems = False, []
        for file, growing in enumerate(self._files):
            try:
                lines = growing.read(AT_ONCE[file])
            except OSError as error:
                problems.append(f"{growing.path} cannot be read: {error.strerror or error}")
                continue
            if lines is None:
                with lock:
                    self._forget(file)
            else:
                every = [self._found(file, line) for line in lines]
                with lock:
                    for found in every:
                        self._keep(file, found)
                    self._bytes[file] = growing.end, growing.size
            advanced = advanced or lines != []
        self.problem = "; ".join(problems) or None
        return advanced

    def advance_words(self, lock: Lock) -> bool:
        """Make the words of some entries known; False if all are, or cannot be at present."""
        for file in range(len(self._files)):
            with lock:
                places = list(self.entries.select(self.words.waiting(file), "number", (WORDS_AT_ONCE, 0)))
            try:
                contents = [self._content(place) for place in places]
            except OSError:  # the file has gone since, which `advance` sees
                return False
            with lock:
                for place, content in zip(places, contents, strict=True):
                    self.words.add(file, place.number, content)
            if places:
                return True
        return False

    def _forget(self, file: int) -> None:
        """A file is another one: read it again; if it is that of the rows, drops that became rows come back, too."""
        if file == DROPS:
            self.entries.forget_drops()
        else:
            self.entries.forget()
            self._people.clear()
        for number in range(file, len(self._files)):
            self._files[number].restart()
            self.words.forget(number)
            self._bytes[number] = 0, self._bytes[number][1]
            self._before[number] = 0

    def _found(self, file: int, line: Line) -> Found:
        if line.content is None:
            return Found(line, None)
        try:
            record = self._parsed(file, line.content)
            return Found(line, record, list(facets_of(record)))
        except BAD_ROW:
            return Found(line, None)

    def _parsed(self, file: int, content: bytes) -> Record:
        if file == DROPS:
            return Drop.model_validate_json(content)
        return parsed(content, self.source.row)

    def _keep(self, file: int, found: Found) -> None:
        line, record, facets = found
        if record is None:
            self.entries.add_unreadable(file, line, self._before[file])
            return
        position = getattr(record, "position", line.number - 1)  # answers of a training are in their order
        self._before[file] = position
        if file == ROWS:
            if ANNOTATOR not in (line.content or b""):  # people's lines of one row stand side by side
                self._supersede(line, position)
            if line.start in self._people:  # a vote may have come since the line was read
                facets = list(facets_of(self._with_vote(line.start, record)))
            self.entries.add_row(line, position, facets)
        elif isinstance(record, Drop) and record.stage in EXPORT_STAGES:
            self.entries.leave_out(position, reason_text((record.stage, record.reason)))
        else:
            self.entries.add_drop(line, position, facets)

    def _supersede(self, line: Line, position: int) -> None:
        """A row takes the place of shorter ones, with what people have said of them."""
        for place in self.entries.supersede(position):
            if place.start in self._people:
                self._people.setdefault(line.start, self._people.pop(place.start))

    def voted(self, start: int, human: Preference | None) -> int | None:
        """What a person says of a row, whose line starts there; the number of its entry, None if it is not read yet."""
        self._people[start] = human
        for place in self.entries.select(Condition("number = ?", [start])):
            record, _ = self._record(place)
            self.entries.change(place, ("person",), facets_of(self._with_vote(start, record)))
            return place.number
        return None

    def _with_vote(self, start: int, record: Record) -> Record:
        human = self._people.get(start)
        if human is None or not isinstance(record, Label):
            return record
        return record.model_copy(update={"human": human})

    def progress(self) -> list[int]:
        """How many bytes are read, and how many there are."""
        return [sum(each) for each in zip(*self._bytes, strict=True)]

    # Showing

    def about(self, place: Place) -> About:
        """What the index knows of an entry, while this thread has the lock."""
        facets = self.entries.facets.values(place.bits)
        is_left_out = facets["status"] == [LEFT_OUT]
        return About(place, facets, self.entries.reasons(place.position) if is_left_out else [])

    def short(self, about: About) -> Values:
        """An entry for the list: its texts are cut, and a label has no verdict."""
        record, problems = self._record(about.place)
        row = shown(record, [*about.reasons, *problems], LEAD)
        for name in VERDICT:
            row.pop(name, None)
        return row | _named(about)

    def whole(self, about: About) -> Values:
        """An entry that is opened."""
        record, problems = self._record(about.place)
        row = shown(record, [*about.reasons, *problems], WHOLE_TEXT, WHOLE_LIST)
        return row | record.model_dump(mode="json", include=PROVENANCE) | _named(about)

    def _record(self, place: Place) -> tuple[Record, list[str]]:
        """The record of an entry; of a line that is not one, its start and what is wrong with it."""
        name = f"line {place.line} of {self._files[place.file].path.name}"
        content = b""
        try:
            content = self._content(place)
            if place.size > MOST_LINE:
                problem = f"it has {place.size:,} bytes, and up to {MOST_LINE:,} are read"
            else:
                return self._parsed(place.file, content), []
        except ValidationError as error:
            problem = first_fault(error)
        except OSError as error:
            problem = error.strerror or str(error)
        except BAD_ROW as error:
            problem = one_line(error)
        text = content[:START].decode("utf-8", "replace")
        return Unreadable(id=name, text=text), [f"{name} is not a row: {problem}"]

    def _content(self, place: Place) -> bytes:
        """The line of an entry, or its start if it is too long."""
        with open(self._files[place.file].path, "rb") as file:
            file.seek(place.start)
            return file.read(min(place.size, MOST_LINE))


def _named(about: About) -> Values:
    return {"number": about.place.number, "position": about.place.position, "facets": about.facets}
