"""An evaluation, as a command plays it: which runs it takes, what they say together, and what a plan counts.

It is `sample` of every model, `label` of one model's replies against another's, the runs of its suites, and arithmetic
on their rows. Everything is in the folder of the evaluation; what was measured is in evaluation.json.
"""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from cai.calls.model import Model
from cai.calls.prices import Price
from cai.disk.locks import missing_folders, unmake
from cai.disk.writing import write_atomically
from cai.errors import CaiError, UsageError
from cai.evaluation.arena.accuracy import read_accuracy
from cai.evaluation.arena.arena import PROMPTS, Arena, check_folder, sampling_warnings, template_warnings
from cai.evaluation.arena.figures import FILE, Evaluation, Evaluator, Result
from cai.evaluation.arena.leaks import Leaks, check_named, find_leaks
from cai.evaluation.arena.provenance import independence
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.arena.suite import Suite
from cai.evaluation.bounds import check_bounds, check_measured, read_bounds
from cai.evaluation.suites import SUITES
from cai.evaluation.suites.preference import Preference
from cai.folder.identity import identity_hash
from cai.folder.info import find_info
from cai.folder.lines import DROPPED
from cai.models.specs import without_address
from cai.packages import package_version
from cai.records import Prompt, Values
from cai.runs.run import Run
from cai.runs.settings import MODELS, without_addresses
from cai.sources.files import Source, read_prompts
from cai.texts.wording import nearest, source_name

VERSIONS = ("cai-toolkit", "transformers", "torch", "openvino-genai")
NAMING = (  # settings that name the default folder
    "against", "judge", "protocol", "principles", "n", "best_of", "temperature", "max_tokens", "system", "seed",
)  # fmt: skip


class EvaluateRun:
    """An evaluation, resolved and checked; nothing is asked before `sessions` is read.

    out: its folder, by default named after its models, prompts and evaluator. skipped: suites that cannot run, with the
    reason. stopped: why it is not finished.
    """

    command = "evaluate"
    settings_class = EvaluateSettings
    unit = "prompt"
    bounded = True

    def __init__(self, models: Sequence[str], prompts: Source | None, settings: EvaluateSettings) -> None:
        self.settings, self.source = settings, prompts
        self.bounds = read_bounds(settings.fail_on)
        for name in settings.suites or ():
            if name not in SUITES:
                raise UsageError(f"unknown suite {name!r}; {nearest(name, SUITES)}")
        self.out = Path(settings.out or _default_folder(models, prompts, settings))
        check_folder(self.out)
        check_named(settings.training_data)
        self._made = missing_folders(self.out)
        with self.unmade_if_refused():
            self._resolve(models, prompts)

    def _resolve(self, models: Sequence[str], prompts: Source | None) -> None:
        """Check everything that can be checked before the first call."""
        settings = self.settings
        self.arena = Arena(models, prompts, settings, self.out)
        self.command_line = shlex.join(
            ["cai", self.command, *without_addresses(models), *_words(prompts), *settings.words()]
        )
        self.skipped: dict[str, str] = {}
        self.suites: list[Suite] = []
        for name, kind in SUITES.items():
            if not settings.runs(name):
                continue
            suite = kind(self.arena)
            why = suite.skipped()
            if why is None:
                self.suites.append(suite)
            elif settings.suite is not None:
                raise UsageError(f"--suite {name}: {why}")
            else:
                self.skipped[name] = why
        check_measured(self.bounds, settings.runs, self.skipped)
        self.stopped: str | None = None
        self._preference = next((suite for suite in self.suites if isinstance(suite, Preference)), None)
        if self._preference is not None:
            self._preference.evaluator = self._evaluator_of(self._preference)
        self._started = time.monotonic()

    @contextmanager
    def unmade_if_refused(self) -> Iterator[None]:
        """Leave no new folder behind if an error comes before anything was asked."""
        try:
            yield
        except CaiError:
            if self._made and not self.has_begun():
                unmake(self._made, (PROMPTS, DROPPED))
            raise

    def has_begun(self) -> bool:
        """Whether anything was asked or measured, in this session or an earlier one."""
        return any(path.is_file() and path.name not in (PROMPTS, DROPPED) for path in self.out.rglob("*"))

    def _evaluator_of(self, preference: Preference) -> Evaluator:
        """Who judges, with the accuracy that --bench states."""
        binding, law = preference.labels.judging.binding, preference.labels.constitution
        accuracy, source = None, ""
        if self.settings.bench is not None:
            accuracy, source = read_accuracy(self.settings.bench, binding), str(self.settings.bench)
        constitution = f"{law.name} {law.version}"
        if binding["protocol"] == "reward":
            constitution = "none"
        independent, why = independence(without_address(self.settings.judge), binding, self.arena.contestants)
        return Evaluator(
            spec=binding["judge"],
            protocol=binding["protocol"],
            constitution=constitution,
            accuracy=accuracy,
            source=source,
            independent=independent,
            why=why,
        )

    @cached_property
    def leaks(self) -> Leaks:
        """Which prompts of the evaluation are in the training data of its models."""
        settings = self.settings
        shape: Values = {}
        if self.arena.source is self.source:
            shape = {"format": settings.format, "field": settings.prompt_field}
        items = list(islice(read_prompts(self.arena.source, **shape), settings.limit))
        for source in dict.fromkeys(source for suite in self.suites for source in suite.sources()):
            items += islice(read_prompts(source), settings.limit)
        prompts = (item.messages for item in items if isinstance(item, Prompt))
        return find_leaks(prompts, self.arena.contestants, settings.training_data)

    def warnings(self) -> Iterator[str]:
        """What speaks against its figures, before anything is asked."""
        if self.leaks.same or self.leaks.near:
            yield from self.leaks.lines()
        yield from template_warnings(self.arena.contestants)
        yield from sampling_warnings(self.arena.specs, self.settings)

    def notes(self) -> Iterator[str]:
        """What a reader of its figures should know."""
        if not (self.leaks.same or self.leaks.near):
            yield from self.leaks.lines()

    # Its runs

    def sessions(self) -> Iterator[Run[Any]]:
        """The runs that it takes, each to be played to its end before the next is asked for.

        What an earlier session of the evaluation has finished is left out.
        """
        if self.settings.refuse_leaks:
            self.leaks.check()
        for run in self._runs():
            if self._is_finished(run):
                continue
            run.sharing = [path.parent for path in self.out.rglob("run.json") if path.parent != run.out]
            run.be_part_of(self.out, self.command_line)
            self.arena.begun.add(run.out)
            yield run

    def _runs(self) -> Iterator[Run[Any]]:
        if not self.settings.stop_when_decided:
            yield self.arena.replies_run()
        for suite in self.suites:
            yield from suite.sessions()

    def _is_finished(self, run: Run[Any]) -> bool:
        """Whether a folder holds all that a run would come to, so that its models need not be loaded."""
        if self.settings.force and run.out not in self.arena.begun:
            return False
        info = find_info(run.out)
        if info is None or info["identity"] != run.identity or info.get("stopped") is not None:
            return False
        limits = [info.get("settings", {}).get("limit"), run.settings.limit]
        whole = limits[0] == limits[1] and not info.get("dropped", {}).get("model_error")
        return whole and (run.total is None or info["rows"] + sum(info["dropped"].values()) >= run.total)

    # What they say

    def evaluation(self) -> Evaluation:
        """The figures on the rows that there are, also written into evaluation.json."""
        self.out.mkdir(parents=True, exist_ok=True)  # nothing is there yet if no model could reply
        results = [suite.result() for suite in self.suites]
        for name, why in self.skipped.items():
            results.append(Result(suite=name, title=SUITES[name].title, skipped=why))
        usage, cost = self._spent()
        evaluation = Evaluation(
            contestants=self.arena.contestants,
            prompts=source_name(self.source, self.settings.limit),
            seed=self.settings.seed,
            evaluator=None if self._preference is None else self._preference.evaluator,
            results=tuple(results),
            bounds=tuple(check_bounds(self.bounds, results, {each.name for each in self.arena.contestants})),
            notes=tuple(self.notes()),
            warnings=tuple(self.warnings()),
            stopped=self.stopped,
            folder=str(self.out),
            command=self.command_line,
            usage=usage,
            cost_usd=cost,
            seconds=round(time.monotonic() - self._started, 3),
            versions={name: version for name in VERSIONS if (version := package_version(name))},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        content = orjson.dumps(evaluation.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
        write_atomically(self.out / FILE, content + b"\n")
        return evaluation

    def _spent(self) -> tuple[Values, float | None]:
        """Calls and tokens of all runs together, and their cost; None if a price is not known."""
        usage = Counter[str]()
        costs: list[float | None] = []
        for path in sorted(self.out.rglob("run.json")):
            info = find_info(path.parent) or {}
            usage.update(info.get("usage", {}))
            costs.append(info.get("cost_usd"))
        return dict(usage), None if None in costs else math.fsum(filter(None, costs))

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        base, *others = self.arena.contestants
        yield f"models        {', '.join(each.name for each in others)}"
        yield f"against       {base.name}"
        yield f"suites        {', '.join(suite.name for suite in self.suites)}"
        for name, why in self.skipped.items():
            yield f"  skipped     {name}: {why}"
        yield f"folder        {self.out}"
        for warning in self.warnings():
            yield f"! {warning}"

    # A plan

    def parts(self) -> Iterator[Run[Any]]:
        """The runs that a plan counts: replies with what follows from them, and the others that are known already."""
        replies = self.arena.replies_run()
        replies.followers = [suite.follow_ups for suite in self.suites]
        yield replies
        for suite in self.suites:
            yield from suite.planned()

    def planned(self) -> dict[str, tuple[Model, Price | None]]:
        """The models that a plan counts, by player, and what their tokens cost."""
        players: dict[str, tuple[Model, Price | None]] = {}
        for part in self.parts():
            players |= part.planned()
        return players

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        uncounted = [suite.name for suite in self.suites if not suite.counted]
        if uncounted:
            yield f"what the suites {', '.join(uncounted)} ask of the replies is not counted: it depends on them"
        if self.settings.stop_when_decided:
            yield "--stop-when-decided: there may be fewer calls"


def _words(prompts: Source | None) -> list[str]:
    return [str(prompts)] if isinstance(prompts, str | Path) else []


def _default_folder(models: Sequence[str], prompts: Source | None, settings: EvaluateSettings) -> Path:
    """runs/evaluation-HASH, by who is compared on what, and how it is judged and sampled."""
    law = settings.constitution
    named = {name: getattr(settings, name) for name in NAMING}
    identity: Values = {name: without_addresses(value) if name in MODELS else value for name, value in named.items()}
    identity |= {
        "models": without_addresses(models),
        "prompts": source_name(prompts, None),
        "law": getattr(law, "name", str(law)),
    }
    return Path("runs") / f"evaluation-{identity_hash(identity)}"
