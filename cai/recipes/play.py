"""Plays a recipe: runs each job whose result is not there yet, and refuses what would overwrite one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cai.disk.locks import lock_folder
from cai.errors import CaiError, RunError, UsageError
from cai.recipes.gates import check_gates
from cai.recipes.jobs import JOB, Job, jobs_of
from cai.recipes.recipe import Recipe
from cai.recipes.state import Entry, State, cost_of, differences, files_of, hash_of, hash_of_files
from cai.recipes.words import replaced, texts_in
from cai.records import Object, Values
from cai.texts.wording import listed, nearest

PAGE = "report.html"
Runner = Callable[[Sequence[str]], Values]  # runs `cai` with these words; what it prints with --json


class CommandFailed(CaiError):
    """A command of a recipe ended with an error, which it has shown itself."""


@dataclass(frozen=True)
class Wishes:
    """What is asked of a recipe. only: stages that may run; until: the last one; redo: those to make anew."""

    only: tuple[str, ...] = ()
    until: str | None = None
    redo: tuple[str, ...] = ()
    max_cost: float | None = None


class Playing:
    """A recipe in its folder. ran: the names of the jobs that have run."""

    def __init__(self, recipe: Recipe, out: Path, wishes: Wishes) -> None:
        self.recipe, self.out, self.wishes = recipe, out, wishes
        for name in (*wishes.only, *wishes.redo, *filter(None, [wishes.until])):
            if name not in recipe.stages:
                raise UsageError(f"{recipe.path} has no stage {name!r}; {nearest(name, recipe.stages)}")
        self.jobs = jobs_of(recipe)
        self.chosen = list(_chosen(recipe, self.jobs, wishes))
        self.state = State(out)
        self.max_cost = recipe.max_cost if wishes.max_cost is None else wishes.max_cost
        self.ran: list[str] = []

    def play(self, run: Runner, tell: Callable[[str], object]) -> None:
        """Run what is missing, with the folder locked. tell: is told what happens, a line at a time.

        Raises CommandFailed if a command fails, RunError for what was finished and has changed since, and CaiError for
        a gate that does not hold.
        """
        with lock_folder(self.out, lambda: None):
            self.state = State(self.out)
            self._begin_anew()
            for number, job in enumerate(self.chosen, 1):
                place = f"[{number}/{len(self.chosen)}] {job.name}"
                if self._is_finished(job):
                    tell(f"{place}: finished before")
                else:
                    self._run(job, run, lambda words, place=place: tell(f"{place}: {words}"))  # type: ignore[misc]
                check_gates(job.name, job.stage.expect, self.state.entries[job.name].summary)

    def _begin_anew(self) -> None:
        """Give the jobs that are to be made anew, and those that follow from them, new folders."""
        again: set[str] = set()
        for job in self.jobs:
            if job.stage.name in self.wishes.redo or again & set(job.needs):
                again.add(job.name)
                entry = _waiting(job, self._free_folder(job))
                self.state.note(self.recipe.name, job.name, entry)

    def _free_folder(self, job: Job) -> str:
        names = (f"{job.name}-{number}" for number in count(2))
        if not (self.out / job.name).exists():
            return job.name
        return next(name for name in names if not (self.out / name).exists())

    def _is_finished(self, job: Job) -> bool:
        """Whether the result of a job is there; RunError if it is of something else than the recipe says now."""
        entry = self.state.entries.get(job.name)
        if entry is None or entry.status != "finished":
            return False
        self._check_unedited(entry)
        changes = self._changes(job, entry)
        if changes and not job.stage.command.grows:
            raise RunError(
                f"stage {job.name} is finished, and {listed(changes, 3)}: undo that, or --redo {job.stage.name} makes "
                "it and what follows from it anew, in new folders"
            )
        return not changes

    def _check_unedited(self, entry: Entry) -> None:
        """Raise RunError if the results of a finished job are not what it wrote."""
        edits = differences(entry.files, files_of(self.out / entry.folder))
        if edits:
            raise RunError(
                f"{self.out / entry.folder}: {listed(edits, 3)} since stage {entry.stage} wrote it: restore it, or "
                f"--redo {entry.stage}"
            )

    def _changes(self, job: Job, entry: Entry) -> list[str]:
        words = tuple(kept_words(job))
        changes = []
        if words != entry.words:
            changes.append(f"its command was cai {shlex.join(entry.words)} and is cai {shlex.join(words)}")
        return changes + differences(entry.inputs, self._inputs(job))

    def _inputs(self, job: Job) -> dict[str, str]:
        """The hashes of what a job reads: the results of other jobs, and files."""
        inputs = {}
        for name in job.needs:
            entry = self.state.entries.get(name)
            if entry is None or entry.status != "finished":
                raise RunError(f"stage {job.name} needs {name}, which is not finished: run it first")
            self._check_unedited(entry)
            inputs[f"@{name}"] = hash_of_files(entry.files)
        for step in job.steps:
            for text in texts_in(step.settings):
                path = self.recipe.base / text
                if not JOB.fullmatch(text) and path.is_file():
                    inputs[text] = hash_of(path)
        return inputs

    def _run(self, job: Job, run: Runner, tell: Callable[[str], object]) -> None:
        entry = self.state.entries.get(job.name) or _waiting(job, job.name)
        update: Values = {"status": "running", "words": tuple(kept_words(job)), "inputs": self._inputs(job)}
        entry = entry.model_copy(update=update)
        self.state.note(self.recipe.name, job.name, entry)
        folder = self.out / entry.folder
        if job.stage.command.file is not None:
            folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        update = {"status": "failed"}
        try:
            summary: Values = {}
            for words in self.commands(job):
                tell(shlex.join(["cai", *words]))
                summary |= run(words)
            update = {"status": "finished", "summary": summary, "files": files_of(folder)}
        finally:
            update |= {"seconds": round(entry.seconds + time.monotonic() - began, 1), "cost_usd": cost_of(folder)}
            self.state.note(self.recipe.name, job.name, entry.model_copy(update=update))
        self.ran.append(job.name)

    def report(self, run: Runner) -> None:
        """Write one page about all folders, if no stage does; not again if nothing has run since."""
        is_whole = len(self.chosen) == len(self.jobs)
        has_own = any(job.stage.command.name == "report" for job in self.jobs)
        page = self.out / PAGE
        if is_whole and not has_own and (self.ran or not page.exists()):
            run(["report", str(self.out), "--out", str(page)])

    def summary(self) -> Values:
        """What became of each job, for programs."""
        jobs = {job.name: self.state.entries.get(job.name) for job in self.jobs}
        return {
            "recipe": self.recipe.name,
            "folder": str(self.out),
            "ran": self.ran,
            "cost_usd": sum(entry.cost_usd for entry in jobs.values() if entry),
            "jobs": {name: entry and entry.model_dump(mode="json", exclude={"files"}) for name, entry in jobs.items()},
        }

    # Words

    def commands(self, job: Job) -> Iterator[list[str]]:
        """The commands of a job, each as the words behind `cai`."""
        folder = self.folder(job.name)
        for step in job.steps:
            settings = replaced(step.settings, self.filled)
            if "max_cost" in step.command.parameters and self.max_cost is not None:
                settings = {**settings, "max_cost": min(self._left(job.name), settings.get("max_cost", self.max_cost))}
            yield step.command.words_into(settings, folder)

    def filled(self, text: str) -> str:
        """A text with the folder of the job that it names, or with the place of the file that the recipe means."""
        match = JOB.fullmatch(text)
        if match is not None:
            before, name, after = match.groups()
            return f"{before}{self.folder(name)}{after}"
        path = self.recipe.base / text
        return str(path) if text and path.exists() else text

    def folder(self, name: str) -> Path:
        """The folder of a job."""
        entry = self.state.entries.get(name)
        return self.out / (name if entry is None else entry.folder)

    def _left(self, name: str) -> float:
        """What a job may cost: what is left of the cap once all others are paid."""
        assert self.max_cost is not None
        others = (entry.cost_usd for job, entry in self.state.entries.items() if job != name)
        return max(0.0, self.max_cost - sum(others))


def _waiting(job: Job, folder: str) -> Entry:
    stage = job.stage
    point = dict(job.point)
    return Entry(stage=stage.name, command=stage.command.name, point=point, status="waiting", folder=folder, words=())


def kept_words(job: Job) -> list[str]:
    """The words of a job's commands without places and caps, which decide no result; `@name` for other jobs."""
    words: list[str] = []
    for step in job.steps:
        settings: Object = {key: value for key, value in step.settings.items() if key != "max_cost"}
        words += step.command.words(settings)
    return words


def _chosen(recipe: Recipe, jobs: Sequence[Job], wishes: Wishes) -> Iterator[Job]:
    """The jobs that may run."""
    stages: Any = recipe.order
    if wishes.until is not None:
        stages = _before(recipe, wishes.until)
    for job in jobs:
        if job.stage.name in stages and (not wishes.only or job.stage.name in wishes.only):
            yield job


def _before(recipe: Recipe, last: str) -> set[str]:
    """A stage and all that it follows from."""
    stages: set[str] = set()
    waiting = [last]
    while waiting:
        name = waiting.pop()
        if name not in stages:
            stages.add(name)
            waiting += recipe.needs[name]
    return stages
