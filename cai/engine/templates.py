"""Template sets: folders of Jinja files that word what the models are asked.

A set has `critique.jinja` and `revise.jinja`, or `judge.jinja` and `verdict.jinja`, or both. With `respond.jinja` it is
a completion set, which writes the whole text a base model goes on with, after the worked examples of its
`examples.yaml`. A template names its stop strings by `{% set stop = [...] %}`; judge.jinja names by `frame` what parts
its texts, and verdict.jinja by `prefix` how the judge's answer begins, so that the letter comes next. Rendering is
sandboxed and strict: an undefined variable is an error, and text from prompts and replies is data, never rendered
again. Knows nothing of models, nor of when a template is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Template

from cai.constitution.principles import Example
from cai.engine.template_checks import (
    JOBS,
    VARIABLES,
    _checked,
    _environment,
    _examples,
    _Fault,
    _files,
    _listed,
    _prefix,
    _rendered,
    _suggestion,
    _texts,
)
from cai.errors import TemplateError
from cai.sources.built_in import folder

DEFAULT = "chat"


@dataclass(frozen=True)
class Templates:
    """A loaded set; `hash` is over the bytes of its files but those of the judge, `judge_hash` over all but those of
    the revision: other words for the one job are no other run of the other."""

    source: str  # "built-in NAME", or the folder
    hash: str
    judge_hash: str
    by_name: dict[str, Template]
    stop: dict[str, tuple[str, ...]]
    frame: tuple[str, ...]  # what no text of a conversation or reply may hold when it is judged
    prefix: str  # how the judge's answer begins; "" where it begins with the letter
    examples: tuple[Example, ...]  # used where the constitution brings none

    @property
    def completes(self) -> bool:
        """Whether the set writes text for a base model to continue, rather than chat turns."""
        return "respond" in self.by_name

    def need(self, job: str) -> None:
        """Raises TemplateError where the set has no templates for a job, "revise" or "judge"."""
        lacking = [f"{name}.jinja" for name in JOBS[job] if name not in self.by_name]
        if lacking:
            raise TemplateError(f"the template set {self.source} has no {' and no '.join(lacking)}: it cannot {job}")

    def render(self, name: str, **variables: Any) -> str:
        """The text of one template; raises TemplateError, with file and line, where it cannot be rendered."""
        try:
            return _rendered(self.by_name[name], variables)
        except _Fault as fault:
            raise fault.problem.raised() from None


def load_templates(name_or_folder: str | Path | None = None) -> Templates:
    """The template set in a folder, or the built-in one of that name (`chat`, `fewshot`); None: the built-in `chat`.

    Raises TemplateError with file and line for all that can be known to be wrong before a model is asked.
    """
    path, source = find_templates(name_or_folder)
    files = _files(path)
    trees, problems = _checked(path, files)
    for problem in problems:
        if problem.error:
            raise problem.raised()
    environment = _environment(path, files)
    by_name = {name: environment.get_template(f"{name}.jinja") for name in VARIABLES if f"{name}.jinja" in files}
    stop = {name: _texts(trees[f"{name}.jinja"], "stop") for name in by_name}
    frame = _texts(trees["judge.jinja"], "frame") if "judge" in by_name else ()
    prefix = _prefix(trees["verdict.jinja"]) if "verdict" in by_name else ""
    hashes = _hash(files, JOBS["judge"]), _hash(files, JOBS["revise"])
    return Templates(source, *hashes, by_name, stop, frame, prefix, _examples(path, files))


def _hash(files: Mapping[str, bytes], without: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        if name.removesuffix(".jinja") not in without:
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def find_templates(name_or_folder: str | Path | None = None) -> tuple[Path, str]:
    """The folder of a template set, and what to call it; an existing folder first, then a built-in name."""
    built_in = {item.name: item for item in sorted(folder("prompts").iterdir()) if item.is_dir()}
    if name_or_folder is None:  # not asked for by name: a folder that happens to be here must not take its place
        return built_in[DEFAULT], f"built-in {DEFAULT}"
    path = Path(name_or_folder)
    if path.is_dir():
        return path, str(path)
    if str(name_or_folder) in built_in:
        return built_in[str(name_or_folder)], f"built-in {name_or_folder}"
    hint = _suggestion(str(name_or_folder), built_in) or f"; built in: {_listed(built_in)}"
    raise TemplateError(f"no template set {str(name_or_folder)!r}: neither a folder nor a built-in name{hint}")


# Checks before the first call


# Rendering
