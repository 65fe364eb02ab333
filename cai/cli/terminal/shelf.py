"""The folders that there are, as a table: a line each with its parts below it, and what to type to resume it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from cai.texts.wording import cell, columns, counted, number, printable
from cai.viewer.terminal.folders import Folder, age, resuming
from cai.viewer.terminal.shelf import Shelf

STYLES = {"running": "cyan", "done": "green", "stopped": "red", "damaged": "red", "unfinished": "yellow"}
HEAD = "folder | what | state | rows | dropped | cost | age\n"
WIDE = 10_000  # columns of a file


def show_shelf(shelf: Shelf) -> None:
    """Print the folders to stdout: a table, or on a terminal that is too narrow for it a few short lines each."""
    screen = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    width = WIDE
    if screen.is_terminal:
        width = screen.width
    for line in _lines(shelf, width):
        text = Text(printable(line))
        for state, style in STYLES.items():
            text.highlight_regex(rf"(?<=[ ·] ){state}(?= |$)", style)
        screen.print(text)


def _lines(shelf: Shelf, width: int) -> Iterator[str]:
    folders = list(_with_parts(shelf.folders))
    if not folders:
        yield f"{shelf.top} has no run, training or evaluation; begin with: cai generate --limit 10"
    head, *rows = columns(HEAD + "".join(map(_row, folders))).splitlines()
    is_table = max(map(len, (head, *rows))) <= width
    if folders and is_table:
        yield head
    for folder, row in zip(folders, rows, strict=True):
        if is_table:
            yield row
        else:
            yield from _short(folder, width)
        if folder.why:
            yield f"    {folder.why}"
        command = resuming(folder)
        if command is not None and not folder.is_part:
            yield f"    resume: {command}"
        elif folder.state in ("unfinished", "stopped") and not folder.is_part:
            yield "    resume: the call that made it; which one is not known"
    if shelf.unreadable:
        yield f"{counted(shelf.unreadable, 'folder')} cannot be read"
    if not shelf.whole:
        yield f"other folders, deeper ones or too many, were not looked at: name one of them instead of {shelf.top}"


def _with_parts(folders: list[Folder]) -> Iterator[Folder]:
    for folder in folders:
        yield folder
        yield from sorted(folder.parts, key=lambda part: part.path)


def _facts(folder: Folder) -> list[str]:
    """Rows, dropped, cost and age."""
    rows, dropped = number(folder.rows, ","), number(folder.dropped, ",")
    return [rows, dropped, _cost(folder.cost_usd), age(folder.changed)]


def _cost(cost: float | None) -> str:
    if cost == 0:
        return "free"
    return "–" if cost is None else f"${cost:,.4f}"


def _row(folder: Folder) -> str:
    name = f"{'  ' * folder.is_part}{folder.path}"
    return " | ".join([cell(name), cell(folder.kind), folder.state, *_facts(folder)]) + "\n"


def _short(folder: Folder, width: int) -> Iterator[str]:
    """A folder in lines that are short: words are left out from the end."""
    yield str(folder.path)
    rows, dropped, cost, changed = _facts(folder)
    words = [folder.state, folder.kind, f"{changed} ago", f"{rows} rows", f"{dropped} dropped", f"cost {cost}"]
    while len(words) > 1 and len(" · ".join(words)) + 2 > width:
        words.pop()
    yield f"  {' · '.join(words)}"
