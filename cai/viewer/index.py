"""Which entries the sources have: found by a thread, live from the first rows, and given by pages.

There is one connection to SQLite and one lock, which the thread holds for milliseconds at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cai.errors import CaiError
from cai.records import Values
from cai.sources.labels import Preference
from cai.texts.wording import reason_of
from cai.viewer.entries import Condition, open_tables
from cai.viewer.reader import Reader
from cai.viewer.sources import Source

POLL = 0.3  # seconds between looks at files that do not grow
LOOK, PAUSE = 3.0, 20  # seconds between looks for further folders; and for every second that one took
MOST_ROWS = 200  # of a page
COMMON = 8  # words in more than one entry of so many are looked for in the order of entries

log = logging.getLogger("cai")


class Index:
    """The entries of sources, which are followed while their files grow; may be used by several threads.

    An entry is a row, a drop, or a line that is neither. Its `number` names it in its source while others come.
    find: looks for the sources once more, since an evaluation makes folders as it goes.
    """

    def __init__(self, sources: Sequence[Source], find: Callable[[], Sequence[Source]] | None = None) -> None:
        self.sources: list[Source] = []
        self._db = open_tables()
        self._readers: list[Reader] = []
        self._find = find
        self._add(sources)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._work, name="cai index", daemon=True)

    def start(self) -> None:
        """Start to read; the first rows are there a moment later."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading, and leave nothing behind."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._db.close()

    def _add(self, sources: Iterable[Source]) -> None:
        """Sources keep their numbers: further ones come behind."""
        for source in sources:
            if source not in self.sources:
                self._readers.append(Reader(source, self._db, len(self.sources)))
                self.sources.append(source)

    # The thread

    def _work(self) -> None:
        due = time.monotonic() + LOOK
        try:
            while not self._ended.is_set():
                if self.advance():
                    continue
                start = time.monotonic()
                if start > due:
                    self.look()
                    end = time.monotonic()
                    due = end + LOOK + PAUSE * (end - start)
                self._ended.wait(POLL)
        except Exception as error:  # the page says so; what is indexed can still be read
            self._problem = f"no further rows are read: {type(error).__name__}: {reason_of(error)}"
            log.warning("%s", self._problem)
            log.debug("the thread of the index", exc_info=True)

    def advance(self) -> bool:
        """Read some lines of every source, or if there are none, some words; False if all is read."""
        advanced = [reader.advance(self._lock) for reader in self._readers]
        return any(advanced) or any(reader.advance_words(self._lock) for reader in self._readers)

    def look(self) -> None:
        """Look for further sources."""
        if self._find is None:
            return
        try:
            sources = self._find()
        except (CaiError, OSError) as error:
            self._problem = str(error)
            return
        self._problem = None
        with self._lock:
            self._add(sources)

    # Answers

    def state(self) -> list[Values]:
        """Of each source: title, kind, entries, bytes (read, in all), searchable (entries), facets by group and value.

        An entry has one `status` (kept, left out of a file, dropped, not readable), and as many of the other groups as
        its kind has. problem: why a file cannot be read.
        """
        with self._lock:
            return [self._state(reader) for reader in self._readers]

    def _state(self, reader: Reader) -> Values:
        entries = reader.entries.total({})
        return {
            "title": reader.source.title,
            "kind": reader.source.kind,
            "entries": entries,
            "bytes": reader.progress(),
            "searchable": min(entries, reader.words.count),
            "facets": reader.entries.facets.counts(),
            "problem": self._problem or reader.problem,
        }

    def page(
        self, source: int, facets: Mapping[str, str] | None = None, words: str = "", start: int = 0, count: int = 40
    ) -> Values:
        """`total` and `rows` of the entries with these values and all of these words, in the order of the input.

        Words are whole ones, in any order; the start of one ends in *. A row is short: what `shown` makes of it, its
        texts cut, with `number`, `position` and `facets` (values by group). A label lacks its verdict.
        """
        reader = self._readers[source]
        with self._lock:
            total, condition = self._chosen(reader, facets or {}, words)
            limit = (min(count, MOST_ROWS), max(start, 0))
            every = list(map(reader.about, reader.entries.select(condition, limit=limit)))
        return {"total": total, "rows": list(map(reader.short, every))}

    def _chosen(self, reader: Reader, values: Mapping[str, str], words: str) -> tuple[int, Condition]:
        """How many entries have these values and words, and the condition for it."""
        entries = reader.entries
        condition = entries.having(values)
        of_words = reader.words.condition(words)
        if of_words is None:
            return entries.total(values), condition
        hits = reader.words.hits(words)
        is_common = hits * COMMON > entries.total({})
        condition = condition.and_(of_words.in_order() if is_common else of_words)
        if values or entries.hidden:
            return entries.count(condition), condition
        return hits, condition

    def row(self, source: int, number: int) -> Values | None:
        """An entry as `page` has it, but whole, with its verdict and what made it; None: there is none.

        Of a row that has grown since, the longer row in its place, which has another number.
        """
        reader = self._readers[source]
        with self._lock:
            number = reader.entries.latest(number)
            every = list(map(reader.about, reader.entries.select(Condition("number = ?", [number]))))
        return next(map(reader.whole, every), None)

    def voted(self, source: int, start: int, human: Preference | None) -> int | None:
        """A person has said which reply of a row is better, or taken it back; start: of its line.

        Returns the number of its entry; None if that is not read yet.
        """
        with self._lock:
            return self._readers[source].voted(start, human)
