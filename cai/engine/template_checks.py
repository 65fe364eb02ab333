"""Checks a template set before it is used: files, variables, and a trial with texts that stand in."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from jinja2 import FunctionLoader, StrictUndefined, Template, nodes
from jinja2.exceptions import TemplateSyntaxError, UndefinedError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from cai.constitution.principles import Example, Principle
from cai.errors import TemplateError

# What each template is given. `gate`: ask for a verdict line. `prompt`: messages, `examples`: constitution.Example.
VARIABLES: dict[str, frozenset[str]] = {
    "respond": frozenset({"prompt", "examples"}),
    "critique": frozenset({"prompt", "reply", "principle", "gate", "examples"}),
    "revise": frozenset({"prompt", "reply", "critique", "principle", "examples"}),
    # `first`, `second`: the replies as they are shown; `reason`: ask for reasons and not yet for the letter.
    "judge": frozenset({"prompt", "first", "second", "principle", "reason", "examples"}),
    "verdict": frozenset(),
}
JOBS: dict[str, tuple[str, str]] = {"revise": ("critique", "revise"), "judge": ("judge", "verdict")}
IN_TURNS = frozenset({"prompt", "reply", "critique"})  # a chat model sees these as turns of their own
NEEDED = {
    "critique": {"principle"},
    "revise": {"principle"},
    "judge": {"prompt", "first", "second", "principle"},
}  # without them a template asks nothing of the kind
PRINCIPLE_FIELDS = frozenset(Principle.model_fields)


@dataclass(frozen=True, slots=True)
class TemplateProblem:
    """Something in a template that is wrong, or looks it; `line` is 1-based, None where it concerns the whole set."""

    path: str
    line: int | None
    message: str
    error: bool  # False: a warning

    def raised(self) -> TemplateError:
        """The error that stops whoever wants to use the set."""
        return TemplateError(self.message, self.path, self.line)


class _Fault(Exception):
    """A template or a file of a set that cannot be used."""

    def __init__(self, path: str | Path | None, line: int | None, message: str) -> None:
        self.problem = TemplateProblem(str(path), line, message, error=True)


def check_templates(path: Path) -> list[TemplateProblem]:
    """Everything wrong with a set: missing files, syntax, variables it is not given or ignores, a failing trial."""
    return _checked(path, _files(path))[1]


def _files(path: Path) -> dict[str, bytes]:
    """The files of a set, each read once: what is hashed is what is rendered, whatever happens to the folder."""
    try:
        return {file.name: file.read_bytes() for file in [*sorted(path.glob("*.jinja")), *path.glob("examples.yaml")]}
    except OSError as error:
        raise TemplateError(f"cannot be read: {error.strerror}", error.filename or path) from None


def _environment(path: Path, files: Mapping[str, bytes]) -> ImmutableSandboxedEnvironment:
    def source(name: str) -> tuple[str, str, None] | None:
        # utf-8-sig: the mark that some editors put before a text is no part of the words.
        return (files[name].decode("utf-8-sig"), str(path / name), None) if name in files else None

    return ImmutableSandboxedEnvironment(
        loader=FunctionLoader(source), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def _checked(path: Path, files: Mapping[str, bytes]) -> tuple[dict[str, nodes.Template], list[TemplateProblem]]:
    """The parsed templates by file name, and all that is wrong with them."""
    names = [name for name in files if name.endswith(".jinja")]
    environment = _environment(path, files)
    trees: dict[str, nodes.Template] = {}
    problems: list[TemplateProblem] = []
    jobs = [{f"{part}.jinja" for part in parts} for parts in JOBS.values()]
    halves = [job - set(names) for job in jobs if job & set(names) and job - set(names)]
    if halves or not any(job <= set(names) for job in jobs):
        has = _listed(names) if names else "no .jinja file"
        need = (
            "critique.jinja and revise.jinja"
            if not (halves and halves[0] < jobs[1])
            else "judge.jinja and verdict.jinja"
        )
        message = f"a template set needs {need}; this folder has {has}"
        return {}, [TemplateProblem(str(path), None, message, error=True)]
    for name in names:
        try:
            trees[name] = environment.parse(files[name].decode("utf-8-sig"))
            found = [*_missing_files(trees[name], names), *_variable_problems(name, trees[name], names)]
            found += _set_problems(name, trees[name])
            problems += [TemplateProblem(str(path / name), line, text, error) for line, text, error in found]
        except TemplateSyntaxError as error:
            problems.append(TemplateProblem(str(path / name), error.lineno, error.message or "bad syntax", error=True))
        except UnicodeDecodeError:
            problems.append(TemplateProblem(str(path / name), 1, "is not UTF-8 text", error=True))
    if not any(problem.error for problem in problems):
        problems += [fault.problem for fault in _trial(path, files, environment)]
    return trees, problems


Found = Iterator[tuple[int, str, bool]]  # line, message, whether it is an error


def _missing_files(tree: nodes.Template, files: list[str]) -> Found:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        name = getattr(node, "template", None)
        wanted = name.value if isinstance(name, nodes.Const) else None
        if isinstance(wanted, str) and wanted not in files and not getattr(node, "ignore_missing", False):
            yield node.lineno, f"no {wanted!r} in this folder{_suggestion(wanted, files)}", True


def _variable_problems(file: str, tree: nodes.Template, files: list[str]) -> Found:
    given = _given(file.removesuffix(".jinja"), files)
    if given is None:  # a partial: its variables are those of the template that uses it, as the trial finds out
        return
    used = find_undeclared_variables(tree)
    for name in sorted(used - given):
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == name), 1)
        if name in IN_TURNS & VARIABLES[file.removesuffix(".jinja")]:
            yield line, f"{name!r} is not given to chat templates: the model sees it as a turn; {_COMPLETION}", True
        else:
            message = f"unknown variable {name!r}{_suggestion(name, given)}; {file} is given {_listed(given)}"
            yield line, message, True
    for getter in tree.find_all(nodes.Getattr):
        owner = getter.node.name if isinstance(getter.node, nodes.Name) else None
        if owner == "principle" and getter.attr not in PRINCIPLE_FIELDS:
            hint = _suggestion(getter.attr, PRINCIPLE_FIELDS) or f"; it has {_listed(PRINCIPLE_FIELDS)}"
            yield getter.lineno, f"a principle has no {getter.attr!r}{hint}", True
    for name in sorted(NEEDED.get(file.removesuffix(".jinja"), set()) - used):
        yield 1, f"never uses {name!r}: every row is asked the same", False


_COMPLETION = "a set for base models, which writes the whole text, has a respond.jinja, too"


def _given(name: str, files: Iterable[str]) -> frozenset[str] | None:
    """The variables of a template; None for a partial."""
    given = VARIABLES.get(name)
    in_turns = frozenset() if "respond.jinja" in files or name == "judge" else IN_TURNS
    return given if given is None else given - in_turns


def _set_problems(file: str, tree: nodes.Template) -> Found:
    stop = _texts(tree, "stop")
    if file == "respond.jinja" and not stop:
        yield 1, "sets no stop strings: a base model goes on to write the next turns, too", False
    if file == "judge.jinja" and not _texts(tree, "frame"):
        yield 1, "sets no frame: a reply can pass for the end of itself, and for the other one", False
    if file == "verdict.jinja":
        _prefix(tree)


EXAMPLES = {"stop": '["\\n\\nHuman:"]', "frame": '["<reply_a>", "</reply_a>"]', "prefix": '"The better reply is Reply"'}


def _texts(tree: nodes.Template, name: str) -> tuple[str, ...]:
    """The list of texts a template sets, found without rendering it; raises TemplateSyntaxError for an odd one."""
    found: tuple[str, ...] = ()
    for value, line in _assigned(tree, name):
        if not (isinstance(value, list | tuple) and value and all(isinstance(item, str) and item for item in value)):
            need = f"{name} must be a plain list of texts, outside of any block: {{% set {name} = {EXAMPLES[name]} %}}"
            raise TemplateSyntaxError(need, line)
        found = tuple(value)
    return found


def _prefix(tree: nodes.Template) -> str:
    """How the judge's answer begins, by `prefix`; the letter follows."""
    prefix = ""
    for value, line in _assigned(tree, "prefix"):
        if not (isinstance(value, str) and value and value == value.rstrip()):
            need = "prefix must be a plain text that does not end in space, outside of any block"
            raise TemplateSyntaxError(f"{need}: {{% set prefix = {EXAMPLES['prefix']} %}}", line)
        prefix = value
    return prefix


def _assigned(tree: nodes.Template, name: str) -> Iterator[tuple[Any, int]]:
    """The constants that a template sets under a name, with their lines; None for what is no constant."""
    for node in tree.find_all((nodes.Assign, nodes.AssignBlock)):
        if getattr(getattr(node, "target", None), "name", None) == name:
            value: Any = None
            if isinstance(node, nodes.Assign) and node in tree.body:
                with suppress(nodes.Impossible):
                    value = cast(nodes.Expr, node.node).as_const()
            yield value, node.lineno


def _trial(path: Path, files: Mapping[str, bytes], environment: ImmutableSandboxedEnvironment) -> Iterator[_Fault]:
    """Renders each template once, for a principle that lacks no wording, so that the first row finds little new."""
    words = dict.fromkeys(("text", "critique", "revise", "choose"), "Trial.")
    principle = Principle(id="trial", weight=1.0, tests=(), **words)
    values: dict[str, Any] = {"prompt": [{"role": "user", "content": "Trial."}], "reply": "Trial.", "gate": True}
    values |= {"first": "Trial.", "second": "Trial.", "reason": False}
    try:
        values |= {"critique": "Trial.", "principle": principle, "examples": _examples(path, files)}
        for name in (name for name in VARIABLES if f"{name}.jinja" in files):
            given = _given(name, files) or frozenset()
            _rendered(environment.get_template(f"{name}.jinja"), {key: values[key] for key in values if key in given})
    except _Fault as fault:
        yield fault


def _rendered(template: Template, variables: Mapping[str, Any]) -> str:
    try:
        return template.render({name: _plain(value) for name, value in variables.items()})
    except Exception as error:  # whatever a template does wrong: divide by zero, recurse without end
        file, line = template.filename, None
        for frame in traceback.extract_tb(error.__traceback__):  # Jinja puts the template's own lines into it
            if frame.filename.endswith(".jinja"):
                file, line = frame.filename, frame.lineno
        raise _Fault(file, line, str(error) or type(error).__name__) from None


class _Lacking(StrictUndefined):
    """A wording that a principle does not have: false, and an error where it is written."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


def _plain(value: Any) -> Any:
    """Dictionaries for our records: a template must not reach a record's methods, some of which load pickles."""
    if isinstance(value, Principle):
        return _plain_principle(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Example):
        return [example.model_dump() for example in value]
    return value


@lru_cache(maxsize=4096)
def _plain_principle(principle: Principle) -> dict[str, Any]:
    message = "principle {!r} has no {!r}: say what stands in for it, such as {{{{ principle.{} or principle.{} }}}}"
    plain = principle.model_dump()
    for name in [name for name, value in plain.items() if value is None]:
        instead = "critique" if name == "text" else "text"
        plain[name] = _Lacking(message.format(principle.id, name, name, instead), exc=UndefinedError)
    return plain


def _examples(path: Path, files: Mapping[str, bytes]) -> tuple[Example, ...]:
    if "examples.yaml" not in files:
        return ()
    try:
        return tuple(map(Example.model_validate, yaml.safe_load(files["examples.yaml"].decode()) or ()))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError, TypeError) as error:
        text = " ".join(str(error).split())[:300]
        raise _Fault(path / "examples.yaml", None, f"not a list of worked examples: {text}") from None


def _suggestion(word: str, known: Any) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
