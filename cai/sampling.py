"""`cai sample`: its settings, resolved and checked, and what it does with each prompt.

Binds the drawing of candidates to prompts and models. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cai.ask import Ask
from cai.candidates import Sampled, sample
from cai.errors import RowDropped, UsageError
from cai.flow import Driver, Played, total_usage
from cai.job import Item, Place, PromptSetup, Task, describe_prompts
from cai.records import Candidate, Candidates, Contest, Prompt, Request
from cai.settings import (
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
from cai.sources import describe, read_prompts
from cai.templates import load_templates


@dataclass(frozen=True, kw_only=True)
class SampleSettings(PromptSettings):
    """Everything a sample run can be told.

    model: a model spec, or several for contrast. n: replies to each prompt from each model. The rest is
    `PromptSettings`.
    """

    ranges: ClassVar[Ranges] = (("n", 1, 1_000, "a whole number from 1 to 1000"),)
    kinds: ClassVar[Kinds] = {**PromptSettings.kinds, "model": (str | tuple | list, "text, or a list of texts")}

    model: str | Sequence[str] = "local"
    n: int = 2

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

    @property
    def cuts(self) -> bool:
        """Candidates are for a judge, not for training."""
        return False

    def task(self) -> Sampling:
        """Draw candidates for every prompt."""
        return Sampling(self)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        settings = self.settings
        each = " from each model" if len(self.seats) > 1 else ""
        yield f"prompts       {describe_prompts(self.prompts, settings.limit)}"
        yield f"method        {settings.n} replies{each}, temperature {settings.temperature:g}, seed {settings.seed}"
        yield f"model         {', '.join(spec_of(model) for model in self.players.values())}"
        yield f"folder        {self.out}"

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through."""
        yield f"candidates in {self.out / 'candidates.jsonl'}; judge them with: cai label {folder}"

    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player."""
        assert isinstance(item, Prompt)
        request = Ask(self.templates, None, system=self.settings.system).respond(item)
        for player in self.players:
            for _ in range(self.settings.n):
                yield player, request


class Sampling(Task[Candidates]):
    """Draw several replies."""

    rows_file = "candidates.jsonl"

    def __init__(self, setup: SampleSetup) -> None:
        self._setup = setup
        self._ask = Ask(setup.templates, None, system=setup.settings.system)

    def places(self) -> Iterator[Place]:
        """The prompts."""
        return self._setup.places()

    def texts(self, row: Candidates) -> tuple[str, str]:
        """The first and the last usable reply."""
        texts = [reply.text for reply in row.replies if reply.problem is None]
        return texts[0], texts[-1]

    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Candidates:
        """One prompt to its candidates; raises RowDropped where not one can be used."""
        assert isinstance(item, Prompt)
        settings = self._setup.settings
        played = await all_of(
            [driver.play(item.id, position, sample(item, self._ask, range(settings.n))) for driver in drivers]
        )
        replies = tuple(reply for part in played for reply in part.result.replies)
        check_usable(replies)
        return Candidates(
            id=item.id,
            position=position,
            prompt=item.messages,
            replies=replies,
            seed=settings.seed,
            usage=total_usage([part.usage for part in played]),
            calls=tuple(call for part in played for call in part.calls),
        )


async def all_of(playing: Sequence[Any]) -> list[Played[Sampled]]:
    """What several models answer; after an error the others are heard out, since what is on its way is paid for."""
    found = await asyncio.gather(*playing, return_exceptions=True)
    errors = [each for each in found if isinstance(each, BaseException)]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, RowDropped))  # first what ends the run
    return [each for each in found if isinstance(each, Played)]


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
    if not settings.specs or not all(isinstance(spec, str) for spec in settings.specs):
        raise UsageError("--model must be a model spec, or a list of them")
    twice = next((spec for spec in settings.specs if settings.specs.count(spec) > 1), None)
    if twice is not None:
        raise UsageError(f"--model {twice} is named twice: raise -n for more replies of one model")
    if settings.n > 1 and settings.temperature == 0:
        raise UsageError(
            f"-n {settings.n} at --temperature 0 gives the same reply {settings.n} times: raise it, or -n 1"
        )
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    templates = load_templates(settings.templates)
    names = ["assistant"] if len(settings.specs) == 1 else [f"assistant {i}" for i in range(1, len(settings.specs) + 1)]
    players = open_models(settings, dict(zip(names, settings.specs, strict=True)))
    named = [spec_of(model) for model in players.values()]
    if len(set(named)) < len(named):
        raise UsageError(
            f"--model {' and --model '.join(settings.specs)} name one model: raise -n for more replies of it"
        )
    for model in players.values():
        check_ability(model, templates)
    identity = {
        "command": "sample",
        "source": {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field},
        "templates": templates.hash if templates.completes else None,  # chat turns are asked as they are
        "models": named,
        "n": settings.n,
        "system": settings.system,
        "sampling": settings.sampling(),
        "seed": settings.seed,
    }
    check_identity(identity)
    seats: tuple[Mapping[Any, Any], ...] = tuple({"assistant": model} for model in players.values())
    prices = prices_of(settings, players)
    return SampleSetup("sample", templates, players, seats, prices, identity, settings, prompts)


def setup_from_options(options: Mapping[str, Any]) -> SampleSetup:
    """The run that the options of `cai sample` name."""
    given = dict(options)
    prompts = given.pop("prompts")
    given["model"] = tuple(given["model"] or ("local",))
    return resolve(prompts, settings_from_options(SampleSettings, given))


def settings_of(given: Mapping[str, Any]) -> SampleSettings:
    """The settings of a Python call."""
    return make_settings(SampleSettings, given)
