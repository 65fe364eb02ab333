"""Everything wrong with a set, found before the first call: in its files, between them, and by rendering each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2.exceptions import TemplateSyntaxError

from cai.constitution.levels import LEVELS
from cai.constitution.principles import WORDINGS, Finding, Principle
from cai.engine.templates.bounds import Bounded
from cai.engine.templates.checks import (
    VARIABLES,
    WHOLE,
    error_in,
    find_problems,
    is_whole,
    missing_files,
    mixed_chain,
    variables_of,
    warning_in,
)
from cai.engine.templates.files import environment_of, examples_of, prefix_of, read_files, setting_of, text_of
from cai.engine.templates.rendering import render
from cai.errors import TemplateError
from cai.records import Values


def check_templates(path: Path) -> list[Finding]:
    """Everything wrong with a set: missing files, syntax, variables it is not given or ignores, a failing trial."""
    files = read_files(path)
    return findings_of(path, files, environment_of(path, files))


def findings_of(path: Path, files: Mapping[str, bytes], environment: Bounded) -> list[Finding]:
    names = [name for name in files if name.endswith(".jinja")]
    missing = missing_files(names)
    if missing is not None:
        return [error_in(path, None, missing)]
    findings = [finding for name in names for finding in _findings_in(path / name, files, environment)]
    if any(finding.level == "error" for finding in findings):
        return findings
    trees = {name: environment.parse(text_of(files, name)) for name in VARIABLES if f"{name}.jinja" in files}
    mixed = mixed_chain([name for name, tree in trees.items() if setting_of(tree, "frame")], names)
    if mixed is not None:
        return [*findings, error_in(path, None, mixed)]
    # Each template once, for a principle that lacks no wording, and with nothing that it is not given.
    words: Values = dict.fromkeys(WORDINGS, "Trial.")
    values: Values = dict.fromkeys(("reply", "critique", "first", "second", "criterion"), "Trial.")
    values |= {
        "levels": ("Trial.",) * LEVELS,
        "prompt": [{"role": "user", "content": "Trial."}],
        "gate": False,
        "question": None,
        "reason": False,
        "against": True,
    }
    try:
        principle = Principle(id="trial", **words)
        values |= {"principle": principle, "principles": (principle,), "examples": examples_of(path, files)}
        for name, tree in trees.items():
            variables = values.keys() & variables_of(name, is_whole(name, tree, names))
            render(environment.get_template(f"{name}.jinja"), {key: values[key] for key in variables})
    except TemplateError as error:
        findings.append(error_in(Path(str(error.path)), error.line, error.message))
    return findings


def _findings_in(path: Path, files: Mapping[str, bytes], environment: Bounded) -> list[Finding]:
    try:
        tree = environment.parse(files[path.name].decode("utf-8-sig"))
        findings = [*find_problems(path, tree, files)]
        if not setting_of(tree, "stop") and path.name == "respond.jinja":
            message = "sets no stop strings: a base model continues with the next turns, too"
            findings.append(warning_in(path, message))
        if path.stem in WHOLE and not setting_of(tree, "frame"):
            message = "sets no frame: a reply can imitate the end of itself, and what comes after it"
            findings.append(warning_in(path, message))
        prefix_of(path.stem, tree)
    except TemplateSyntaxError as error:
        return [error_in(path, error.lineno, error.message or "bad syntax")]
    except UnicodeDecodeError:
        return [error_in(path, 1, "is not UTF-8 text")]
    return findings
