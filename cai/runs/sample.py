"""`cai sample`: its settings, resolved and checked, and what it does with each prompt.

Binds the drawing of candidates to prompts and models; how the best of them is picked is in `choosing`. Knows no
formulas and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from cai.calls.flow import Driver, Played, total_usage
from cai.calls.model import Model
from cai.constitution.principles import Constitution
from cai.engine.ask import Ask
from cai.engine.candidates import sample
from cai.engine.templates import Templates, load_templates
from cai.errors import RowDropped, UsageError
from cai.judge.flows import WAVES
from cai.records import Best, Candidate, Candidates, Contest, Item, Place, Prompt, Request
from cai.runs.picking import Picker, Picking, all_of, resolve_picking
from cai.runs.run import PromptSetup, Task, describe_prompts
from cai.runs.settings import (
    Kinds,
    Prompts,
    PromptSettings,
    Ranges,
    check_ability,
    check_identity,
    make_settings,
    open_models,
    prices_of,
    settings_from_options,
    spec_of,
)
from cai.sources.files import describe, read_prompts


@dataclass(frozen=True, kw_only=True)
class SampleSettings(PromptSettings):
    """Everything a sample run can be told.

    model: a model spec, or several for contrast. n: replies to each prompt from each model; None: 2, or best_of.
    best_of: as n, and a judge picks the best of them, which needs `judge`, a model spec or `reward:PATH`.
    constitution: that it judges under; None: harmless. protocol: logprob, score, vote or reward; None: the best that
    the judge can do. principles: how many a pair is judged under; None: 3. The rest is `PromptSettings`.
    """

    ranges: ClassVar[Ranges] = (
        ("n", 1, 1_000, "a whole number from 1 to 1000"),
        ("best_of", 2, 1_000, "a whole number from 2 to 1000"),
        ("principles", 1, 1_000, "a whole number from 1 to 1000"),
    )
    kinds: ClassVar[Kinds] = {
        **PromptSettings.kinds,
        "model": (str | tuple | list, "text, or a list of texts"),
        **dict.fromkeys(("judge", "protocol"), (str | None, "text")),
        "constitution": (str | Path | Constitution | None, "text, a path, or a constitution"),
    }
    optional = PromptSettings.optional | {"n", "best_of", "principles"}

    model: str | Sequence[str] = "local"
    n: int | None = None
    best_of: int | None = None
    judge: str | None = None
    constitution: str | Path | Constitution | None = None
    protocol: str | None = None
    principles: int | None = None

    def check(self) -> None:
        """Raises UsageError for a value out of its range, and for settings that cannot go together."""
        super().check()
        if not self.specs or not all(isinstance(spec, str) for spec in self.specs):
            raise UsageError("--model must be a model spec, or a list of them")
        twice = next((spec for spec in self.specs if self.specs.count(spec) > 1), None)
        if twice is not None:
            raise UsageError(f"--model {twice} is named twice: raise -n for more replies of one model")
        if self.each > 1 and self.temperature == 0:
            said = "--best-of" if self.best_of is not None else "-n"
            hint = "raise it" if self.best_of is not None else "raise it, or -n 1"
            raise UsageError(f"{said} {self.each} at --temperature 0 gives the same reply {self.each} times: {hint}")
        self._check_judge()

    def _check_judge(self) -> None:
        if self.best_of is None:
            for name in ("judge", "constitution", "protocol", "principles"):
                if getattr(self, name) is not None:
                    raise UsageError(f"--{name} is for picking the best of several replies: name --best-of N, too")
        elif self.n is not None:
            raise UsageError("-n and --best-of both say how many replies are drawn: name one of them")
        elif self.judge is None:
            raise UsageError("--best-of needs who picks the best: --judge SPEC, such as openai:NAME or reward:PATH")

    @property
    def each(self) -> int:
        """Replies to each prompt from each model."""
        return self.best_of or self.n or 2

    @property
    def specs(self) -> tuple[str, ...]:
        """The model specs, in the order given."""
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)

    def changeable(self) -> dict[str, Any]:
        """What may change when a run goes on, and the specs, from which further replies can be drawn."""
        return super().changeable() | {"model": list(self.specs)}


@dataclass(frozen=True)
class SampleSetup(PromptSetup[Candidates]):
    """A sample run, resolved and checked."""

    settings: SampleSettings
    picking: Picking | None = None  # None: nobody picks the best

    @property
    def cuts(self) -> bool:
        """Candidates are for a judge, and the best of them for training."""
        return self.picking is not None

    @property
    def assistants(self) -> dict[str, Model]:
        """The models that reply."""
        return {player: model for player, model in self.players.items() if player != "judge"}

    def picker(self) -> Picker | None:
        """Who picks the best in one session; None: nobody."""
        if self.picking is None:
            return None
        return Picker(self.picking, self.players["judge"], self.settings.seed)

    def check_models(self) -> None:
        """Raises UsageError where a model cannot do what it is for."""
        for model in self.assistants.values():
            check_ability(model, self.templates)
        if self.picking is not None:
            self.picking.check(self.players["judge"])

    def task(self) -> Sampling:
        """Draw candidates for every prompt."""
        return Sampling(self)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        settings = self.settings
        each = " from each model" if len(self.assistants) > 1 else ""
        yield f"prompts       {describe_prompts(self.prompts, settings.limit)}"
        yield f"method        {settings.each} replies{each}, temperature {settings.temperature:g}, seed {settings.seed}"
        yield f"model         {', '.join(spec_of(model) for model in self.assistants.values())}"
        if self.picking is not None:
            yield f"judge         {spec_of(self.players['judge'])}: {self.picking.describe()}"
        yield f"folder        {self.out}"

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through."""
        if self.picking is None:
            yield f"candidates in {self.out / 'candidates.jsonl'}; judge them with: cai label {folder}"
        else:
            yield f"the best replies in {self.out / 'sft.jsonl'}; train on them with: cai train sft {folder}"

    @property
    def most_times(self) -> int | None:
        """How often the judge may be asked what a plan counts once."""
        return WAVES if self.picking is not None and self.picking.protocol == "vote" else 1

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.picking is not None:
            yield self.picking.note(self.settings.each * len(self.assistants))

    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player."""
        assert isinstance(item, Prompt)
        request = Ask(self.templates, None, system=self.settings.system).respond(item)
        for player in self.assistants:
            for _ in range(self.settings.each):
                yield player, request
        if self._picker is not None:
            for request in self._picker.imagined(item, answer, self.settings.each * len(self.assistants)):
                yield "judge", request

    @cached_property
    def _picker(self) -> Picker | None:
        return self.picker()


class Sampling(Task[Candidates]):
    """Draw several replies."""

    rows_file = "candidates.jsonl"

    def __init__(self, setup: SampleSetup) -> None:
        self._setup = setup
        self._ask = Ask(setup.templates, None, system=setup.settings.system)
        self._picker = setup.picker()

    def places(self) -> Iterator[Place]:
        """The prompts."""
        return self._setup.places()

    def texts(self, row: Candidates) -> tuple[str, str]:
        """The first and the last usable reply."""
        texts = [reply.text for reply in row.replies if reply.problem is None]
        return texts[0], texts[-1]

    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Candidates:
        """One prompt to its candidates; raises RowDropped where none can be used, or the judge cannot tell the best."""
        assert isinstance(item, Prompt)
        settings = self._setup.settings
        assistants = drivers[: len(self._setup.assistants)]
        sampled = await all_of(
            driver.play(item.id, position, sample(item, self._ask, range(settings.each))) for driver in assistants
        )
        replies = tuple(reply for part in sampled for reply in part.result.replies)
        check_usable(replies)
        played: list[Played[Any]] = [*sampled]
        best: Best | None = None
        if self._picker is not None:
            best, judged = await self._picker.pick(drivers[-1], item, position, replies)
            played += judged
        return Candidates(
            id=item.id,
            position=position,
            prompt=item.messages,
            replies=replies,
            best=best,
            seed=settings.seed,
            usage=total_usage([part.usage for part in played]),
            calls=tuple(call for part in played for call in part.calls),
        )


def check_usable(replies: Sequence[Candidate]) -> None:
    """Raises RowDropped where no reply can be used, with the problem of the first."""
    if all(reply.problem is not None for reply in replies):
        reason = replies[0].problem
        assert reason is not None
        hint = "; raise --max-tokens" if reason == "truncated" else ""
        raise RowDropped(reason, "assistant", f"none of {len(replies)} replies can be used{hint}")


def resolve(prompts: Prompts, settings: SampleSettings) -> SampleSetup:
    """Check everything that can be checked before the first call, and say what the run will be."""
    settings.check()
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    templates = load_templates(settings.templates)
    names = ["assistant"] if len(settings.specs) == 1 else [f"assistant {i}" for i in range(1, len(settings.specs) + 1)]
    specs = dict(zip(names, settings.specs, strict=True))
    players = open_models(settings, specs if settings.judge is None else specs | {"judge": settings.judge})
    assistants = [players[name] for name in names]
    named = [spec_of(model) for model in assistants]
    if len(set(named)) < len(named):
        raise UsageError(
            f"--model {' and --model '.join(settings.specs)} name one model: raise -n for more replies of it"
        )
    for model in assistants:
        check_ability(model, templates)
    picking = _picking(settings, players, templates)
    identity = {
        "command": "sample",
        "source": {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field},
        "templates": templates.hash if templates.completes else None,  # chat turns are asked as they are
        "models": named,
        "n": settings.each,
        "system": settings.system,
        "sampling": settings.sampling(),
        "seed": settings.seed,
    }
    seats: tuple[Mapping[Any, Any], ...] = tuple({"assistant": model} for model in assistants)
    if picking is not None:
        identity["best_of"] = picking.identity(players["judge"])
        seats += ({"judge": players["judge"]},)
    check_identity(identity)
    prices = prices_of(settings, players)
    return SampleSetup("sample", templates, players, seats, prices, identity, settings, prompts, picking)


def _picking(settings: SampleSettings, players: Mapping[str, Model], templates: Templates) -> Picking | None:
    if settings.best_of is None:
        return None
    return resolve_picking(
        players["judge"],
        templates,
        settings.each * len(settings.specs),
        protocol=settings.protocol,
        constitution=settings.constitution,
        principles=settings.principles,
    )


def setup_from_options(options: Mapping[str, Any]) -> SampleSetup:
    """The run that the options of `cai sample` name."""
    given = dict(options)
    prompts = given.pop("prompts")
    given["model"] = tuple(given["model"] or ("local",))
    return resolve(prompts, settings_from_options(SampleSettings, given))


def settings_of(given: Mapping[str, Any]) -> SampleSettings:
    """The settings of a Python call."""
    return make_settings(SampleSettings, given)
