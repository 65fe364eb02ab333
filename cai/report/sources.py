"""What can be reported, by what a folder holds: for each kind, how it is known and who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import InputError, UsageError
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.folder.files import exists
from cai.folder.run import find_info
from cai.records import KINDS
from cai.report.evaluations import evaluation_section
from cai.report.html.samples import Strata
from cai.report.html.sections import Section
from cai.report.labels import label_section
from cai.report.people import file_section, judges_section
from cai.report.runs import Tally, run_section
from cai.report.tallies import Others, Ratings, Replies, Revisions
from cai.report.trainings import training_section
from cai.training.setup.folder import RECORD as TRAINING

TALLIES: dict[str, type[Tally[Any]]] = {"generate": Revisions, "sample": Replies, "rate": Ratings}
LABELS = ("label", "test")  # commands whose rows are labels
KNOWN = (
    "a run (run.json), a training (training.json), an evaluation (evaluation.json), a bench (folders of label runs), "
    "or a file of rows with human labels"
)
DEPTH = 3  # of folders of runs inside a source: an evaluation has labels in its best-of in itself
FOLDERS = ("run.json", TRAINING, EVALUATION)  # what makes a folder one of ours
OWN_FILES = {*FOLDERS, *(kind.rows_file for kind in KINDS.values())}  # whoever names one means its folder
PREFIXES = ("hf:", "reward:")  # of models that are folders


def sections_of(source: str | Path, rows: int, seed: int) -> Iterator[Section]:
    """The sections of one source, its own first; rows: how many of a group may be shown."""
    path = _path_of(source)
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


def _path_of(source: str | Path) -> Path:
    """The folder or file that is meant."""
    text = str(source)
    for prefix in PREFIXES:
        if text.startswith(prefix) and not exists(Path(text)):
            text = text.removeprefix(prefix)
    path = Path(text)
    if not exists(path):
        raise UsageError(f"{source}: there is no such file or folder; name {KNOWN}")
    own = path.name in OWN_FILES and any(exists(path.with_name(each)) for each in FOLDERS)
    return path.parent if own else path


def _of_folder(folder: Path, rows: int, seed: int, depth: int = 0) -> Iterator[Section]:
    """What is in a folder, and in those inside it."""
    strata = Strata(rows, seed, f"{depth}/{folder.name}")
    if exists(folder / EVALUATION):
        yield evaluation_section(folder)
    if exists(folder / TRAINING):
        yield training_section(folder, strata)
        return  # what is inside are its checkpoints
    info = find_info(folder)
    if info is not None:
        command = info["identity"]["command"]
        if command in LABELS:
            yield label_section(folder, info, strata)
        else:
            tally = TALLIES[command]() if command in TALLIES else Others(command)
            yield run_section(folder, info, strata, tally)
    if depth < DEPTH:
        for inside in sorted(folder.iterdir()):
            if inside.is_dir() and not inside.name.startswith("."):
                yield from _of_folder(inside, rows, seed, depth + 1)
