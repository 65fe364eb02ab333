"""`cai generate`: its settings, resolved and checked, and what it does with each prompt.

Binds the method to prompts, templates and models. Knows no formulas and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cai.calls.flow import Driver, Played
from cai.calls.model import Model
from cai.constitution.principles import Constitution, draw, load_constitution
from cai.engine.ask import Ask
from cai.engine.revise import Chain, revise
from cai.engine.templates import load_templates
from cai.errors import UsageError
from cai.models import spec_of
from cai.records import Contest, Item, Place, Prompt, Request, Revision
from cai.runs.players import check_ability, open_models, prices_of
from cai.runs.run import Prompts, PromptSetup, Task, check_identity, describe_prompts
from cai.runs.settings import GenerateSettings
from cai.sources.files import describe, read_prompts


@dataclass(frozen=True)
class Generation(PromptSetup[Revision]):
    """A generate run, resolved and checked."""

    settings: GenerateSettings
    constitution: Constitution
    gate: bool

    def task(self) -> Revising:
        """Critique and revise every prompt."""
        return Revising(self)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        law, settings = self.constitution, self.settings
        names = {player: spec_of(model) for player, model in self.players.items()}
        one = len(set(names.values())) == 1
        rounds = "1 round" if settings.rounds == 1 else f"{settings.rounds} rounds"
        gate = "no revision where a critique finds nothing" if self.gate else "always revises"
        source, count = law.source or "made in Python", len(law.principles_for("revise"))
        yield f"constitution  {law.name} {law.version} ({source}), {count} principles"
        yield f"prompts       {describe_prompts(self.prompts, settings.limit)}"
        yield f"method        {rounds}, {gate}, templates {self.templates.source}, seed {settings.seed}"
        yield f"model         {names['assistant'] if one else ', '.join(f'{role} {names[role]}' for role in names)}"
        yield f"folder        {self.out}"

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through."""
        yield f"training rows in {self.out / 'sft.jsonl'}; cut them again with: cai export {folder} --split 0.9"

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.gate:
            yield "a critique that finds nothing to fix saves its revision: there may be fewer calls"

    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player, if every answer were `answer`."""
        assert isinstance(item, Prompt)
        ask = Ask(self.templates, self.constitution, system=self.settings.system, gate=self.gate)
        principles, settings = self.constitution.principles_for("revise"), self.settings
        yield "assistant", ask.respond(item)
        for principle in draw(principles, settings.rounds, settings.seed, item.id, stream="principles"):
            yield "critic", ask.critique(item, answer, principle)
            yield "reviser", ask.revise(item, answer, answer, principle)


class Revising(Task[Revision]):
    """Critique and revise."""

    rows_file = "revisions.jsonl"

    def __init__(self, setup: Generation) -> None:
        self._setup = setup
        self._ask = Ask(setup.templates, setup.constitution, system=setup.settings.system, gate=setup.gate)
        self._principles = setup.constitution.principles_for("revise")
        self._law = setup.constitution.ref

    def places(self) -> Iterator[Place]:
        """The prompts."""
        return self._setup.places()

    def texts(self, row: Revision) -> tuple[str, str]:
        """First reply and final text."""
        return row.initial, row.final

    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Revision:
        """One prompt to its row."""
        assert isinstance(item, Prompt)
        settings = self._setup.settings
        principles = draw(self._principles, settings.rounds, settings.seed, item.id, stream="principles")
        chain = revise(item, principles, self._ask, gate=self._setup.gate)
        return self._row(item, position, await drivers[0].play(item.id, position, chain))

    def _row(self, item: Prompt, position: int, played: Played[Chain]) -> Revision:
        chain = played.result
        return Revision(
            id=item.id,
            position=position,
            prompt=item.messages,
            initial=chain.initial,
            rounds=chain.rounds,
            final=chain.final,
            constitution=self._law,
            templates=self._setup.templates.hash,
            models=played.models,
            seed=self._setup.settings.seed,
            usage=played.usage,
            calls=played.calls,
        )


def resolve(prompts: Prompts, settings: GenerateSettings) -> Generation:
    """Check everything that can be checked before the first call, and say what the run will be."""
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    law = load_constitution(settings.constitution)
    templates = load_templates(settings.templates)
    Ask(templates, law).check(law.principles_for("revise"))
    if templates.completes and settings.gate:
        raise UsageError("--gate needs chat templates: a base model gives no verdict line; use --no-gate")
    critic = settings.model if settings.critic is None else settings.critic
    reviser = critic if settings.reviser is None else settings.reviser
    players = open_models(settings, {"assistant": settings.model, "critic": critic, "reviser": reviser})
    for model in players.values():
        check_ability(model, templates)
    gate = settings.gate if settings.gate is not None else not templates.completes
    identity = {
        "command": "generate",
        "source": {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field},
        "constitution": law.ref.model_dump(),
        "templates": templates.hash,
        "models": {player: spec_of(model) for player, model in players.items()},
        "rounds": settings.rounds,
        "gate": gate,
        "system": settings.system,
        "sampling": settings.sampling(),
        "seed": settings.seed,
    }
    check_identity(identity)
    seats: Mapping[Any, Model] = players
    prices = prices_of(settings, players)
    return Generation(law.name, templates, players, (seats,), prices, identity, settings, prompts, law, gate)
