"""What is shown: the rows of runs and trainings, and of the runs inside benches and evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cai.errors import InputError
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.folder.kinds import kind_of
from cai.folder.lines import DROPPED
from cai.records import Record
from cai.report.places import path_of, places_in
from cai.texts.wording import one_line
from cai.training.report.samples import FILE as SAMPLES
from cai.training.report.samples import Sample
from cai.training.setup.folder import RECORD as TRAINING


@dataclass(frozen=True, slots=True)
class Source:
    """A folder whose rows are shown."""

    folder: Path
    title: str
    kind: str  # such as "label run", or "training"
    rows: Path  # the file of its rows, which may not be there yet
    row: type[Record]
    drops: Path | None  # the file of what was dropped


def find_sources(paths: Iterable[str | Path]) -> list[Source]:
    """What there is to show in some folders, in their order; InputError for one that holds nothing of the kind."""
    sources: dict[Path, Source] = {}
    for path in map(path_of, paths):
        inside = list(_sources_in(path)) if path.is_dir() else []
        if not inside:
            raise InputError("holds no rows to look at; name a run, a training, a bench or an evaluation", path)
        for source in inside:
            sources.setdefault(source.folder.resolve(), source)
    return list(sources.values())


def _sources_in(folder: Path) -> Iterable[Source]:
    for place in places_in(folder):
        named = place.folder if place.folder.name else place.folder.resolve().name  # "." has no name
        title = one_line(named)
        if place.what == TRAINING:
            yield Source(place.folder, title, "training", place.folder / SAMPLES, Sample, None)
        elif place.what != EVALUATION:  # its rows are those of the runs inside
            kind = kind_of(place.what)
            rows, drops = place.folder / kind.rows_file, place.folder / DROPPED
            yield Source(place.folder, title, f"{place.what} run", rows, kind.row, drops)
