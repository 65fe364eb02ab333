"""Reads constitutions: a YAML file, what it extends, and the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from cai.constitution.principles import Constitution, ConstitutionFile, Example, Principle, PrincipleTest
from cai.errors import ConstitutionError
from cai.records import Message
from cai.sources import yamlfile
from cai.sources.built_in import folder, path_of

SUFFIXES = (".yaml", ".yml")
KEYS: yamlfile.Keys = {  # by the keys that lead there: what a mapping is called, and the keys it can have
    (): ("a constitution", tuple(ConstitutionFile.model_fields)),
    ("principles",): ("a principle", tuple(Principle.model_fields)),
    ("principles", "tests"): ("a test", tuple(PrincipleTest.model_fields)),
    ("examples",): ("an example", tuple(Example.model_fields)),
    ("examples", "prompt"): ("a message", tuple(Message.__annotations__)),
}
NAME_FORM = "letters, digits, '.', '_' and '-', at most 64"
FORMS = {"name": NAME_FORM, "id": NAME_FORM, "version": "three numbers, such as 1.0.0"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that keeps a file from being used; `line` is 1-based."""

    code: str
    message: str
    file: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What reading a file gave: a constitution or problems, and where each principle was written."""

    constitution: Constitution | None
    problems: tuple[Problem, ...]
    places: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # principle id → file and line


def load_constitution(name_or_path: str | Path | Constitution) -> Constitution:
    """The constitution in a file, or the built-in of that name when no such file exists (`harmless`, `harmless.yaml`).

    One that is loaded already is returned as it is.
    Raises `ConstitutionError` for the first problem of the file; `cai constitution check` lists all of them.
    """
    if isinstance(name_or_path, Constitution):
        return name_or_path
    draft = read_constitution(name_or_path)
    if draft.constitution is None:
        first, *others = draft.problems
        more = f" (and {len(others)} more: cai constitution check {name_or_path})" if others else ""
        raise ConstitutionError(first.message + more, first.file, first.line)
    return draft.constitution


def list_constitutions() -> list[Constitution]:
    """The built-in constitutions, by name."""
    return [load_constitution(path) for path in sorted(folder("constitutions").glob("*.yaml"))]


def read_constitution(name_or_path: str | Path) -> Draft:
    """The constitution, or every problem that keeps it from being one; raises only where there is no such file."""
    return _read(find_constitution(name_or_path), ())


def find_constitution(name_or_path: str | Path, base: Path | None = None) -> Path:
    """The file that a name or path means: an existing file (seen from `base`), else a built-in by its stem."""
    path = path_of(str(name_or_path))
    seen = path if base is None else base / path
    if seen.exists() and not seen.is_dir():
        return seen
    built_ins = {file.stem: file for file in sorted(folder("constitutions").glob("*.yaml"))}
    stem = path.stem if path.suffix in SUFFIXES else path.name
    bare = path.name == str(name_or_path)
    if bare and stem in built_ins:
        return built_ins[stem]
    known = ", ".join(built_ins)
    if seen.is_dir():
        raise ConstitutionError(f"{str(path)!r} is a folder; name a .yaml file in it, or a built-in: {known}")
    close = get_close_matches(stem.lower(), built_ins, n=1)
    hint = f"did you mean the built-in {close[0]!r}?" if close else f"built-in are: {known}"
    what = "no such file" if not bare or path.suffix in SUFFIXES else "unknown constitution"
    raise ConstitutionError(f"{what} {str(path)!r}; {hint}")


def _read(path: Path, trail: tuple[Path, ...]) -> Draft:
    """The draft of the file at `path`; `trail` is the chain of files that extend it, the outermost first."""
    try:
        document = yamlfile.parse(yamlfile.read_text(path))
    except yamlfile.BadYaml as error:
        return Draft(None, (Problem("yaml", error.message, str(path), error.line),))
    try:
        parsed = ConstitutionFile.model_validate(document.value)
    except ValidationError as error:
        faults = yamlfile.explain(error, document, KEYS, FORMS)
        return Draft(None, tuple(Problem(fault.code, fault.message, str(path), fault.line) for fault in faults))
    places = {p.id: (str(path), document.line(("principles", i))) for i, p in enumerate(parsed.principles)}
    names = (parsed.extends,) if isinstance(parsed.extends, str) else parsed.extends
    line = document.line(("extends",))
    bases = [_read_base(name, path, line, (*trail, path.resolve())) for name in names]
    problems = [*_repeated_ids(parsed, document, str(path)), *(problem for base in bases for problem in base.problems)]
    if not problems and not parsed.principles and not bases:
        at = document.line(("principles",))
        problems.append(Problem("no-principles", "'principles' is empty; write at least one", str(path), at))
    if problems:
        return Draft(None, tuple(problems))
    return _combine(parsed, path, line, bases, places)


def _read_base(name: str, path: Path, line: int, trail: tuple[Path, ...]) -> Draft:
    try:
        base = find_constitution(name, path.parent)
    except ConstitutionError as error:
        return Draft(None, (Problem("extends", f"extends: {error}", str(path), line),))
    if base.resolve() in trail:
        chain = " → ".join(file.name for file in (*trail, base))
        hint = f"; for the built-in write 'extends: {base.stem}'" if base == path else ""
        return Draft(None, (Problem("extends", f"extends itself: {chain}{hint}", str(path), line),))
    return _read(base, trail)


def _repeated_ids(parsed: ConstitutionFile, document: yamlfile.Document, file: str) -> list[Problem]:
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for index, principle in enumerate(parsed.principles):
        line = document.line(("principles", index))
        if principle.id in first:
            message = f"principle id {principle.id!r} is already used in line {first[principle.id]}; ids must differ"
            problems.append(Problem("repeated-id", message, file, line))
        first.setdefault(principle.id, line)
    return problems


def _combine(
    parsed: ConstitutionFile, path: Path, line: int, bases: list[Draft], own: Mapping[str, tuple[str, int]]
) -> Draft:
    principles: dict[str, Principle] = {}
    places: dict[str, tuple[str, int]] = {}
    examples: list[Example] = []
    problems: list[Problem] = []
    for base in bases:
        assert base.constitution is not None
        for principle in base.constitution.principles:
            known = principles.get(principle.id, principle)
            if known != principle and principle.id not in own:
                message = f"two of the extended constitutions differ in {principle.id!r}; define it in this file"
                problems.append(Problem("extends", message, str(path), line))
            principles[principle.id] = principle
        places.update(base.places)
        examples += base.constitution.examples
    if problems:
        return Draft(None, tuple(problems))
    principles.update({principle.id: principle for principle in parsed.principles})  # in place of the inherited one
    examples += parsed.examples
    law = Constitution(
        name=parsed.name,
        version=parsed.version,
        description=parsed.description,
        principles=tuple(principles.values()),
        examples=tuple(example for i, example in enumerate(examples) if example not in examples[:i]),
        source=f"built-in {path.stem}" if path.parent == folder("constitutions") else str(path),
    )
    return Draft(law, (), {**places, **own})
