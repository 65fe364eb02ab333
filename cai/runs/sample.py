"""`cai sample`: its settings, resolved and checked, and what it does with each prompt.

Binds the drawing of candidates to prompts and models; how the best of them is picked is in `choosing`. Knows no
formulas and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cai.calls.flow import Driver, Played, total_usage
from cai.calls.model import Model
from cai.engine.ask import Ask
from cai.engine.candidates import sample
from cai.engine.templates import Templates, load_templates
from cai.errors import RowDropped, UsageError
from cai.judge.flows import WAVES
from cai.models import spec_of
from cai.records import Best, Candidate, Candidates, Contest, Item, Place, Prompt, Request
from cai.runs.picking import Picker, Picking, all_of, resolve_picking
from cai.runs.players import check_ability, open_models, prices_of
from cai.runs.run import Prompts, PromptSetup, Task, check_identity, describe_prompts
from cai.runs.settings import SampleSettings
from cai.sources.files import describe, read_prompts


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
