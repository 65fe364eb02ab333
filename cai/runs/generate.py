"""`cai generate`: every prompt is answered, and the answer critiqued and revised under a constitution."""

from __future__ import annotations

from collections.abc import Iterator

from cai.calls.flow import Driver
from cai.constitution.principles import draw, load_constitution
from cai.engine.revise import Ask, revise
from cai.engine.templates import load_templates
from cai.errors import UsageError
from cai.models import open_models, spec_of
from cai.records import Prompt, Revision, Values
from cai.runs.prompt_run import PromptRun
from cai.runs.settings import GenerateSettings
from cai.sources.files import Source
from cai.texts.wording import counted, source_name


class GenerateRun(PromptRun[Revision]):
    """Critiques and revises a reply to every prompt."""

    command = "generate"
    settings_class = GenerateSettings

    def __init__(self, prompts: Source | None, settings: GenerateSettings) -> None:
        law = load_constitution(settings.constitution)
        templates = load_templates(settings.templates)
        self._principles = law.principles_for("revise")
        Ask(templates, law).check(self._principles)
        if templates.completes and settings.gate:
            raise UsageError("--gate needs chat templates: a base model gives no verdict line; use --no-gate")
        self.gate = not templates.completes if settings.gate is None else settings.gate
        critic = settings.model if settings.critic is None else settings.critic
        reviser = critic if settings.reviser is None else settings.reviser
        specs = {"assistant": settings.model, "critic": critic, "reviser": reviser}
        players = open_models(specs, settings.connection)
        identity = {
            "constitution": law.ref.model_dump(),
            "templates": templates.hash,
            "models": {player: spec_of(model) for player, model in players.items()},
            "rounds": settings.rounds,
            "gate": self.gate,
        }
        super().__init__(prompts, settings, law.name, templates, players, identity)
        self.constitution = law
        self._ask = Ask(templates, law, system=settings.system, gate=self.gate)

    async def play(self, drivers: list[Driver], item: Prompt, position: int) -> Revision:
        """One prompt to its row."""
        settings = self.settings
        principles = draw(self._principles, settings.rounds, settings.seed, item.id, stream="principles")
        played = await drivers[0].play(item.id, position, revise(item, principles, self._ask, gate=self.gate))
        chain = played.result
        return Revision(
            id=item.id,
            position=position,
            prompt=item.messages,
            initial=chain.initial,
            rounds=chain.rounds,
            final=chain.final,
            constitution=self.constitution.ref,
            templates=self.templates.hash,
            models=played.models,
            seed=settings.seed,
            usage=played.usage,
            calls=played.calls,
        )

    def cut_options(self) -> Values:
        """The options of the cut that this command states."""
        return {} if self.settings.sft_format is None else {"sft_format": self.settings.sft_format}

    def texts(self, row: Revision) -> tuple[str, ...]:
        """First reply, final text and the critiques."""
        return row.initial, row.final, *(turn.critique for turn in row.rounds)

    @staticmethod
    def shown(row: Revision) -> Iterator[tuple[str, str]]:
        """The texts of a row with their labels, for people to read."""
        yield "prompt", row.prompt[-1]["content"]
        yield "reply", row.initial
        for turn in row.rounds:
            yield "critique", f"({turn.principle}) {turn.critique}"
        yield "revision", row.final

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.gate:
            yield "a critique that finds nothing to fix saves its revision: there may be fewer calls"

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        settings = self.settings
        specs = {player: spec_of(model) for player, model in self.players.items()}
        is_one = len(set(specs.values())) == 1
        models = specs["assistant"] if is_one else ", ".join(f"{player} {spec}" for player, spec in specs.items())
        gate = "no revision if a critique finds nothing" if self.gate else "always revises"
        rounds = counted(settings.rounds, "round")
        return {
            "constitution": f"{self.constitution.title}, {counted(len(self._principles), 'principle')}",
            "prompts": source_name(self.source, settings.limit),
            "method": f"{rounds}, {gate}, templates {self.templates.source}, {self.seed_words()}",
            "model": models,
        }

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished."""
        yield f"training rows in {self.out / 'sft.jsonl'}; cut them again with: cai export {folder} --split 0.9"
