"""What a recipe would ask and cost: each stage as `cai plan` says it, with stand-ins for what is not there yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from cai.recipes.jobs import JOB, Job
from cai.recipes.play import Playing, Runner
from cai.recipes.recipe import Step
from cai.recipes.words import replaced, texts_in
from cai.records import KINDS, BadPrompt, Object, Record, Values
from cai.sources.files import read_prompts
from cai.texts.wording import clock, columns

PLANNED = ("generate", "sample", "label", "evaluate")  # commands that `cai plan` knows
ONLINE = ("train rloo", "train grpo", "train ppo")  # and whose rewards may ask a judge
SOURCES = {"generate": "prompts", "sample": "prompts", "label": "source"}  # the setting that says what is read
ANSWER = 256  # tokens of an answer that was not asked for yet, if the stage does not bound them: half of 512
BESIDE = ("price", "calibration", "gold", "bench")  # may name what is not there, and change no number of calls
REUSE = "reuse"  # a folder that is not there lowers none


class StagePlan(Record):
    """What one job would ask: at most, and at least 0 if what it reads is not there yet. None: not known."""

    name: str
    command: str
    is_finished: bool
    is_guess: bool  # whether it reads what is not there yet
    calls: int | None = None
    tokens: int | None = None  # read and written
    cost_usd: float | None = None
    seconds: float | None = None


class RecipePlan(Record):
    """What all stages of a recipe would ask."""

    name: str
    stages: tuple[StagePlan, ...]
    max_cost: float | None

    def summary(self) -> Values:
        """The plan for programs."""
        return self.model_dump(mode="json")

    def lines(self) -> Iterator[str]:
        """For people."""
        rows = ["stage | calls | tokens | cost | time", *map(_row, self.stages)]
        yield from columns("".join(f"{row}\n" for row in rows)).splitlines()
        total = sum(stage.cost_usd or 0.0 for stage in self.stages)
        yield f"at most ${total:,.2f} in all; trainings are not timed; nothing was asked of any model"
        if any(stage.cost_usd is None for stage in self.stages if stage.calls):
            yield "a price is not known: state it with price: 'IN,OUT'"
        if self.max_cost is not None and total > self.max_cost:
            yield f"--max-cost {self.max_cost:g} may stop the recipe before its end"


def _row(stage: StagePlan) -> str:
    least = "0 to " if stage.is_guess else ""
    if stage.is_finished:
        return f"{stage.name} | – | – | – | – ||   {stage.command}, finished"
    if stage.calls is None:
        return f"{stage.name} | – | – | – | ? ||   {stage.command}"
    cost = "?" if stage.cost_usd is None else f"${stage.cost_usd:,.2f}"
    time = "?" if stage.seconds is None else clock(stage.seconds)
    figures = [f"{stage.calls:,}", f"{stage.tokens:,}", cost, time]
    return " | ".join([stage.name, *(f"{least}{figure}" for figure in figures)]) + f" ||   {stage.command}"


def plan(playing: Playing, run: Runner) -> RecipePlan:
    """Count what is not finished yet of a recipe."""
    with TemporaryDirectory(prefix="cai-plan-") as scratch:
        rehearsal = _Rehearsal(playing, Path(scratch), run)
        stages = tuple(rehearsal.stage(job) for job in playing.chosen)
    return RecipePlan(name=playing.recipe.name, stages=stages, max_cost=playing.max_cost)


class _Rehearsal:
    """Stands in for the folders of jobs that have not run."""

    def __init__(self, playing: Playing, scratch: Path, run: Runner) -> None:
        self._playing, self._scratch, self._run = playing, scratch, run
        self._jobs = {job.name: job for job in playing.jobs}
        self._finished: dict[str, bool] = {}

    def stage(self, job: Job) -> StagePlan:
        """The plan of one job."""
        finished = self._is_finished(job.name)
        is_guess = any(not self._is_finished(need) for need in job.needs)
        told: Values = {"name": job.name, "command": job.stage.command.name, "is_finished": finished}
        if job.stage.command.name in ONLINE and not finished:
            return self._rewards(job, is_guess, told)
        if finished or job.stage.command.name not in PLANNED:
            return StagePlan(**told, is_guess=False)
        step = job.steps[0]
        words = step.command.words(self._settings(job, step))
        figures = self._run(["plan", *words])
        calls = figures["most_calls"]
        return StagePlan(
            **told,
            is_guess=is_guess,
            calls=figures["calls"] if calls is None else calls,
            tokens=sum(figures[name] or 0 for name in ("most_input_tokens", "most_output_tokens")),
            cost_usd=figures["most_cost_usd"],
            seconds=figures["seconds"],
        )

    def _rewards(self, job: Job, is_guess: bool, told: Values) -> StagePlan:
        """What the judges of an online training would ask; a reward model that is not there yet asks nobody."""
        step = job.steps[0]
        settings = self._settings(job, step)
        parts = str(step.settings.get("reward", "")).split(",")
        known = [part for part in parts if not self._is_missing(part)]
        if not known:
            return StagePlan(**told, is_guess=False)
        if known != [""]:  # else the config names them
            settings["reward"] = replaced(",".join(known), self._playing.filled)
        if self._is_missing(step.settings.get("watch", "")):
            del settings["watch"]
        figures = self._run(["plan", *step.command.words(settings)])
        asked = figures["rewards"].values()
        costs = [each["cost_usd"] for each in asked]
        return StagePlan(
            **told,
            is_guess=is_guess,
            calls=sum(each["calls"] for each in asked),
            tokens=sum(each["input_tokens"] + each["output_tokens"] for each in asked),
            cost_usd=None if None in costs else sum(costs),
        )

    def _is_missing(self, text: str) -> bool:
        """Whether a text names a job that has not run."""
        match = JOB.fullmatch(text)
        return match is not None and not self._is_finished(match[2])

    def _is_finished(self, name: str) -> bool:
        """Whether a run would pass over a job; RunError if it would be refused."""
        if name not in self._finished:
            job = self._jobs[name]
            self._finished[name] = all(map(self._is_finished, job.needs)) and self._playing.is_finished(job)
        return self._finished[name]

    def _settings(self, job: Job, step: Step) -> Values:
        """Settings with stand-ins for what is not there."""
        settings = {}
        for key, value in step.settings.items():
            missing = [match[2] for text in texts_in(value) if (match := JOB.fullmatch(text))]
            if key in (*BESIDE, REUSE) and any(not self._is_finished(name) for name in missing):
                continue
            settings[key] = replaced(value, self._stand_in)
        if job.stage.command.name == "evaluate":  # whose models must differ from each other
            contestants = step.settings["models"]
            names = contestants if isinstance(contestants, list) else [contestants]
            settings["models"] = [self._contestant(name) for name in names]
        return settings

    def _contestant(self, text: str) -> str:
        match = JOB.fullmatch(text)
        if match is None or self._is_finished(match[2]):
            return self._playing.filled(text)
        path = self._scratch / f"{match[2]}.recorded.jsonl"
        path.touch()
        return f"recorded:{path}"

    def _stand_in(self, text: str) -> str:
        match = JOB.fullmatch(text)
        if match is None or self._is_finished(match[2]):
            return self._playing.filled(text)
        job = self._jobs[match[2]]
        if job.stage.command.name in SOURCES:
            return str(self._rows(job))
        return self._model(job)

    def _model(self, job: Job) -> str:
        """The model that a training begins with, which costs as much to ask as the one that it makes."""
        model = job.steps[0].settings.get("model", "local")
        return self._stand_in(model)

    def _rows(self, job: Job) -> Path:
        """A file of rows as a job would make them: as many as it has prompts, with replies of the usual length."""
        path = self._scratch / f"{job.name}.jsonl"
        if path.exists():
            return path
        step = job.steps[0]
        source = step.settings.get(SOURCES[step.command.name])
        if source is not None:
            source = self._rows_in(source)
        prompts = read_prompts(source, field=step.settings.get("prompt_field"))
        rows = (_row_of(step.settings, prompt.messages) for prompt in prompts if not isinstance(prompt, BadPrompt))
        with path.open("wb") as file:
            for row in islice(rows, step.settings.get("limit")):
                file.write(orjson.dumps(row) + b"\n")
        return path

    def _rows_in(self, source: str) -> str:
        """The file of rows that a source names; of a run that is finished the one in its folder."""
        match = JOB.fullmatch(source)
        found = self._stand_in(source)
        if match is None or match[3] or not self._is_finished(match[2]):
            return found
        command = self._jobs[match[2]].stage.command.name
        return str(Path(found) / KINDS[command].rows_file)


def _row_of(settings: Object, messages: Any) -> Mapping[str, Any]:
    """A prompt with replies, which differ."""
    tokens = settings.get("max_tokens", 2 * ANSWER) // 2
    replies = [f"{number} {'word ' * tokens}" for number in range(settings.get("n", 2))]
    return {"prompt": list(messages), "replies": replies}
