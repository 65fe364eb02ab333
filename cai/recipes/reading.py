"""Reads the file of a recipe, and says in which line something is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.errors import InputError, UsageError
from cai.recipes.commands import READS, REFUSED, SECRET, Command, check_setting
from cai.recipes.gates import GATE, unknown_reason
from cai.recipes.recipe import (
    EXPECT,
    EXPORT,
    EXPORTED,
    KEYS,
    NAME_FORM,
    TURN,
    Recipe,
    RecipeFile,
    Stage,
    Step,
    built_ins,
    find_recipe,
)
from cai.recipes.words import STAGE, VARIABLE, references, strays, variables_in
from cai.records import Object, Values
from cai.sources import yamlfaults, yamlfile
from cai.sources.yamlfile import Document, Place
from cai.texts.wording import nearest

MOST = 2**63  # recipe.json holds no greater number


def read_recipe(name_or_path: str | Path, commands: Mapping[str, Command], assignments: Iterable[str] = ()) -> Recipe:
    """The recipe of a file, or the built-in of that name.

    commands: what stages may be, by name. assignments: NAME=VALUE of variables. Raises InputError for the first fault
    of the file, UsageError for an assignment that it has no variable for.
    """
    path = find_recipe(name_or_path)
    try:
        document = yamlfile.parse(yamlfile.read_text(path))
        content = RecipeFile.model_validate(document.value)
    except yamlfile.BadYaml as error:
        raise InputError(error.message, path, error.line) from None
    except ValidationError as error:
        first = yamlfaults.explain(error, document, KEYS, {"name": NAME_FORM})[0]
        raise InputError(first.message, path, first.line) from None
    content.vars.update(_assigned(path, content.vars, assignments))
    return _Reader(path, document, content, commands).recipe()


def _assigned(path: Path, variables: Values, assignments: Iterable[str]) -> Values:
    values: Values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment} must be NAME=VALUE")
        if name not in variables:
            known = nearest(name, variables) if variables else "it has no vars"
            raise UsageError(f"--set {name}: {path} has no such variable; {known}")
        if SECRET.search(text):
            raise UsageError(f"--set {name} holds what looks like a key: put it into an environment variable")
        try:
            values[name] = _typed(text)
        except yamlfile.BadYaml as error:
            raise UsageError(f"--set {assignment}: {error.message}") from None
    return values


def _typed(text: str) -> Any:
    """What is typed as a value: a list, a mapping or a text in quotes as YAML has them, a number, true, false, null.

    Anything else is a text as it stands: `Note: be brief` is no mapping there, and `#` begins no comment.
    """
    if text.startswith(("[", "{", '"', "'")):
        return yamlfile.parse(text).value
    try:
        value = yamlfile.parse(text).value
    except yamlfile.BadYaml:
        return text
    is_text = "#" in text or isinstance(value, str | list | dict)
    return text if is_text else value


class _Reader:
    """Makes a recipe of what is in its file, and says in which line something is wrong."""

    def __init__(self, path: Path, document: Document, content: RecipeFile, commands: Mapping[str, Command]) -> None:
        self._path, self._document, self._content, self._commands = path, document, content, commands

    def recipe(self) -> Recipe:
        content = self._content
        self._check_variables()
        stages = {name: self._stage(name, entry) for name, entry in content.stages.items()}
        if content.repeat > 1 and not content.next:
            raise self._fault(f"repeat: {content.repeat} needs 'next': what a turn takes from the one before", "repeat")
        self._check_secret(content.description, ("description",))
        for name, value in content.next.items():
            self._check_value(("next", name), value)
            if variables_in(value):
                raise self._fault(f"{name!r} must be a value or a stage, such as '@dpo', and no variable", "next", name)
        return Recipe(
            name=content.name,
            description=content.description,
            path=self._path,
            base=self._base(),
            variables=content.vars,
            matrix=content.matrix,
            repeat=content.repeat,
            next=content.next,
            max_cost=content.max_cost,
            stages=stages,
            needs=self._needs(stages),
        )

    def _base(self) -> Path:
        """The folder of the file; for a built-in, whose files are not yours, the one where the command runs."""
        is_built_in = self._path in built_ins().values()
        return Path() if is_built_in else self._path.parent

    def _fault(self, message: str, *place: str | int) -> InputError:
        return InputError(message, self._path, self._document.line(place))

    def _check_variables(self) -> None:
        content = self._content
        for name in (*content.vars, *content.matrix):
            section = "vars" if name in content.vars else "matrix"
            if not re.fullmatch(VARIABLE, name):
                raise self._fault(f"variable {name!r} must be small letters, digits and '_'", section, name)
            if name == TURN:
                raise self._fault(f"{TURN!r} counts the turns of 'repeat': choose another name", section, name)
        for name, value in content.vars.items():
            self._check_value(("vars", name), value)
            if variables_in(value):
                raise self._fault(f"{name!r} names another variable: write its value", "vars", name)
        for name, values in content.matrix.items():
            if name in content.vars:
                raise self._fault(f"{name!r} is in vars and in matrix: leave out one", "matrix", name)
            self._check_axis(name, values)
        for name in content.next:
            if name not in content.vars:
                raise self._fault(f"'next' sets {name!r}; {nearest(name, content.vars)}", "next", name)

    def _check_axis(self, name: str, values: list[Any]) -> None:
        place = ("matrix", name)
        if not values:
            raise self._fault(f"{name!r} has no values", *place)
        for number, value in enumerate(values):
            self._check_value((*place, number), value)
            if variables_in(value):
                raise self._fault(f"{name!r} names another variable: write its value", *place, number)
            if isinstance(value, int | float) and not abs(value) < MOST:
                raise self._fault(f"{name!r} has {value}: a number must be smaller", *place, number)
            if any(value == each or str(value) == str(each) for each in values[:number]):
                raise self._fault(f"{name!r} has a value twice: {value!r}", *place, number)

    def _stage(self, name: str, entry: Object) -> Stage:
        place = ("stages", name)
        if not re.fullmatch(STAGE, name):
            raise self._fault(f"stage {name!r} must be small letters, digits, '_' and '-'", *place)
        commands = [key for key in entry if key not in (EXPECT, EXPORT)]
        if len(commands) != 1:
            found = f"{', '.join(commands)} are several" if commands else "it has none"
            raise self._fault(f"stage {name!r} needs one command: {found}", *place)
        [key] = commands
        command = self._commands.get(key)
        if command is None:
            raise self._fault(f"stage {name!r}: unknown command {key!r}; {nearest(key, self._commands)}", *place, key)
        steps = [self._step((*place, key), command, entry[key])]
        if EXPORT in entry:
            if key not in EXPORTED:
                raise self._fault(f"stage {name!r}: cai {key} has nothing to export", *place, EXPORT)
            steps.append(self._step((*place, EXPORT), self._commands[EXPORT], entry[EXPORT]))
        return Stage(name, tuple(steps), self._gates(place, entry), self._document.line(place))

    def _step(self, place: Place, command: Command, values: Any) -> Step:
        settings = self._settings(place, command, values)
        missing = sorted(command.required - set(settings))
        if missing:
            raise self._fault(f"cai {command.name} needs {missing[0]!r}", *place)
        return Step(command, settings)

    def _settings(self, place: Place, command: Command, values: Any) -> Object:
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise self._fault(f"{place[-1]!r} must be a mapping of settings, not {values!r}", *place)
        for key, value in values.items():
            if key in REFUSED:
                raise self._fault(f"{key!r}: {REFUSED[key]}", *place, key)
            if key not in command.parameters:
                advice = nearest(key.replace("-", "_"), command.parameters)
                raise self._fault(f"unknown setting {key!r} of cai {command.name}; {advice}", *place, key)
            self._check_value((*place, key), value, names_stages=key in READS)
            problem = check_setting(command.parameters[key], value)
            if problem:
                raise self._fault(f"{key!r} {problem}", *place, key)
        return dict(values)

    def _check_value(self, place: Place, value: Any, names_stages: bool = True) -> None:
        self._check_secret(value, place)
        known = set(self._content.stages)
        for reference in references(value) if names_stages else ():
            if reference.stage not in known:
                raise self._fault(f"@{reference.stage} is not a stage; {nearest(reference.stage, known)}", *place)
        for text in strays(value) if names_stages else ():
            named = text.partition("@")[2]
            raise self._fault(f"{text!r} is not '@STAGE' or '@STAGE/FILE'; {nearest(named, known)}", *place)
        variables = {*self._content.vars, *self._content.matrix, TURN}
        for name in variables_in(value):
            if name not in variables:
                advice = "$$ is a dollar sign" if not variables - {TURN} else nearest(name, variables)
                raise self._fault(f"${name} is not a variable; {advice}", *place)

    def _check_secret(self, value: Any, place: Place) -> None:
        if SECRET.search(str(value)):
            where = [each for each in place if isinstance(each, str)][-1]
            raise self._fault(f"{where!r} holds what looks like a key: put it into an environment variable", *place)

    def _gates(self, place: Place, entry: Object) -> dict[str, str]:
        gates = entry.get(EXPECT, {})
        if not isinstance(gates, dict):
            raise self._fault(f"'expect' must be a mapping such as {{rows: '>=100'}}, not {gates!r}", *place, EXPECT)
        for key, text in gates.items():
            if not isinstance(text, str) or not GATE.fullmatch(text.strip()):
                raise self._fault(f"{key!r} must be a bound such as '>=100', not {text!r}", *place, EXPECT, key)
            unknown = unknown_reason(key)
            if unknown is not None:
                raise self._fault(f"{key!r}: {unknown}", *place, EXPECT, key)
        return {key: text.strip() for key, text in gates.items()}

    def _needs(self, stages: Mapping[str, Stage]) -> dict[str, tuple[str, ...]]:
        needs = {name: self._named_by(stage) for name, stage in stages.items()}
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            around = list(reversed(error.args[1]))
            raise self._fault(f"the stages wait for each other: {' -> '.join(around)}", "stages", around[0]) from None
        return needs

    def _named_by(self, stage: Stage) -> tuple[str, ...]:
        """The stages that a stage names, itself or by its variables."""
        named = []
        for step in stage.steps:
            content = self._content
            filled = ((content.vars.get(name), content.matrix.get(name)) for name in variables_in(step.reads))
            values = [step.reads, *chain.from_iterable(filled)]
            named += [reference.stage for value in values for reference in references(value)]
        return tuple(dict.fromkeys(named))
