"""Tables for people to read, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column aligned left, the others right, two spaces apart.

    A row of one cell is a heading, which widens no column; a row without cells is an empty line.
    """
    table = [list(row) for row in rows]
    widths: dict[int, int] = {}
    for row in table:
        for place, cell in enumerate(row):
            if len(row) > 1:
                widths[place] = max(widths.get(place, 0), len(cell))
    lines = []
    for row in table:
        cells = [f"{cell:>{widths[place] + 2}}" for place, cell in enumerate(row) if place]
        lines.append("".join([*(cell.ljust(widths.get(0, 0)) for cell in row[:1]), *cells]).rstrip())
    return lines


def number(value: float | None, form: str) -> str:
    """A number in a cell, `form` as in `format`; a dash for None."""
    if value is None:
        return "–"
    return format(value, form)
