"""What a recipe comes to: each stage for every value of the matrix and every turn of the loop that it depends on."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from cai.errors import UsageError
from cai.recipes.commands import check_setting
from cai.recipes.recipe import TURN, Recipe, Stage, Step
from cai.recipes.words import REFERENCE, reference_in, references, replaced, texts_in, variables_in, with_variables
from cai.records import Object, Values

# A reference whose stage is replaced by a job.
JOB = re.compile(REFERENCE.pattern.replace("[a-z0-9_-]*", "[A-Za-z0-9_.=+-]*"), re.DOTALL)
Point = Mapping[str, Any]  # the values of variables that a job depends on
LIMIT = "--limit"  # the option that bounds the rows of a run
LONGEST = 40  # characters of a value in the name of a folder
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
        yield from by_variables(value, of)

    def by_variables(value: Any, of: Uses) -> Iterator[str]:
        for name in variables_in(value):
            if name == TURN:
                yield name
            elif name in recipe.matrix:
                yield name
                yield from used(recipe.matrix[name], of)
            elif turn > 1 and name in recipe.next:
                yield TURN
                yield from used(recipe.next[name], before)
            else:
                yield from used(recipe.variables[name], of)

    for name in recipe.order:
        steps = recipe.stages[name].steps
        named = [each for step in steps for each in (*used(step.reads, uses), *by_variables(step.settings, uses))]
        uses[name] = set(named)
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

    variables = {**located(_unescaped(recipe.variables), turn), **located(_unescaped(point), turn), TURN: turn}
    if turn > 1:
        variables |= located(_unescaped(recipe.next), turn - 1)
    name = _name(recipe, stage.name, point)
    steps = []
    for step in stage.steps:
        filled = with_variables(step.located(lambda text: located(text, turn)), variables)
        steps.append(replace(step, settings=_valued(name, step, filled)))
    needs = tuple(dict.fromkeys(job_names_in([step.reads for step in steps])))
    return Job(name, stage, point, tuple(steps), needs)


def _unescaped(values: Values | Point) -> Values:
    """Values of variables, in which $$ is a dollar sign and nothing names another variable."""
    return with_variables(values, {})  # type: ignore[no-any-return]


def _valued(job: str, step: Step, settings: Object) -> Object:
    """The settings that have a value: a variable without one leaves its setting out."""
    filled = {key: _without_gaps(value) for key, value in settings.items()}
    valued = {key: value for key, value in filled.items() if value is not None}
    for key in sorted(step.command.required - set(valued)):
        names = variables_in(step.settings[key])
        if not names:
            raise UsageError(f"stage {job}: cai {step.command.name} needs {key!r}, and the list is empty")
        name = names[0]
        raise UsageError(f"cai {step.command.name} needs {key!r}, and ${name} has no value: --set {name}=VALUE")
    for key, value in valued.items():
        problem = check_setting(step.command.parameters[key], value)
        if problem:
            raise UsageError(f"stage {job}: {key!r} {problem}; it comes from {step.settings[key]!r}")
    return valued


def _without_gaps(value: Any) -> Any:
    """A value; of a list what has one, None if nothing has."""
    if not isinstance(value, list):
        return value
    return [each for each in value if each is not None] or None


def job_names_in(values: Any) -> list[str]:
    """The names of the jobs that settings name."""
    return [match[2] for text in texts_in(values) if (match := JOB.fullmatch(text)) is not None]


def _name(recipe: Recipe, stage: str, point: Point) -> str:
    """The name of a job, such as `dpo.seed=1.turn=2`."""
    parts = [stage]
    for axis, values in recipe.matrix.items():
        if axis in point:
            parts.append(f"{axis}={_shown(point[axis], values)}")
    if TURN in point and recipe.repeat > 1:
        parts.append(f"{TURN}={point[TURN]}")
    return ".".join(parts)


def _shown(value: Any, values: list[Any]) -> str:
    """A value as part of a folder's name, which stays the same if its axis gets more values.

    A value that is long, or looks like another one of its axis, is told from others by a hash of it.
    """
    slugs = [_slug(each) for each in values]
    slug = _slug(value)
    if slug and slugs.count(slug) == 1 and len(slug) <= LONGEST:
        return slug
    digest = hashlib.sha256(repr(value).encode()).hexdigest()[:8]
    return f"{slug[: LONGEST - len(digest) - 1]}-{digest}".lstrip("-")


def _slug(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_+-]+", "-", str(value)).strip("-")


def kept_words(job: Job) -> list[str]:
    """The words of a job's commands without places and caps, which decide no result; `@name` for other jobs."""
    words: list[str] = []
    for step in job.steps:
        settings: Object = {key: value for key, value in step.settings.items() if key != "max_cost"}
        words += step.command.words(settings)
    return words


def lowers_limit(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether a job is asked for fewer rows than it has."""
    least, most = (_limit(words) for words in (after, before))
    return least < most


def _limit(words: Sequence[str]) -> float:
    return float(words[words.index(LIMIT) + 1]) if LIMIT in words else math.inf
