"""What any run has to say: how many rows came out, what was dropped and why, and rows to look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from cai.judge.metrics import wilson
from cai.records import Record, Values
from cai.report.folders import Reasons, RunRows, reason_text
from cai.report.html import charts
from cai.report.html.samples import Strata
from cai.report.html.sections import Cell, Fact, Section, Table, columns, count, name, percent, percents, title_of

R = TypeVar("R", bound=Record)
KEPT = "kept"


class Tally(ABC, Generic[R]):
    """What is counted of the rows of one kind of run, which pass by once."""

    row: type[R]
    kind: str
    noun = "rows"

    @abstractmethod
    def add(self, row: R) -> None:
        """Count a row."""

    def group_of(self, row: R, reasons: Reasons) -> tuple[str, float]:
        """The group of a row in the sample, and its weight: rows of the greatest are shown first."""
        return (reason_text(reasons[0]) if reasons else KEPT), 0.0

    @abstractmethod
    def facts(self) -> Iterator[Fact]:
        """The figures at the head of the section."""

    @abstractmethod
    def tables(self) -> Iterator[Table]:
        """The tables before that of the drop reasons."""


def run_section(folder: Path, info: Values, strata: Strata, tally: Tally[R]) -> Section:
    """The section of a run."""
    run = RunRows(folder, info, tally.row)
    rows = 0
    reasons: Counter[str] = Counter()
    for position, row in run.rows():
        run.lost.pop(position, None)  # it was dropped, tried again, and is there now
        rows += 1
        tally.add(row)
        left_out = run.left_out.get(position, ())
        reasons.update(map(reason_text, left_out))
        group, weight = tally.group_of(row, left_out)
        strata.offer(group, position, weight)
    reasons.update(run.offer_lost(strata))
    section = Section(title_of(folder), tally.kind, about=list(_about(info)), warnings=run.notes)
    section.facts = [*_head(rows, len(run.lost), tally.noun), *tally.facts()]
    section.tables = list(tally.tables())
    if reasons:
        note = "A row may be left out of several files, so the lines need not add up to the rows that are missing."
        section.tables.append(bars("Drop reasons", "reason", "count", dict(reasons.most_common()), [note]))
    section.sample = run.sample(strata)
    return section


def _head(rows: int, lost: int, noun: str) -> Iterator[Fact]:
    if not lost:
        yield Fact(noun, count(rows))
        return
    yield Fact(noun, count(rows), basis=f"of {count(rows + lost)} inputs")
    yield share_fact("dropped before they were rows", lost, rows + lost)


def share_fact(what: str, part: int, whole: int) -> Fact:
    """A share with its interval (Wilson, 95 %) and what it is a share of."""
    return Fact(what, percent(part / whole), percents(wilson(part, whole)), f"{count(part)} of {count(whole)}")


def bars(title: str, what: str, unit: str, counts: Mapping[str, int], notes: Iterable[str] = ()) -> Table:
    """Counts by name, each with a bar and its share of all."""
    largest = max(counts.values())
    total = sum(counts.values())
    lines: list[list[Cell]] = []
    for each, number in counts.items():
        bar = charts.bar(number, largest, f"{each}: {count(number)}")
        lines.append([name(each), bar, count(number), percent(number / total)])
    return Table(title, columns(f"={what} | * | {unit} | of all listed", ""), lines, tuple(notes))


def _about(info: Values) -> Iterator[tuple[str, str]]:
    """The settings of a run that a reader asks for first."""
    identity = info["identity"]
    binding = identity.get("binding", {})
    law = identity.get("constitution") or binding.get("constitution")
    if law:
        yield "constitution", name(f"{law.get('name')} {law.get('version')} ({law.get('hash')})")
    models = identity.get("models") or ()
    if isinstance(models, dict):
        models = dict.fromkeys(models.values())
    for model in models:
        yield "model", name(model)
    if binding:
        yield "judge", name(f"{binding.get('judge')}, protocol {binding.get('protocol')}")
    usage = info.get("usage", {})
    for what, number in usage.items():
        if number:
            yield what.replace("_", " "), count(number)
    if info.get("cost_usd") is not None:
        yield "cost", f"${info['cost_usd']:,.4f}"
    yield "seed", name(identity.get("seed", "not known"))
    for what, version in info.get("versions", {}).items():
        yield what, name(version)
