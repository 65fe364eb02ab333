"""Which entries the sources have, and where each is: counted by facets, and given by pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cai.records import Values
from cai.report.folders import parsed
from cai.report.html.rows import shown
from cai.viewer.sources import Source

MOST_ROWS = 200  # of a page
LEAD = 400  # characters of a text in the list
VERDICT = ("z", "p_a", "votes", "rewards", "human")  # of a label: who has not voted must not see them


class Index:
    """The entries of sources, which are followed while their files grow; may be used by several threads.

    An entry is a row, a drop, or a line that is neither. `number` names an entry of a source, also while others come.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._rows: list[list[Values]] = []

    def start(self) -> None:
        """Start to read."""
        for source in self.sources:
            lines = source.rows.read_bytes().splitlines() if source.rows.exists() else []
            self._rows.append([{"record": parsed(line, source.row), "number": at} for at, line in enumerate(lines)])

    def close(self) -> None:
        """Stop, and leave nothing behind."""

    def state(self) -> list[Values]:
        """Of each source: title, kind, entries, bytes (read, in all), searchable (entries), facets by group and value.

        A row has one value of `status` (kept, left out of a file, dropped, not readable), `person`, `flips` and
        `length`, and any number of `reason` and `principle`.
        """
        return [
            {
                "title": source.title, "kind": source.kind, "entries": len(rows), "bytes": [1, 1],
                "searchable": len(rows), "facets": {"status": {"kept": len(rows)}},
            }
            for source, rows in zip(self.sources, self._rows, strict=True)
        ]  # fmt: skip

    def page(
        self, source: int, facets: Mapping[str, str] | None = None, words: str = "", start: int = 0, count: int = 40
    ) -> Values:
        """`total` and `rows` of the entries that have these values and hold these words, in the order of the input.

        A row is short: `number`, `facets` (values by group), and what `shown` makes of it, its texts cut. A label lacks
        its verdict, so that it can still be judged blind.
        """
        rows = self._rows[source]
        return {"total": len(rows), "rows": [self._short(row) for row in rows[start : start + min(count, MOST_ROWS)]]}

    def _short(self, row: Values) -> Values:
        short = shown(row["record"], (), LEAD)
        for name in VERDICT:
            short.pop(name, None)
        return {"number": row["number"], "facets": {"status": ["kept"]}, **short}

    def row(self, source: int, number: int) -> Values | None:
        """An entry as `shown` makes it, with `number`, `facets`, `key` (of a pair), `calls`, `models`; None: gone."""
        for row in self._rows[source]:
            if row["number"] == number:
                record = row["record"]
                more = {name: getattr(record, name, None) for name in ("key", "calls", "models")}
                return {"number": number, "facets": {}, **shown(record), **more}
        return None

    def number_of(self, source: int, key: str) -> int | None:
        """The number of the row of a pair; None if it is not read yet."""
        for row in self._rows[source]:
            if getattr(row["record"], "key", None) == key:
                return int(row["number"])
        return None
