"""A template set: found by its name or folder, checked, loaded, and hashed for each job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.meta import find_referenced_templates, find_undeclared_variables

from cai.constitution.examples import Example
from cai.engine.templates.bounds import Bounded
from cai.engine.templates.checks import JOBS, VARIABLES
from cai.engine.templates.files import environment_of, examples_of, hash_of, prefix_of, read_files, setting_of, text_of
from cai.engine.templates.findings import findings_of
from cai.engine.templates.rendering import render
from cai.errors import TemplateError
from cai.sources.files import folder
from cai.texts.wording import nearest

DEFAULT = "chat"
# Without the gate the built-in chat set asks what it asked in version 0.1.0, and its runs keep that hash.
SAME_WORDS = {"e25f27e4d79ecee7": "d22def16ac4bf49c"}


@dataclass(frozen=True)
class Templates:
    """A loaded set.

    `hash` is over the bytes of its files except those of the judge, the scale, the screen and the teacher, and
    `ungated_hash` over those without the gate; `judge_hash`, `scale_hash`, `screen_hash` and `teach_hash` are over the
    files of each with those that it shares: rewording one job does not change a run of another.
    """

    source: str  # "built-in NAME", or the folder
    hash: str
    ungated_hash: str
    judge_hash: str
    scale_hash: str
    screen_hash: str
    teach_hash: str
    by_name: dict[str, Template]
    stop: dict[str, tuple[str, ...]]  # by template
    frame: dict[str, tuple[str, ...]]  # what no text of a conversation or reply may hold when it is shown in one
    prefix: dict[str, str]  # how an answer begins; "" if it begins with the letter or word
    examples: tuple[Example, ...]  # used if the constitution has none

    @property
    def completes(self) -> bool:
        """Whether the set writes text for a base model to continue, rather than chat turns."""
        return "respond" in self.by_name

    def need(self, job: str) -> None:
        """Raise TemplateError if the set has no templates for a job: "revise", "judge", "rate", "screen",
        "teach" or "gate"."""
        lacking = [f"{name}.jinja" for name in JOBS.get(job, (job,)) if name not in self.by_name]
        if lacking:
            problem = f"the template set {self.source} has no {' and no '.join(lacking)}: it cannot {job}"
            raise TemplateError(f"{problem}; name another set with --templates")

    def takes(self, name: str, variable: str) -> bool:
        """Whether a template looks at something that it is given, itself or by a file that it includes."""
        environment = self.by_name[name].environment
        assert environment.loader is not None
        files = [f"{name}.jinja"]
        for file in files:
            source, _, _ = environment.loader.get_source(environment, file)
            parsed = environment.parse(source)
            if variable in find_undeclared_variables(parsed):
                return True
            referenced = [*find_referenced_templates(parsed)]
            if None in referenced:  # a name that is computed: any file may be meant
                return True
            files += [each for each in dict.fromkeys(referenced) if each and each not in files]
        return False

    def render(self, name: str, **variables: Any) -> str:
        """The text of one template; raises TemplateError, with file and line, if it cannot be rendered."""
        return render(self.by_name[name], variables)


def load_templates(name_or_folder: str | Path | None = None) -> Templates:
    """The template set in a folder, or the built-in one of that name (`chat`, `fewshot`, `quoted`); None: `chat`.

    Raises TemplateError with file and line for everything that can be known to be wrong before a model is asked.
    """
    path, source = find_templates(name_or_folder)
    if path.parent == folder("prompts"):  # our own sets are checked by tests, and stay as they are
        return _built_in(path, source)
    files = read_files(path)
    environment = environment_of(path, files)
    for finding in findings_of(path, files, environment):
        if finding.level == "error":
            raise TemplateError(finding.message, finding.file, finding.line)
    return _loaded(path, source, files, environment)


@cache
def _built_in(path: Path, source: str) -> Templates:
    files = read_files(path)
    return _loaded(path, source, files, environment_of(path, files))


def _loaded(path: Path, source: str, files: Mapping[str, bytes], environment: Bounded) -> Templates:
    jobs = {**JOBS, "revise": (*JOBS["revise"], "gate")}
    others = {job: [name for each in jobs if each != job for name in jobs[each]] for job in jobs}
    ungated = hash_of(files, (*others["revise"], "gate"))
    trees = {name: environment.parse(text_of(files, name)) for name in VARIABLES}
    return Templates(
        source=source,
        hash=hash_of(files, others["revise"]),
        ungated_hash=SAME_WORDS.get(ungated, ungated),
        judge_hash=hash_of(files, others["judge"]),
        scale_hash=hash_of(files, others["rate"]),
        screen_hash=hash_of(files, others["screen"]),
        teach_hash=hash_of(files, others["teach"]),
        by_name={name: environment.get_template(f"{name}.jinja") for name in VARIABLES if f"{name}.jinja" in files},
        stop={name: setting_of(tree, "stop") or () for name, tree in trees.items()},
        frame={name: setting_of(tree, "frame") or () for name, tree in trees.items()},
        prefix={name: prefix_of(name, tree) for name, tree in trees.items()},
        examples=examples_of(path, files),
    )


def find_templates(name_or_folder: str | Path | None = None) -> tuple[Path, str]:
    """The folder of a template set, and what to call it; an existing folder first, then a built-in name."""
    built_in = {item.name: item for item in sorted(folder("prompts").iterdir()) if item.is_dir()}
    if name_or_folder is None:  # a folder that happens to have the default's name must not take its place
        return built_in[DEFAULT], f"built-in {DEFAULT}"
    path = Path(name_or_folder)
    if path.is_dir():
        return path, str(path)
    if str(name_or_folder) in built_in:
        return built_in[str(name_or_folder)], f"built-in {name_or_folder}"
    hint = nearest(name_or_folder, built_in)
    raise TemplateError(f"no template set {str(name_or_folder)!r}: neither a folder nor a built-in name; {hint}")
