"""What can be reported, by what a folder holds: for each kind, how it is known and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cai.errors import InputError, UsageError
from cai.folder.files import exists
from cai.folder.run import find_info
from cai.records import Values
from cai.report.labels import label_section
from cai.report.runs import generate_section, sample_section
from cai.report.samples import Strata
from cai.report.sections import Section

RUNS: dict[str, Callable[[Path, Values, Strata], Section]] = {
    "generate": generate_section,
    "sample": sample_section,
    "label": label_section,
    "test": label_section,
}
KNOWN = (
    "a run (run.json), a bench (folders of label runs), a training (training.json), or an evaluation (evaluation.json)"
)


def sections_of(source: str | Path, rows: int, seed: int) -> Iterator[Section]:
    """The sections of one source, its own first; rows: how many of a group may be shown."""
    folder = Path(source)
    if not exists(folder):
        raise UsageError(f"{source}: there is no such file or folder; name {KNOWN}")
    sections = list(_of_folder(folder, rows, seed))
    if not sections:
        raise InputError(f"holds nothing that can be reported; name {KNOWN}", source)
    yield from sections


def _of_folder(folder: Path, rows: int, seed: int) -> Iterator[Section]:
    info = find_info(folder)
    if info is not None:
        yield run_section(folder, info, rows, seed)
    for inside in sorted(folder.iterdir()):
        if inside.is_dir() and (info is None or inside.name in ("gold", "labels")):
            own = find_info(inside)
            if own is not None:
                yield run_section(inside, own, rows, seed)


def run_section(folder: Path, info: Values, rows: int, seed: int) -> Section:
    """The section of a run."""
    command = info["identity"]["command"]
    if command not in RUNS:
        raise InputError(f"is a run of cai {command}, which a report does not know", folder)
    return RUNS[command](folder, info, Strata(rows, seed, f"{folder.name}/{command}"))
