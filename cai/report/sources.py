"""What can be reported, by what a folder holds: for each kind, how it is known and who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import InputError
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.recipes.state import FILE as RECIPE
from cai.report.evaluations import evaluation_section
from cai.report.html.samples import Strata
from cai.report.html.sections import Section
from cai.report.labels import label_section
from cai.report.people import file_section, judges_section
from cai.report.places import KNOWN, path_of, places_in
from cai.report.recipes import recipe_section
from cai.report.runs import Tally, run_section
from cai.report.tallies import Others, Ratings, Replies, Revisions
from cai.report.trainings import training_section
from cai.training.setup.folder import RECORD as TRAINING

TALLIES: dict[str, type[Tally[Any]]] = {"generate": Revisions, "sample": Replies, "rate": Ratings}
LABELS = ("label", "test")  # commands whose rows are labels


def sections_of(source: str | Path, rows: int, seed: int) -> Iterator[Section]:
    """The sections of one source, its own first; rows: how many of a group may be shown."""
    path = path_of(source)
    if path.is_dir():
        sections = list(_of_folder(path, rows, seed))
        judges = [section for section in sections if section.metrics is not None]
        if len(judges) > 1:
            sections.insert(0, judges_section(path, judges))
    else:
        sections = [file_section(path)]
    if not sections:
        raise InputError(f"holds nothing that can be reported; name {KNOWN}", source)
    yield from sections


def _of_folder(folder: Path, rows: int, seed: int) -> Iterator[Section]:
    """What is in a folder, and in those inside it."""
    for place in places_in(folder):
        strata = Strata(rows, seed, f"{place.depth}/{place.folder.name}")
        if place.what == RECIPE:
            yield recipe_section(place.folder)
        elif place.what == EVALUATION:
            yield evaluation_section(place.folder)
        elif place.what == TRAINING:
            yield training_section(place.folder, strata)
        elif place.what in LABELS:
            yield label_section(place.folder, place.info, strata)
        else:
            tally = TALLIES[place.what]() if place.what in TALLIES else Others(place.what)
            yield run_section(place.folder, place.info, strata, tally)
