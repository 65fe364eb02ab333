"""The door: reads runs, trainings and evaluations, and writes one HTML file about them that can be mailed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cai.disk.writing import unwritable, write_atomically
from cai.errors import UsageError
from cai.packages import package_version
from cai.records import Record
from cai.report.html.render import encode, render
from cai.report.html.samples import MOST_ROWS, Shown, fitting
from cai.report.html.sections import Section
from cai.report.places import path_of
from cai.report.sources import sections_of
from cai.texts.wording import counted

MOST_BYTES = 8_000_000  # of a page: what mail takes
OUT = "report.html"


class SectionSummary(Record):
    """What a page holds of one source."""

    title: str
    kind: str
    facts: dict[str, str]
    rows: int  # in the source
    shown: int  # in the page
    groups: dict[str, tuple[int, int]]  # rows in the source, and in the page
    warnings: tuple[str, ...]


class ReportSummary(Record):
    """What was written."""

    out: Path
    bytes: int
    sections: tuple[SectionSummary, ...]

    def summary(self) -> dict[str, Any]:
        """The summary as JSON."""
        return self.model_dump(mode="json")

    def lines(self) -> Iterator[str]:
        """For people."""
        for section in self.sections:
            shown = f", {section.shown:,} of {counted(section.rows, 'row')} shown" if section.rows else ""
            yield f"{section.title}: {section.kind}{shown}"
            yield from (f"  {warning}" for warning in section.warnings)
        yield f"{self.out}: {self.bytes / 1e6:.1f} MB"


def make_report(
    sources: str | Path | Sequence[str | Path], out: str | Path = OUT, *, rows: int = MOST_ROWS, seed: int = 0
) -> ReportSummary:
    """Write one HTML file of runs, trainings and evaluations: figures with intervals, pictures, a sample of rows.

    sources: folders of runs, benches, trainings or evaluations, or files of rows with probabilities and human labels.
    rows: how many to show at most, of all sources together: of each group, such as kept, or dropped for one reason,
    equally many, drawn by `seed`. A run may still be writing; the page is the same for the same folders.
    Raises UsageError, InputError or RunError.
    """
    if not 0 <= rows <= MOST_ROWS:
        raise UsageError(f"--rows {rows}: a page takes 0 to {MOST_ROWS:,} rows")
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: name a file that ends in .html")
    several = [sources] if isinstance(sources, str | Path) else sources
    if not several:
        raise UsageError("name a run, a training or an evaluation")
    once = {path_of(source).resolve(): source for source in several}
    sections = [section for source in once.values() for section in sections_of(source, rows, seed)]
    version = package_version("cai-toolkit")
    empty = render(sections, [None] * len(sections), version)
    if len(empty) > MOST_BYTES:
        raise UsageError(
            f"the figures alone take {len(empty) / 1e6:.1f} MB, more than can be mailed: name fewer sources"
        )
    with_rows = [section.sample for section in sections if section.sample is not None]
    fit = iter(fitting(with_rows, rows, MOST_BYTES - len(empty) - 1_000 * (1 + len(sections)), encode))
    samples = [next(fit) if section.sample is not None else None for section in sections]
    content = render(sections, samples, version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error, "choose another --out") from error
    write_atomically(path, content)
    shown = (_summary(*pair) for pair in zip(sections, samples, strict=True))
    return ReportSummary(out=path, bytes=len(content), sections=tuple(shown))


def _summary(section: Section, shown: Shown | None) -> SectionSummary:
    groups = section.sample.groups if section.sample else ()
    counts = shown.counts if shown else ()
    pairs = {group.name: (group.total, count) for group, count in zip(groups, counts, strict=True)}
    return SectionSummary(
        title=section.title,
        kind=section.kind,
        facts={fact.name: " ".join(filter(None, fact[1:])) for fact in section.facts},
        rows=sum(group.total for group in groups),
        shown=sum(counts),
        groups=pairs,
        warnings=tuple(section.warnings),
    )
