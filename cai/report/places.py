"""Where there is something to look at: runs, trainings and evaluations in a folder and in those inside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cai.disk.reading import exists
from cai.errors import RunError, UsageError
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.folder.info import find_info
from cai.folder.shards.join import join
from cai.folder.shards.layout import SHARDS, shards_in
from cai.recipes.state import FILE as RECIPE
from cai.records import KINDS, Values
from cai.training.setup.folder import RECORD as TRAINING

KNOWN = (
    "a run (run.json), a training (training.json), an evaluation (evaluation.json), a recipe (recipe.json), a bench "
    "(folders of label runs), or a file of rows with human labels"
)
DEPTH = 3  # of folders of runs inside a source: an evaluation has labels in its best-of in itself
FOLDERS = ("run.json", TRAINING, EVALUATION, RECIPE)  # what makes a folder one of ours
OWN_FILES = {*FOLDERS, *(kind.rows_file for kind in KINDS.values())}  # whoever names one means its folder
PREFIXES = ("hf:", "reward:")  # of models that are folders


class Place(NamedTuple):
    """A folder of ours. what: the command of a run, or the name of the file that describes the folder."""

    folder: Path
    what: str
    depth: int  # below the folder that was named
    info: Values  # of a run: its run.json


def path_of(source: str | Path) -> Path:
    """The folder or file that is meant; the shards of a run are joined in its folder."""
    text = str(source)
    for prefix in PREFIXES:
        if text.startswith(prefix) and not exists(Path(text)):
            text = text.removeprefix(prefix)
    path = Path(text)
    if not exists(path):
        raise UsageError(f"{source}: there is no such file or folder; name {KNOWN}")
    own = path.name in OWN_FILES and any(exists(path.with_name(each)) for each in FOLDERS)
    folder = path.parent if own else path
    join(folder)
    return folder


def places_in(folder: Path, depth: int = 0) -> Iterator[Place]:
    """What a folder is, and those inside it."""
    if exists(folder / RECIPE):
        yield Place(folder, RECIPE, depth, {})
    if exists(folder / EVALUATION):
        yield Place(folder, EVALUATION, depth, {})
    if exists(folder / TRAINING):
        yield Place(folder, TRAINING, depth, {})
        return  # what is inside are its checkpoints
    info = find_info(folder)
    if info is not None:
        yield Place(folder, info["identity"]["command"], depth, info)
    if depth < DEPTH:
        for inside in _folders_in(folder):
            yield from places_in(inside, depth + 1)


def _folders_in(folder: Path) -> list[Path]:
    """The folders in one, without hidden ones and shards, which are joined; RunError if it cannot be looked into."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror or error}; name the folders inside it") from None
    hidden = (SHARDS,) if shards_in(folder) else ()
    return [path for path in inside if path.is_dir() and not path.name.startswith(".") and path.name not in hidden]
