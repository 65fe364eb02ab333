"""Template sets: folders of Jinja files that word what the models are asked.

A set has `critique.jinja` and `revise.jinja`; with `respond.jinja` too it is a completion set, which writes the whole
text a base model goes on with, after the worked examples of its `examples.yaml`. A template names its stop strings by
`{% set stop = [...] %}`. Rendering is sandboxed and strict: an undefined variable is an error, and text from prompts
and replies is data, never rendered again. Knows nothing of models, nor of when a template is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from jinja2 import FileSystemLoader, StrictUndefined, Template, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from cai.constitution import Example, Principle
from cai.errors import TemplateError
from cai.resources import folder

# What each template is given. `gate`: ask for a verdict line. `prompt`: messages, `examples`: constitution.Example.
VARIABLES: dict[str, frozenset[str]] = {
    "respond": frozenset({"prompt", "examples"}),
    "critique": frozenset({"prompt", "reply", "principle", "gate", "examples"}),
    "revise": frozenset({"prompt", "reply", "critique", "principle", "examples"}),
}
NEEDED = {"critique": {"principle"}, "revise": {"principle"}}  # without them a template asks nothing of the kind
PRINCIPLE_FIELDS = frozenset(Principle.model_fields)


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """Something in a template that is wrong, or looks it; `line` is 1-based."""

    path: str
    line: int
    message: str
    error: bool  # False: a warning


@dataclass(frozen=True)
class Templates:
    """A loaded set; `hash` is over the bytes of all its files."""

    source: str  # "built-in NAME", or the folder
    hash: str
    by_name: dict[str, Template]
    stop: dict[str, tuple[str, ...]]
    examples: tuple[Example, ...]  # used where the constitution brings none

    @property
    def completes(self) -> bool:
        """Whether the set writes text for a base model to continue, rather than chat turns."""
        return "respond" in self.by_name

    def render(self, name: str, **variables: Any) -> str:
        """The text of one template; raises TemplateError where it uses what it is not given."""
        try:
            return self.by_name[name].render(variables)
        except JinjaError as error:
            raise TemplateError(
                f"{error}; it is given {_listed(VARIABLES[name])}", f"{self.source}/{name}.jinja"
            ) from None


def load_templates(name_or_folder: str | Path = "chat") -> Templates:
    """The template set in a folder, or the built-in one of that name (`chat`, `fewshot`).

    Raises TemplateError with file and line for a syntax error, an unknown variable, or a missing file.
    """
    path, source = find_templates(name_or_folder)
    files = sorted(path.glob("*.jinja"))
    names = {file.stem for file in files}
    for needed in ("critique", "revise"):
        if needed not in names:
            has = _listed(names) if names else "no .jinja file"
            raise TemplateError(f"a template set needs critique.jinja and revise.jinja; this folder has {has}", path)
    problems = [problem for problem in check_templates(path) if problem.error]
    if problems:
        raise TemplateError(problems[0].message, problems[0].path, problems[0].line)
    environment = _environment(path)
    by_name = {name: environment.get_template(f"{name}.jinja") for name in VARIABLES if name in names}
    digest = hashlib.sha256()
    for file in [*files, *path.glob("examples.yaml")]:
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    stop = {name: _stop(template, path) for name, template in by_name.items()}
    return Templates(source, digest.hexdigest()[:16], by_name, stop, _examples(path / "examples.yaml"))


def check_templates(path: Path) -> list[TemplateProblem]:
    """Everything wrong with the templates of a folder: syntax, variables they are not given, variables they ignore."""
    problems: list[TemplateProblem] = []
    environment = _environment(path)
    for file in sorted(path.glob("*.jinja")):
        try:
            tree = environment.parse(file.read_text(encoding="utf-8"))
        except TemplateSyntaxError as error:
            problems.append(TemplateProblem(str(file), error.lineno, f"{error.message}", error=True))
            continue
        except UnicodeDecodeError:
            problems.append(TemplateProblem(str(file), 1, "is not UTF-8 text", error=True))
            continue
        problems += _variable_problems(file, tree)
    return problems


def _variable_problems(file: Path, tree: nodes.Template) -> list[TemplateProblem]:
    given = VARIABLES.get(file.stem)
    if given is None:  # a partial: checked where it is used, when rendered
        return []
    problems = []
    used = find_undeclared_variables(tree)
    for name in sorted(used - given):
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)
        message = f"unknown variable {name!r}{_suggestion(name, given)}; {file.name} is given {_listed(given)}"
        problems.append(TemplateProblem(str(file), line, message, error=True))
    for node in tree.find_all(nodes.Getattr):
        if isinstance(node.node, nodes.Name) and node.node.name == "principle" and node.attr not in PRINCIPLE_FIELDS:
            message = f"a principle has no {node.attr!r}{_suggestion(node.attr, PRINCIPLE_FIELDS)}"
            problems.append(TemplateProblem(str(file), node.lineno, message, error=True))
    for name in sorted(NEEDED.get(file.stem, set()) - used):
        problems.append(TemplateProblem(str(file), 1, f"never uses {name!r}: every row is asked the same", error=False))
    return problems


def find_templates(name_or_folder: str | Path) -> tuple[Path, str]:
    """The folder of a template set, and what to call it; an existing folder first, then a built-in name."""
    path = Path(name_or_folder)
    if path.is_dir():
        return path, str(path)
    built_in = {item.name: item for item in sorted(folder("prompts").iterdir()) if item.is_dir()}
    if str(name_or_folder) in built_in:
        return built_in[str(name_or_folder)], f"built-in {name_or_folder}"
    hint = _suggestion(str(name_or_folder), built_in) or f"; built in: {_listed(built_in)}"
    raise TemplateError(f"no template set {str(name_or_folder)!r}: neither a folder nor a built-in name{hint}")


def _environment(path: Path) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(path), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def _stop(template: Template, path: Path) -> tuple[str, ...]:
    """The stop strings a template sets at its top level; found without rendering it."""
    tree = _environment(path).parse((path / f"{template.name}").read_text(encoding="utf-8"))
    for node in tree.find_all(nodes.Assign):
        if isinstance(node.target, nodes.Name) and node.target.name == "stop":
            value = cast(nodes.Expr, node.node).as_const()
            if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
                return tuple(value)
            raise TemplateError(f"stop must be a list of texts, not {value!r}", path / f"{template.name}", node.lineno)
    return ()


def _examples(path: Path) -> tuple[Example, ...]:
    if not path.exists():
        return ()
    try:
        return tuple(map(Example.model_validate, yaml.safe_load(path.read_text(encoding="utf-8")) or ()))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError, TypeError) as error:
        raise TemplateError(f"not a list of worked examples: {' '.join(str(error).split())[:300]}", path) from error


def _suggestion(word: str, known: Any) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
