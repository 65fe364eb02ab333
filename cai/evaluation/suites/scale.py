"""The suite `scale`: how a judge rates every reply by itself, from 1 to 5, under each scale of a constitution."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

from cai.calls.model import check_ability, spec_of
from cai.calls.protocols import choose_protocol
from cai.constitution.files import load_constitution
from cai.constitution.scale import scales_of
from cai.engine.ask_scale import VALUES, AskScale
from cai.engine.levels import Grade
from cai.engine.templates.sets import load_templates
from cai.errors import UsageError
from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Line, Result, line_of
from cai.evaluation.arena.rate import Rater, RateRun, entries, entries_of, read_ratings
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.arena.suite import Suite
from cai.evaluation.statistics.estimates import mean_of
from cai.evaluation.statistics.paired import difference
from cai.folder.identity import identity_hash
from cai.models import open_models
from cai.records import Candidates, Completion, Entry, Place, Rating, Request, Values
from cai.runs.kinds.settings import VERDICT, Law
from cai.runs.run import Run
from cai.runs.settings import RunSettings
from cai.texts.wording import counted

LOW, HIGH = min(VALUES.values()), max(VALUES.values())
TOO_MANY = 0.1  # share of replies without a valid rating from which on it is warned of


class ScaleRater(Rater):
    """A judge that is asked for levels; raises UsageError if it cannot be."""

    wanted = f"with a level from {LOW:g} to {HIGH:g}"
    advice = "switch its thinking off (--extra-body), use --protocol vote, or word scale.jinja for it"

    def __init__(self, settings: EvaluateSettings, constitution: Law) -> None:
        law, templates = load_constitution(constitution), load_templates(settings.templates)
        self.scales = {scale.name: scale for scale in scales_of(law)}
        self.model = open_models({"judge": settings.judge}, settings.connection)["judge"]
        name = spec_of(self.model)
        self._completes = templates.completes
        self.protocol = choose_protocol(settings.protocol, self.model.can, name, completes=self._completes)
        if self.model.can.reward:
            raise UsageError(
                f"--scale: {name} rewards replies and reads no levels; name a --judge that is asked in words"
            )
        if self.protocol == "reason":
            raise UsageError("--scale: levels are asked for without reasons; use --protocol logprob, score or vote")
        self._ask = AskScale(templates, prefill=self.model.can.prefill)
        self._ask.check(self.scales.values())
        self.constitution, self.templates = law.ref, templates.scale_hash
        self.listed = tuple(VALUES) if self.protocol == "logprob" else ()
        self.binding = {
            "judge": name,
            "protocol": self.protocol,
            "templates": self.templates,
            "constitution": law.ref.model_dump(),
            "scales": {scale.name: scale.hash for scale in self.scales.values()},
        }

    def ask(self, entry: Entry) -> Generator[list[Request], list[Completion], Grade]:
        """The question about one reply under one scale."""
        return self._ask.rate(entry.messages, entry.reply, self.scales[entry.asked], self.protocol)

    def check(self) -> None:
        """Raise UsageError if the judge, now that it is loaded, cannot be asked so."""
        check_ability(self.model, completes=self._completes)
        name = spec_of(self.model)
        if choose_protocol(self.protocol, self.model.can, name, completes=self._completes) != self.protocol:
            raise UsageError(f"{name} cannot be asked by --protocol {self.protocol} once loaded")


class Scale(Suite):
    """Ratings of every reply of every contestant."""

    name = "scale"
    title = "ratings from 1 to 5 (descriptive: pairs decide)"
    counted = True

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        law = arena.settings.scale
        self.rater = None if law is None else ScaleRater(arena.settings, law)

    @property
    def _scales(self) -> list[str]:
        if self.rater is None:
            return []
        return [*self.rater.scales]

    def skipped(self) -> str | None:
        """No constitution with scales is named."""
        if self.rater is None:
            return "name --scale CONSTITUTION, such as hhh"
        return None

    @cached_property
    def _planned(self) -> RateRun:
        """The ratings of the replies that are there when a plan is made."""
        return self._run()

    def _run(self) -> RateRun:
        assert self.rater is not None
        rater, settings = self.rater, self.arena.settings
        replies = self.arena.replies_run()
        return RateRun(
            rater,
            self.arena.settings_of(RunSettings, self.name, max_tokens=max(settings.max_tokens, VERDICT)),
            lambda: entries(self.arena, self._scales),
            {"command": "sample", "run": identity_hash(replies.identity), "n": replies.replies},
        )

    def sessions(self) -> Iterator[Run[Any]]:
        """The ratings, if there is a reply to rate."""
        run = self._run()
        if run.total:
            yield run

    def planned(self) -> Iterator[Run[Any]]:
        """The ratings of the replies that are there already."""
        yield self._planned

    def follow_ups(self, row: Candidates) -> Iterator[tuple[Run[Any], Place]]:
        """The replies to a prompt, under each scale."""
        names = [contestant.name for contestant in self.arena.contestants]
        for place in entries_of(row, names, self._scales):
            yield self._planned, place

    def result(self) -> Result:
        """The mean of every contestant under each scale, and what changed against BASE, paired by prompt."""
        rater = self.rater
        assert rater is not None
        ratings = defaultdict[tuple[str, str], list[Rating]](list)
        for rating in read_ratings(self.arena, self.name):
            ratings[rating.asked, rating.contestant].append(rating)
        lines, table = [], Values()
        for scale in rater.scales.values():
            table[scale.name] = {"levels": list(scale.levels), "models": {}}
            of_base = ratings[scale.name, self.arena.contestants[0].name]
            for contestant in self.arena.contestants:
                rated = ratings[scale.name, contestant.name]
                lines.append(_line(contestant.name, scale.name, rated, None if contestant.base else of_base))
                table[scale.name]["models"][contestant.name] = shares(rated)
        return Result(
            suite=self.name,
            title=self.title,
            facts=tuple(_facts(rater)),
            lines=tuple(lines),
            warnings=tuple(_warnings(table)),
            details={**rater.binding, "scales": table},
        )


def _facts(rater: ScaleRater) -> Iterator[str]:
    law = rater.constitution
    assert law is not None
    how = (
        "digits in words, without probabilities"
        if rater.protocol == "vote"
        else "the mean of the levels' probabilities"
    )
    yield f"rated by {rater.binding['judge']} ({rater.protocol}: {how}) under {law.name} {law.version}"
    yield "a rating sees one reply; which model is better is for pairs to decide"


def _line(model: str, scale: str, ratings: Sequence[Rating], of_base: Sequence[Rating] | None) -> Line:
    """The mean over prompts, and the difference to BASE over the prompts that both have."""
    means = by_prompt(ratings)
    change = None
    if of_base is not None:
        base = by_prompt(of_base)
        shared = [prompt for prompt in means if prompt in base]
        change = difference([means[each] for each in shared], [base[each] for each in shared], HIGH - LOW)
    note = "" if ratings else "no reply was rated"
    invalid = [rating for rating in ratings if rating.value is None]
    if invalid:
        note = f"{len(invalid)} of {counted(len(ratings), 'rating')} not valid, such as: {invalid[0].problem}"
    return line_of(model, scale, "number", mean_of([*means.values()], LOW, HIGH), change, note)


def by_prompt(ratings: Sequence[Rating]) -> dict[str, float]:
    """The mean of the valid ratings of each prompt that has any."""
    values = defaultdict[str, list[float]](list)
    for rating in ratings:
        if rating.value is not None:
            values[rating.prompt_id].append(rating.value)
    return {prompt: fmean(each) for prompt, each in values.items()}


def shares(ratings: Sequence[Rating]) -> Values:
    """How many are valid, why others are not, and the share of each level in the valid ones.

    The share is the mean of its probability among the levels; of answers in words, how often it was named.
    """
    valid = [rating for rating in ratings if rating.value is not None]
    levels = []
    for rating in valid:
        total = math.fsum(rating.p.values())
        named = {name: float(value == rating.value) for name, value in VALUES.items()}
        levels.append({name: rating.p.get(name, 0.0) / total for name in VALUES} if rating.p else named)
    problems = Counter(rating.problem for rating in ratings if rating.value is None)
    means = None
    if levels:
        means = {name: fmean(each[name] for each in levels) for name in VALUES}
    return {
        "ratings": len(ratings),
        "valid": len(valid),
        "problems": dict(problems.most_common(10)),
        "shares": means,
    }


def _warnings(table: Values) -> Iterator[str]:
    for scale, columns in table.items():
        for model, column in columns["models"].items():
            lost = column["ratings"] - column["valid"]
            if lost > TOO_MANY * column["ratings"]:
                yield f"{model}: {lost} of {column['ratings']} ratings under {scale} are not valid"
