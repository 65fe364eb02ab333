"""Constitutions in YAML files: finds a file, and reads it with everything that it extends."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cai.constitution.examples import Example, PrincipleTest
from cai.constitution.principles import OURS, Constitution, ConstitutionFile, Finding, Principle
from cai.errors import ConstitutionError
from cai.records import Message
from cai.sources import yamlfaults, yamlfile
from cai.sources.files import folder, path_of
from cai.texts.wording import nearest

KEYS: yamlfaults.Keys = {  # by the keys that lead there: what a mapping is called, and the keys it can have
    (): ("a constitution", tuple(ConstitutionFile.model_fields)),
    ("principles",): ("a principle", tuple(Principle.model_fields)),
    ("principles", "tests"): ("a test", tuple(PrincipleTest.model_fields)),
    ("examples",): ("an example", tuple(Example.model_fields)),
    ("examples", "prompt"): ("a message", tuple(Message.__annotations__)),
}
NAME_FORM = "letters, digits, '.', '_' and '-', at most 64"
FORMS = {"name": NAME_FORM, "id": NAME_FORM, "version": "three numbers, such as 1.0.0"}


def load_constitution(name_or_path: str | Path | Constitution) -> Constitution:
    """The constitution in a file, or the built-in of that name if no such file exists; one that is loaded as it is.

    Raises ConstitutionError for the first problem of the file; `cai constitution check` lists all of them.
    """
    if isinstance(name_or_path, Constitution):
        return name_or_path
    reader = Reader()
    law = reader.read(find_constitution(name_or_path))
    if law is None:
        first, *others = reader.problems
        more = f" (and {len(others)} more: cai constitution check {name_or_path})" if others else ""
        raise ConstitutionError(first.message + more, first.file, first.line)
    return law


def list_constitutions() -> list[Constitution]:
    """The built-in constitutions, by name."""
    return [load_constitution(path) for path in sorted(folder("constitutions").glob("*.yaml"))]


def find_constitution(name_or_path: str | Path, base: Path = Path()) -> Path:
    """The file that a name or path means: an existing file (seen from `base`), else a built-in by its stem."""
    path = path_of(str(name_or_path))
    seen = base / path
    if seen.exists() and not seen.is_dir():
        return seen
    built_ins = {file.stem: file for file in sorted(folder("constitutions").glob("*.yaml"))}
    stem = path.name.removesuffix(".yaml").removesuffix(".yml")
    if path.name == str(name_or_path) and stem in built_ins:
        return built_ins[stem]
    if seen.is_dir():
        known = ", ".join(built_ins)
        raise ConstitutionError(f"{str(path)!r} is a folder; name a .yaml file in it, or a built-in: {known}")
    raise ConstitutionError(f"no constitution {str(path)!r}: neither a file nor a built-in; {nearest(stem, built_ins)}")


def _gate_of(parsed: ConstitutionFile, inherited: list[Constitution]) -> str | None:
    """The question of a constitution's gate: its own, else that of all that it extends, if they have the same."""
    if "gate" in parsed.model_fields_set:
        return parsed.gate
    questions = {base.gate for base in inherited}
    return questions.pop() if len(questions) == 1 else None


class Reader:
    """Reads a constitution with all that it extends, and collects the problems that keep it from being used."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.places: dict[str | None, tuple[str, int | None]] = {}  # principle id → file and line
        self._done: dict[Path, Constitution | None] = {}

    def read(self, path: Path, trail: tuple[Path, ...] = ()) -> Constitution | None:
        """The constitution of a file, None if it has problems. trail: the files that extend it, the outermost first.

        A file that is extended in several ways is read once: else twenty files that extend two each are a million.
        """
        place = path.resolve()
        if place not in self._done:
            self._done[place] = self._read(path, (*trail, place))
        return self._done[place]

    def _read(self, path: Path, trail: tuple[Path, ...]) -> Constitution | None:
        try:
            document = yamlfile.parse(yamlfile.read_text(path))
            if yamlfaults.is_foreign(document, OURS):
                raise yamlfile.BadYaml(f"is not a constitution: it has neither {' nor '.join(map(repr, OURS))}")
            parsed = ConstitutionFile.model_validate(document.value)
        except yamlfile.BadYaml as error:
            self._refuse("yaml", error.message, path, error.line)
            return None
        except ValidationError as error:
            for fault in yamlfaults.explain(error, document, KEYS, FORMS):
                self._refuse(fault.code, fault.message, path, fault.line)
            return None
        before = len(self.problems)
        lines = self._lines_of(parsed, document, path)
        line = document.line(("extends",))
        names = (parsed.extends,) if isinstance(parsed.extends, str) else parsed.extends
        bases = (self._read_base(name, path, line, trail) for name in names)
        inherited = list(filter(None, bases))
        if not parsed.principles and not names:
            message = "'principles' is empty; write at least one"
            self._refuse("no-principles", message, path, document.line(("principles",)))
        principles: dict[str, Principle] = {}
        for principle in (principle for base in inherited for principle in base.principles):
            if principles.setdefault(principle.id, principle) != principle and principle.id not in lines:
                message = f"two of the extended constitutions differ in {principle.id!r}; define it in this file"
                self._refuse("extends", message, path, line)
        scales = {} if parsed.scale is None else {parsed.name: parsed.scale}
        for name, levels in (item for base in inherited for item in base.whole_scales.items()):
            if scales.setdefault(name, levels) != levels and name != parsed.name:
                message = f"two of the extended constitutions differ in the scale of {name!r}; give one another name"
                self._refuse("extends", message, path, line)
        if len(self.problems) > before or len(inherited) < len(names):
            return None
        self.places |= {name: (str(path), at) for name, at in lines.items()}
        principles |= {principle.id: principle for principle in parsed.principles}  # in place of the inherited one
        examples = [example for file in (*inherited, parsed) for example in file.examples]
        return Constitution(
            name=parsed.name,
            version=parsed.version,
            description=parsed.description,
            principles=tuple(principles.values()),
            examples=tuple(example for i, example in enumerate(examples) if example not in examples[:i]),
            scale=parsed.scale,
            gate=_gate_of(parsed, inherited),
            inherited_scales={name: levels for name, levels in scales.items() if name != parsed.name},
            source=f"built-in {path.stem}" if path.parent == folder("constitutions") else str(path),
        )

    def _refuse(self, code: str, message: str, path: Path, line: int | None) -> None:
        self.problems.append(Finding(code=code, message=message, file=str(path), line=line))

    def _lines_of(self, parsed: ConstitutionFile, document: yamlfile.Document, path: Path) -> dict[str, int]:
        """The line of each principle by its id; ids that repeat are problems."""
        lines: dict[str, int] = {}
        for index, principle in enumerate(parsed.principles):
            name = principle.id
            line = document.line(("principles", index))
            if name in lines:
                message = f"principle id {name!r} is already used in line {lines[name]}; ids must differ"
                self._refuse("repeated-id", message, path, line)
            lines.setdefault(name, line)
        return lines

    def _read_base(self, name: str, path: Path, line: int, trail: tuple[Path, ...]) -> Constitution | None:
        try:
            base = find_constitution(name, path.parent)
        except ConstitutionError as error:
            self._refuse("extends", f"extends: {error}", path, line)
            return None
        if base.resolve() not in trail:
            return self.read(base, trail)
        chain = " → ".join(file.name for file in (*trail, base))
        hint = f"; for the built-in write 'extends: {base.stem}'" if base == path else ""
        self._refuse("extends", f"extends itself: {chain}{hint}", path, line)
        return None
