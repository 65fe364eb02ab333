"""What a job reads besides other jobs: the files and folders that its settings name, seen from the recipe's folder."""

from __future__ import annotations

import re
from pathlib import Path

from cai.errors import UsageError
from cai.recipes.jobs import JOB, Job
from cai.recipes.state import files_of, hash_of, hash_of_files
from cai.recipes.words import texts_in
from cai.sources.files import path_of

# What may stand before a path: the weight of a reward, and the kind of a model or `judge`.
KIND = re.compile(r"((?:[\d.e-]+:)?(?:(?:local|hf|recorded|reward|guard|vllm|sglang|judge):)?)(.*)", re.DOTALL)

HUB = "hf:"  # a folder of a model, or the name of a dataset of the hub, whatever else lies there under that name


def placed(text: str, base: Path) -> str:
    """A text with the place of the file or folder that it names; any other text as it is.

    base: the recipe's folder. Raises UsageError for one that is not there, but is where the command was typed.
    """
    before, path = _named(text, base)
    return text if path is None else f"{before}{path}"


def _named(text: str, base: Path) -> tuple[str, Path | None]:
    """The path that a text names, and what stands before it."""
    kind = KIND.fullmatch(text)
    assert kind is not None
    for before, name in (("", text), kind.groups()):
        is_meant = _is_model if before.endswith(HUB) else _is_there
        if name and is_meant(base / path_of(name)):
            return before, base / path_of(name)
        if name and base.absolute() != Path.cwd() and is_meant(path_of(name)):
            raise UsageError(
                f"{name} is where you typed this, and not in {base}: paths of a recipe are seen from its folder; "
                f"name {path_of(name).absolute()}, or move it there"
            )
    return "", None


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder; a text that can be no path names none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a name may be
        return False


def _is_model(path: Path) -> bool:
    """Whether a path is a folder that holds a model."""
    return any(_is_there(path / name) for name in ("config.json", "adapter_config.json"))


def inputs_of(job: Job, base: Path) -> dict[str, str]:
    """The hashes of the files and folders that the settings of a job name, by the texts that name them."""
    inputs = {}
    for text in texts_in([step.reads for step in job.steps]):
        if JOB.fullmatch(text):
            continue
        path = _named(text, base)[1]
        if path is not None:
            inputs[text] = hash_of_files(files_of(path)) if path.is_dir() else hash_of(path)
    return inputs
