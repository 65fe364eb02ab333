"""Checks what the templates of a set use against what they are given, before any is rendered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from cai.constitution.principles import Finding, Principle
from cai.texts.wording import nearest

# What each template is given. `prompt`: messages, `examples`: constitution.Example. `gate`: false; critiques that asked
# for a verdict line looked at it in version 0.1.0. `question`: that of the constitution's gate, or none.
VARIABLES: dict[str, frozenset[str]] = {
    name: frozenset(variables.split())
    for name, variables in {
        "respond": "prompt examples",
        "critique": "prompt reply principle gate examples",
        "gate": "prompt reply critique principle examples question",
        "revise": "prompt reply critique principle examples",
        # `first`, `second`: the replies as they are shown; `reason`: ask for reasons and not yet for the letter.
        "judge": "prompt first second principle reason examples",
        "verdict": "",
        # `levels`: texts, from 1; `criterion`: a principle in a sentence, or none.
        "scale": "prompt reply levels criterion examples",
        # `against`: whether the question is if the reply goes against the principle, or if it keeps to it.
        "screen": "prompt reply principle against examples",
        "teach": "principles",
    }.items()
}
JOBS: dict[str, tuple[str, ...]] = {
    "revise": ("critique", "revise"),
    "judge": ("judge", "verdict"),
    "rate": ("scale",),
    "screen": ("screen",),
    "teach": ("teach",),
}
WHOLE = ("judge", "scale", "screen")  # whose questions hold all that they are about, in chat sets, too
CHAIN = ("critique", "gate", "revise")  # of which a chat model sees conversation and reply as turns, or one frames them
IN_TURNS = frozenset({"prompt", "reply", "critique"})  # a chat model sees these as turns of their own
NEEDED = {
    "critique": {"principle"},
    "revise": {"principle"},
    "judge": {"prompt", "first", "second", "principle"},
    "scale": {"prompt", "reply", "levels"},
    "screen": {"prompt", "reply", "principle", "against"},
    "teach": {"principles"},
}  # without them a template asks nothing of the kind
PRINCIPLE_FIELDS = frozenset(Principle.model_fields)
OTHERS = "a set for base models, which writes the whole text, has a respond.jinja, too; one that quotes, a frame"


def missing_files(names: Iterable[str]) -> str | None:
    """What a set lacks for the jobs it begins; None if it has all files of at least one job and no half of another."""
    jobs = {job: {f"{part}.jinja" for part in parts} for job, parts in JOBS.items()}
    here = set(names)
    halves = [job for job, files in jobs.items() if files & here and files - here]
    if not halves and any(files <= here for files in jobs.values()):
        return None
    [job, *_] = [*halves, "revise"]
    need = " and ".join(f"{part}.jinja" for part in JOBS[job])
    return f"a template set needs {need}; this folder has {', '.join(sorted(here)) or 'no .jinja file'}"


def find_problems(path: Path, tree: nodes.Template, names: Collection[str]) -> Iterator[Finding]:
    """What is wrong with one parsed template; names: the templates of its set."""
    yield from _of_parts(path, tree, names)
    if path.stem in VARIABLES:  # what a partial sees depends on the template that uses it, as the trial finds out
        yield from _of_variables(path, tree, names)


def _of_parts(path: Path, tree: nodes.Template, names: Collection[str]) -> Iterator[Finding]:
    """Partials that are not there, and loops whose steps cannot be counted."""
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        partial = getattr(getattr(node, "template", None), "value", None)  # None if its name is computed
        may_lack = getattr(node, "ignore_missing", False)
        if isinstance(partial, str) and partial not in names and not may_lack:
            yield error_in(path, node.lineno, f"no {partial!r} in this folder; {nearest(partial, sorted(names))}")
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            yield error_in(path, loop.lineno, "a loop may not be recursive: its steps could not be counted")


def _of_variables(path: Path, tree: nodes.Template, names: Collection[str]) -> Iterator[Finding]:
    """Variables and fields that a template is not given, and those that it ignores."""
    used = find_undeclared_variables(tree)
    given = variables_of(path.stem, is_whole(path.stem, tree, names))
    for name in sorted(used - given):
        yield _unknown(path, tree, name, given)
    for getter in tree.find_all(nodes.Getattr):
        owner = getattr(getter.node, "name", None)
        if owner == "principle" and getter.attr not in PRINCIPLE_FIELDS:
            hint = nearest(getter.attr, sorted(PRINCIPLE_FIELDS))
            yield error_in(path, getter.lineno, f"a principle has no {getter.attr!r}; {hint}")
    if path.stem == "critique" and "gate" in used:
        yield warning_in(path, "'gate' is false now: whether the reply needs a change is asked by gate.jinja")
    for name in sorted(NEEDED.get(path.stem, set()) - used):
        yield warning_in(path, f"never uses {name!r}: every row is asked the same")


def _unknown(path: Path, tree: nodes.Template, name: str, given: Collection[str]) -> Finding:
    """What is said of a variable that a template is not given, with its first line."""
    message = f"unknown variable {name!r} in {path.name}; {nearest(name, sorted(given))}"
    if name in IN_TURNS & VARIABLES[path.stem]:
        message = f"{name!r} is not given to chat templates: the model sees it as a turn; {OTHERS}"
    lines = (node.lineno for node in tree.find_all(nodes.Name) if node.name == name)
    return error_in(path, next(lines, 1), message)


def is_whole(name: str, tree: nodes.Template, names: Collection[str]) -> bool:
    """Whether a template writes all that its question is about: also if it has a frame for that."""
    if name in WHOLE or "respond.jinja" in names:
        return True
    targets = (getattr(each.target, "name", None) for each in tree.find_all(nodes.Assign))
    return name in CHAIN and "frame" in targets


def variables_of(name: str, whole: bool) -> frozenset[str]:
    """The variables that a template is given; whole: it writes all that its question is about."""
    if whole:
        return VARIABLES[name]
    return VARIABLES[name] - IN_TURNS


def mixed_chain(framed: Collection[str], names: Collection[str]) -> str | None:
    """What is wrong with a chat set that frames only some questions of a chain; None: nothing."""
    chain = {name for name in CHAIN if f"{name}.jinja" in names}
    bare = sorted(chain - set(framed))
    if "respond.jinja" in names or not bare or len(bare) == len(chain):
        return None
    return f"{bare[0]}.jinja sets no frame, and others of the chain do: one that a model sees in turns goes with none"


def error_in(path: Path, line: int | None, message: str) -> Finding:
    """A finding that keeps a set from being used."""
    return Finding(code="template-variable", message=message, file=str(path), line=line)


def warning_in(path: Path, message: str) -> Finding:
    """A finding that lets a set be used."""
    return Finding(level="warning", code="template-unused", message=message, file=str(path), line=1)
