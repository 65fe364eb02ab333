"""Plays a recipe: runs each job whose result is not there yet, and refuses what would overwrite one."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.disk.locks import lock_folder
from cai.errors import CaiError, RunError, UsageError
from cai.recipes.gates import check_gates
from cai.recipes.inputs import inputs_of, placed
from cai.recipes.jobs import JOB, Job, jobs_of, kept_words, lowers_limit
from cai.recipes.recipe import Recipe
from cai.recipes.state import Entry, State, cost_of, differences, files_of, hash_of, hash_of_files
from cai.recipes.words import texts_in
from cai.records import Values
from cai.texts.wording import listed, nearest

PAGE = "report.html"
MOST_FOLDERS = 1_000_000  # of one job
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
        self.chosen = _chosen(self.jobs, wishes)
        self.max_cost = recipe.max_cost if wishes.max_cost is None else wishes.max_cost
        if self.max_cost is not None and not 0 <= self.max_cost < math.inf:
            raise UsageError(f"max_cost is {self.max_cost}: it must be 0 or more USD")
        self.ran: list[str] = []
        self._open()

    def play(self, run: Runner, tell: Callable[[str], object]) -> None:
        """Run what is missing and write the page, with the folder locked. tell: is told what happens, line by line.

        Raises CommandFailed if a command fails, RunError for what was finished and has changed since, and CaiError for
        a gate that does not hold.
        """
        with lock_folder(self.out, lambda: None):
            self._open()
            self.state.save()
            for number, job in enumerate(self.chosen, 1):
                place = f"[{number}/{len(self.chosen)}] {job.name}"
                if self.is_finished(job):
                    tell(f"{place}: finished before")
                else:
                    self._run(job, run, lambda words, place=place: tell(f"{place}: {words}"))  # type: ignore[misc]
                self._check_gates(job)
            self.state.redo = ()
            self.state.save()
            self._report(run)

    def _check_gates(self, job: Job) -> None:
        """Raise CaiError for a gate that does not hold; --redo then makes its stage anew once more."""
        try:
            check_gates(job.name, job.stage.expect, self.state.entries[job.name].summary)
        except CaiError:
            self.state.redo = ()
            self.state.save()
            raise

    def _open(self) -> None:
        """Read the state of the folder, and give jobs that --redo makes anew new folders; nothing is written.

        The same --redo after Ctrl-C or a kill goes on with what it has begun.
        """
        self.state = State(self.out)
        self.state.recipe = self.recipe.name
        self.state.order = tuple(job.name for job in self.jobs)
        redo = tuple(sorted({*self.wishes.redo}))
        is_resumed = redo == self.state.redo
        again: set[str] = set()
        anew: set[str] = set()
        for job in self.jobs:
            if job.stage.name not in redo and not again & set(job.needs):
                continue
            again.add(job.name)
            if not (is_resumed and not anew & set(job.needs) and self._stands(job)):
                anew.add(job.name)
                self.state.entries[job.name] = self._anew(job)
        if redo:
            self.state.redo = redo

    def _stands(self, job: Job) -> bool:
        """Whether what a --redo has begun of a job is of what the recipe says now."""
        entry = self.state.entries.get(job.name)
        if entry is None or entry.status != "finished":
            return entry is not None and entry.words in ((), tuple(kept_words(job)))
        try:
            return self.is_finished(job) or job.stage.command.grows
        except RunError:
            return False

    def _anew(self, job: Job) -> Entry:
        """A job in a new folder, which remembers what the folders before it have cost."""
        entry = self.state.entries.get(job.name)
        earlier = 0.0
        if entry is not None:
            earlier = entry.earlier_usd + cost_of(self.out / entry.folder)
        return _waiting(job, self._free_folder(job)).model_copy(update={"earlier_usd": earlier})

    def _first_folder(self, job: Job) -> str:
        """The folder of a job that has not run: its name, if that is not the folder of another one."""
        return self._free_folder(job) if job.name in self._folders_of_others(job) else job.name

    def _free_folder(self, job: Job) -> str:
        """A folder that is not there, and is neither that of another job nor will be."""
        others = self._folders_of_others(job) | {each.name for each in self.jobs if each is not job}
        names = (job.name, *(f"{job.name}-{number}" for number in range(2, MOST_FOLDERS)))
        return next(name for name in names if name not in others and not (self.out / name).exists())

    def _folders_of_others(self, job: Job) -> set[str]:
        return {entry.folder for name, entry in self.state.entries.items() if name != job.name}

    def is_finished(self, job: Job) -> bool:
        """Whether the result of a job is there; RunError if it is of something else than the recipe says now."""
        entry = self.state.entries.get(job.name)
        if entry is None or entry.status != "finished":
            return False
        self._check_unedited(entry)
        changes = self._changes(job, entry)
        lowered = lowers_limit(entry.words, kept_words(job))
        if changes and (lowered or not job.stage.command.grows):
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
        for text in texts_in([step.reads for step in job.steps]):
            match = JOB.fullmatch(text)
            if match is None or match[3][1:] in self.state.entries[match[2]].files:
                continue
            path = Path(self.filled(text.removeprefix(match[1])))
            if path.is_file():  # one that is not among the results, such as people's votes
                inputs[text] = hash_of(path)
        return inputs | inputs_of(job, self.recipe.base)

    def _run(self, job: Job, run: Runner, tell: Callable[[str], object]) -> None:
        entry = self.state.entries.get(job.name) or _waiting(job, self._first_folder(job))
        update: Values = {"status": "running", "words": tuple(kept_words(job)), "inputs": self._inputs(job)}
        entry = entry.model_copy(update=update)
        self.state.note(job.name, entry)
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
            self.state.note(job.name, entry.model_copy(update=update))
        self.ran.append(job.name)

    def _report(self, run: Runner) -> None:
        """Write one page about all folders, if no stage does; not again if it shows what is there."""
        is_whole = len(self.chosen) == len(self.jobs)
        has_own = any(job.stage.command.name == "report" for job in self.jobs)
        page = self.out / PAGE
        digest = self.state.digest()
        if is_whole and not has_own and not (page.exists() and self.state.reported == digest):
            run(["report", str(self.out), "--out", str(page)])
            self.state.reported = digest
            self.state.save()

    def summary(self) -> Values:
        """What became of each job, for programs."""
        jobs = {job.name: self.state.entries.get(job.name) for job in self.jobs}
        return {
            "recipe": self.recipe.name,
            "folder": str(self.out),
            "ran": self.ran,
            "cost_usd": sum(entry.earlier_usd + entry.cost_usd for entry in self.state.entries.values()),
            "jobs": {name: entry and entry.model_dump(mode="json", exclude={"files"}) for name, entry in jobs.items()},
        }

    # Words

    def commands(self, job: Job) -> Iterator[list[str]]:
        """The commands of a job, each as the words behind `cai`."""
        folder = self.folder(job.name)
        for step in job.steps:
            settings = step.located(self.filled)
            if "max_cost" in step.command.parameters and self.max_cost is not None:
                settings = {**settings, "max_cost": min(self._left(job.name), settings.get("max_cost", self.max_cost))}
            yield step.command.words_into(settings, folder)

    def filled(self, text: str) -> str:
        """A text with the folder of the job that it names, or with the place of the file that the recipe means."""
        match = JOB.fullmatch(text)
        if match is not None:
            before, name, after = match.groups()
            return f"{before}{self.folder(name)}{after}"
        return placed(text, self.recipe.base)

    def folder(self, name: str) -> Path:
        """The folder of a job."""
        entry = self.state.entries.get(name)
        return self.out / (name if entry is None else entry.folder)

    def _left(self, name: str) -> float:
        """What a job may cost: what is left of the cap once all others are paid."""
        assert self.max_cost is not None
        entries = self.state.entries
        others = (self._cost(entry) for job, entry in entries.items() if job != name)
        earlier = (entry.earlier_usd for entry in entries.values())
        return max(0.0, self.max_cost - sum(others) - sum(earlier))

    def _cost(self, entry: Entry) -> float:
        """What the folder of a job has cost, also if the session that began it was killed."""
        return entry.cost_usd if entry.status == "finished" else cost_of(self.out / entry.folder)


def _waiting(job: Job, folder: str) -> Entry:
    stage = job.stage
    point = dict(job.point)
    return Entry(stage=stage.name, command=stage.command.name, point=point, status="waiting", folder=folder, words=())


def _chosen(jobs: Sequence[Job], wishes: Wishes) -> list[Job]:
    """The jobs that may run: those of --only, and up to --until all that its stage follows from."""
    by_name = {job.name: job for job in jobs}
    waiting = [job for job in jobs if wishes.until in (None, job.stage.name)]
    names: set[str] = set()
    while waiting:
        job = waiting.pop()
        if job.name not in names:
            names.add(job.name)
            waiting += [by_name[name] for name in job.needs]
    return [job for job in jobs if job.name in names and (not wishes.only or job.stage.name in wishes.only)]
