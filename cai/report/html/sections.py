"""What a page is made of: sections of facts, tables with their pictures, warnings, and rows to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from markupsafe import Markup

from cai.judge.metrics import Metrics
from cai.records import Values
from cai.texts.wording import one_line, shortened

MOST_NAME = 80  # characters of a name in a table
MOST_TEXT = 500  # of a sentence
MOST_LINES = 100  # of a table: names come from data, which may hold any number of them
KINDS: dict[str, Kind] = {"=": "name", "*": "picture", ":": "text"}  # by the first character of a column

Cell = str | Markup
Kind = Literal["name", "number", "picture", "text"]  # of a column: how it is aligned
Ends = tuple[float, float] | None  # of an interval


class Fact(NamedTuple):
    """One figure at the head of a section."""

    name: str
    value: str
    interval: str = ""
    basis: str = ""  # what it rests on


class Column(NamedTuple):
    """One column of a table; a picture's title is its axis."""

    title: Cell
    kind: Kind


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in lines, with pictures in columns, or one beside all of them; a line of one cell is a heading."""

    title: str
    columns: Sequence[Column]
    lines: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    picture: Markup | None = None

    @property
    def pictures(self) -> int:
        """How many of its columns are pictures."""
        return sum(column.kind == "picture" for column in self.columns)

    @property
    def shown(self) -> Sequence[Sequence[Cell]]:
        """The first lines: as many as a page can take."""
        return self.lines[:MOST_LINES]


class Group(NamedTuple):
    """Rows that have something in common, such as why they were dropped."""

    name: str
    total: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a source that are worth a look.

    order: group and place of each, the groups taking turns, so that its start is a fair sample. load: reads the rows at
    some places.
    """

    groups: Sequence[Group]
    order: Sequence[tuple[int, int]]
    load: Callable[[frozenset[int]], Iterator[tuple[int, Values]]]


@dataclass(slots=True)
class Part:
    """Some tables under a heading."""

    title: str
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """What one source has to say."""

    title: str
    kind: str  # such as "label run"
    facts: list[Fact] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)  # settings: name and value
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    sample: Sample | None = None
    metrics: Metrics | None = None  # of a judge beside people


def columns(titles: str, *axes: Cell) -> list[Column]:
    """Columns by their titles, with ` | ` between them.

    `=` before a title: names; `:` texts; `*` stands for a picture, whose axis is the next of `axes`; else numbers.
    """
    waiting = iter(axes)
    made = []
    for title in titles.split(" | "):
        kind = KINDS.get(title[:1], "number")
        if kind == "picture":
            made.append(Column(next(waiting), kind))
            continue
        text = title.lstrip("=:").replace("95 % interval", "95\u00a0%\u00a0interval")  # stays in one line
        made.append(Column(text, kind))
    return made


def name(text: object) -> str:
    """A name from data, in one line and not too long."""
    return shortened(one_line(text), MOST_NAME)


def title_of(path: Path) -> str:
    """A folder or file as a heading: as it was named, or the name of the one that we are in."""
    return name(path if path.name else path.resolve().name)


def heading(text: str) -> str:
    """A name as a heading."""
    return name(text[:1].upper() + text[1:])


def paragraph(text: object) -> str:
    """A sentence from data, in one line and not too long."""
    return shortened(one_line(text), MOST_TEXT)


def count(number: int) -> str:
    """A count, with its thousands apart."""
    return f"{number:,}"


def minus(number: str) -> str:
    """A number with a minus sign that is as wide as a plus."""
    return number.replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{share:.1%}"


def percents(ends: Ends) -> str:
    """The interval of a share."""
    return "–" if ends is None else f"{100 * ends[0]:.1f} to {ends[1]:.1%}"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number that is not a share."""
    return "–" if value is None else minus(f"{value:,.{digits}f}")


def decimals(ends: Ends, digits: int = 3) -> str:
    """The interval of a number that is not a share."""
    return "–" if ends is None else f"{decimal(ends[0], digits)} to {decimal(ends[1], digits)}"


def ends_of(low: float | None, high: float | None) -> Ends:
    """Both ends of an interval; None unless both are known."""
    if low is None or high is None:
        return None
    return low, high
