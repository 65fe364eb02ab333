"""What a recipe comes to: each stage for every value of the matrix and every turn of the loop that it depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from cai.errors import UsageError
from cai.recipes.recipe import TURN, Recipe, Stage, Step
from cai.recipes.words import REFERENCE, reference_in, references, replaced, texts_in, variables_in, with_variables
from cai.records import Object, Values

# A reference whose stage is replaced by a job.
JOB = re.compile(REFERENCE.pattern.replace("[a-z0-9_-]*", "[A-Za-z0-9_.=+-]*"), re.DOTALL)
Point = Mapping[str, Any]  # the values of variables that a job depends on
Uses = dict[str, set[str]]  # by stage, the variables of the matrix that it depends on, and whether on the turn


@dataclass(frozen=True)
class Job:
    """One command of a recipe that is to be run once.

    name: that of its stage, with what sets it apart from others of it; its folder is called so. steps: with variables
    filled in; `@name` is the folder of another job. needs: the names of those jobs.
    """

    name: str
    stage: Stage
    point: Point
    steps: tuple[Step, ...]
    needs: tuple[str, ...]


def jobs_of(recipe: Recipe) -> list[Job]:
    """The jobs of a recipe, each after those that it needs."""
    turns: list[Uses] = [{}]
    for turn in range(1, recipe.repeat + 1):
        turns.append(_uses(recipe, turn, turns[-1]))
    jobs: dict[str, Job] = {}
    for turn, uses in enumerate(turns):
        for name, used in uses.items():
            if turn > 1 and TURN not in used:  # it is what it was in the first turn
                continue
            for point in _points(recipe, used, turn):
                job = _job(recipe, recipe.stages[name], point, turn, turns)
                jobs[job.name] = job
    return list(jobs.values())


def _uses(recipe: Recipe, turn: int, before: Uses) -> Uses:
    """What each stage depends on in a turn, itself or by the stages that it names."""
    uses: Uses = {}

    def used(value: Any, of: Uses) -> Iterator[str]:
        for reference in references(value):
            yield from of[reference.stage]
        for name in variables_in(value):
            if name == TURN or name in recipe.matrix:
                yield name
            elif turn > 1 and name in recipe.next:
                yield TURN
                yield from used(recipe.next[name], before)
            else:
                yield from used(recipe.variables[name], of)

    for name in recipe.order:
        uses[name] = set(used(_settings(recipe.stages[name]), uses))
    return uses


def _points(recipe: Recipe, names: set[str], turn: int) -> Iterator[Values]:
    """The values of the variables that a stage depends on, in this turn."""
    axes = [name for name in recipe.matrix if name in names]
    for values in product(*(recipe.matrix[name] for name in axes)):
        point = dict(zip(axes, values, strict=True))
        if TURN in names:
            point[TURN] = turn
        yield point


def _job(recipe: Recipe, stage: Stage, point: Point, turn: int, turns: Sequence[Uses]) -> Job:
    def located(value: Any, turn: int) -> Any:
        """A value with the jobs of a turn in place of the stages that it names."""

        def locate(text: str) -> str:
            reference = reference_in(text)
            if reference is None:
                return text
            there = {name: each for name, each in {**point, TURN: turn}.items() if name in turns[turn][reference.stage]}
            return f"{reference.before}@{_name(recipe, reference.stage, there)}{reference.after}"

        return replaced(value, locate)

    variables = {**located(recipe.variables, turn), **point, TURN: turn}
    if turn > 1:
        variables |= located(recipe.next, turn - 1)
    filled = with_variables(located(_settings(stage), turn), variables)
    steps = [
        replace(step, settings=_valued(step, settings)) for step, settings in zip(stage.steps, filled, strict=True)
    ]
    needs = tuple(dict.fromkeys(job_names_in(filled)))
    return Job(_name(recipe, stage.name, point), stage, point, tuple(steps), needs)


def _valued(step: Step, settings: Object) -> Object:
    """The settings that have a value: a variable without one leaves its setting out."""
    filled = {key: _without_gaps(value) for key, value in settings.items()}
    valued = {key: value for key, value in filled.items() if value is not None}
    missing = sorted(step.command.required - set(valued))
    if missing:
        name = str(step.settings[missing[0]]).lstrip("$")
        raise UsageError(f"cai {step.command.name} needs {missing[0]!r}, and ${name} has no value: --set {name}=VALUE")
    return valued


def _without_gaps(value: Any) -> Any:
    """A value; of a list what has one, None if nothing has."""
    if not isinstance(value, list):
        return value
    return [each for each in value if each is not None] or None


def _settings(stage: Stage) -> list[Object]:
    return [step.settings for step in stage.steps]


def job_names_in(values: Any) -> list[str]:
    """The names of the jobs that settings name."""
    return [match[2] for text in texts_in(values) if (match := JOB.fullmatch(text)) is not None]


def _name(recipe: Recipe, stage: str, point: Point) -> str:
    """The name of a job, such as `dpo.seed=1.turn=2`."""
    parts = [stage]
    for axis, values in recipe.matrix.items():
        if axis in point and len(values) > 1:
            parts.append(f"{axis}={_shown(point[axis], values)}")
    if TURN in point and recipe.repeat > 1:
        parts.append(f"{TURN}={point[TURN]}")
    return ".".join(parts)


def _shown(value: Any, values: list[Any]) -> str:
    """A value as part of a folder's name; its number if two of its axis would look alike."""
    slugs = [re.sub(r"[^A-Za-z0-9_+-]+", "-", str(each)).strip("-") for each in values]
    number = values.index(value)
    if not slugs[number] or slugs.count(slugs[number]) > 1 or len(slugs[number]) > 40:
        return str(number + 1)
    return slugs[number]
