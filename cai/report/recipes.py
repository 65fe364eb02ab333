"""What a recipe has to say: what each stage took, and over several seeds the figures of its evaluations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cai.disk.reading import exists
from cai.evaluation.arena.figures import FILE as EVALUATION
from cai.evaluation.arena.figures import Line, Unit
from cai.evaluation.statistics.quantiles import t_quantile
from cai.recipes.state import Entry, State
from cai.report.evaluations import read_evaluation
from cai.report.html.sections import Fact, Part, Section, Table, columns, count, name, title_of
from cai.report.measures import POINTS, amount
from cai.texts.wording import clock, counted

SEED = "seed"  # the variable whose values are repetitions of the same thing
FEWEST = 3  # seeds from which an interval says something


class Repeated(NamedTuple):
    """A figure of several seeds."""

    stage: str
    point: str  # the values of the other variables
    suite: str
    measure: str
    model: str
    unit: Unit
    values: tuple[float, ...]  # differences to BASE, one for each seed

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean, by Student's t over the seeds; None for a single one."""
        n = len(self.values)
        if n < 2:
            return None
        half = t_quantile(n - 1) * statistics.stdev(self.values) / math.sqrt(n)
        return self.mean - half, self.mean + half


def recipe_section(folder: Path) -> Section:
    """Of a recipe."""
    state = State(folder)
    entries = state.entries
    current = {job: entries[job] for job in state.order if job in entries}
    finished = sum(entry.status == "finished" for entry in current.values())
    section = Section(title_of(folder), "recipe", about=[("name", name(state.recipe))])
    section.facts = [
        Fact("stages finished", f"{finished} of {len(current)}"),
        Fact("time", clock(sum(entry.seconds for entry in entries.values()))),
        Fact("cost", f"${sum(entry.earlier_usd + entry.cost_usd for entry in entries.values()):,.2f}"),
    ]
    lines = [_line(job, entry, job in state.order) for job, entry in entries.items()]
    section.tables.append(Table("Stages", columns("=stage | =command | =status | time | cost | =folder"), lines))
    repeated = list(repeated_figures(folder, current))
    if repeated:
        section.parts.append(_part(repeated))
    return section


def _line(job: str, entry: Entry, is_in_recipe: bool) -> list[str]:
    status = entry.status if is_in_recipe else f"{entry.status}, no longer in the recipe"
    cost = f"${entry.earlier_usd + entry.cost_usd:,.2f}"
    return [name(job), entry.command, status, clock(entry.seconds), cost, name(entry.folder)]


def _part(repeated: Sequence[Repeated]) -> Part:
    seeds = max(len(each.values) for each in repeated)
    part = Part("Over seeds")
    part.notes.append(
        "The mean difference to BASE over the seeds, and its 95 % interval by Student's t: how far another seed of the "
        "whole recipe may come out elsewhere. The intervals of each evaluation are over its prompts."
    )
    if seeds < FEWEST:
        part.warnings.append(
            f"{counted(seeds, 'seed')}: an interval over fewer than {FEWEST} seeds says next to nothing"
        )
    titles = columns("=stage | =at | =measure | =model | mean | 95 % interval | seeds")
    part.tables.append(Table("", titles, list(map(_repeated, repeated))))
    return part


def _repeated(each: Repeated) -> list[str]:
    ends = each.interval
    shown = "–" if ends is None else " to ".join(amount(end, each.unit, signed=True) for end in ends)
    mean = amount(each.mean, each.unit, signed=True)
    measure = f"{each.suite}: {each.measure}{POINTS[each.unit]}"
    about = [each.stage, name(each.point), name(measure), name(each.model)]
    return [*about, mean, shown, count(len(each.values))]


def repeated_figures(folder: Path, entries: Mapping[str, Entry]) -> Iterator[Repeated]:
    """The differences to BASE of evaluations that differ in their seed alone."""
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for entry in entries.values():
        path = folder / entry.folder
        if SEED in entry.point and entry.status == "finished" and exists(path / EVALUATION):
            others = ", ".join(f"{key} {value}" for key, value in entry.point.items() if key != SEED)
            groups.setdefault((entry.stage, others), {})[str(entry.point[SEED])] = path
    for (stage, point), folders in groups.items():
        found: dict[tuple[str, str, str], list[Line]] = {}
        for seed, path in folders.items():
            for result in read_evaluation(path).results:
                for line in result.lines:
                    model = line.model.replace(f"{SEED}={seed}", f"{SEED}=*")
                    found.setdefault((result.suite, line.measure, model), []).append(line)
        for (suite, measure, model), lines in found.items():
            known = [each.difference.value for each in lines if each.difference is not None]
            values = tuple(value for value in known if value is not None)
            if values:
                yield Repeated(stage, point, suite, measure, model, lines[0].unit, values)
