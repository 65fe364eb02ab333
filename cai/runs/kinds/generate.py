"""`cai generate`: every prompt is answered, and the answer critiqued and revised under a constitution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cai.calls.flow import Driver
from cai.calls.model import check_ability, check_temperature, spec_of
from cai.calls.protocols import choose_protocol
from cai.constitution.draw import draw
from cai.constitution.files import load_constitution
from cai.engine.asked import unshipped_words
from cai.engine.distill import distill, teacher_of
from cai.engine.gate import SAID, YES, Gate, YesNo, question_of
from cai.engine.readability import CHECKED
from cai.engine.revise import Ask, revise
from cai.engine.screen import BASELINE, MOST_IN_WORDS, SCREEN, AskScreen, Screen, baseline
from cai.engine.templates.sets import Templates, load_templates
from cai.errors import RunError, UsageError
from cai.folder.info import ANEW, find_info
from cai.folder.run import RunFolder
from cai.models import open_models
from cai.records import Prompt, Revision, Role, Values
from cai.runs.kind import Seats
from cai.runs.kinds.acceptance import Accepting
from cai.runs.kinds.prompt_run import PromptRun
from cai.runs.kinds.settings import GATE, GenerateSettings, with_defaults
from cai.runs.run import Run
from cai.sources.files import Source
from cai.texts.wording import counted, source_name


class GenerateRun(PromptRun[Revision]):
    """Critiques and revises a reply to every prompt."""

    command = "generate"
    settings_class = GenerateSettings

    def __init__(self, prompts: Source | None, settings: GenerateSettings) -> None:
        settings = with_defaults(settings)
        law = load_constitution(settings.constitution)
        templates = load_templates(settings.templates)
        self._ask = Ask(templates, law, system=settings.system)
        self._teacher: Ask | None = None
        self.gate: float | None = None
        if settings.distill:
            self._principles = law.principles
            self._teacher = teacher_of(templates, law, settings.system)
        else:
            self._principles = law.principles_for("revise")
            self._ask.check(self._principles)
            self.gate = threshold_of(settings.gate, templates)
        self._gate_question = question_of(law, templates, self.gate)
        players = open_models(settings.specs, settings.connection)
        self._acceptance: Accepting | None = None
        if settings.accept is not None:
            self._acceptance = Accepting(players["accept"], settings, templates, law)
        identity = {
            "constitution": law.ref.model_dump(),
            "templates": _hash_of(templates, settings, self.gate),
            "models": {player: spec_of(model) for player, model in players.items()},
            "rounds": settings.rounds,
            "gate": False if self.gate is None else self.gate,
        }
        if settings.distill:
            identity |= {"distill": True, "rounds": 1}
        if self._gate_question is not None:
            identity["gate_question"] = self._gate_question
        self._screen: Screen | None = None
        if settings.draw == "screen":
            least = SCREEN
            if settings.screen_at is not None:
                least = settings.screen_at
            self._screen = Screen(AskScreen(templates, law), self._principles, least, settings.seed)
            self._screen.ask.check(self._principles)
            identity["screen"] = {**self._screen.ask.identity, "at": least}
        if self._acceptance is not None:
            identity["accept"] = self._acceptance.identity
        super().__init__(prompts, settings, law.name, templates, players, identity)
        self.constitution = law
        self._law = law.ref  # hashing it for each row takes 0.06 ms
        self.asked = unshipped_words(law, templates)
        if self._acceptance is not None:
            self.asked_first = self._acceptance.judging.readable.first

    def seats(self) -> list[Seats]:
        """The players have the roles of their names, the critic also answers for the gate, and who accepts judges."""
        roles: dict[Role, str] = {"assistant": "assistant", "reviser": "reviser"}
        if self._teacher is None:
            roles["critic"] = "critic"
        if self.gate is not None:
            roles["gate"] = "critic"
        if self._screen is not None:
            roles["screen"] = "critic"
        if self._acceptance is not None:
            roles["judge"] = "accept"
        return [(roles, self.settings.sampling, self.settings.seed)]

    def check_models(self) -> None:
        """Raise UsageError also if the judge cannot be asked, or the gate would let every reply pass."""
        for player, model in self.players.items():
            if player != "accept":
                check_ability(model, completes=self.templates.completes)
                check_temperature(model, self.settings.sampling)
        self._ask.begins_replies = self.players["reviser"].can.prefill
        if self._acceptance is not None:
            self._acceptance.check()
        gate = self._asked_gate
        if gate is not None and gate.protocol == "vote":
            self._check_words("--gate", gate.threshold, SAID[YES])
        if self._screen is not None and self._yes_no("screen").protocol == "vote":
            self._check_words("--screen-at", self._screen.least, MOST_IN_WORDS)

    def _check_words(self, option: str, threshold: float, most: float) -> None:
        """Raise UsageError for a threshold that no critic who answers in words can reach."""
        if threshold > most:
            name, least = spec_of(self.players["critic"]), math.floor(100 * most) / 100
            raise UsageError(
                f"{option} {threshold:g}: {name} gives no probabilities, and its words count as {least:g} at "
                f"most, so that no reply would be revised: name {least:g} or less"
            )

    async def prepare(self, drivers: list[Driver]) -> None:
        """Ask what the screen makes of ordinary replies."""
        if self._screen is not None:
            self.tally.waiting = "screening ordinary replies"
            flow = baseline(self._screen.ask, self._principles, self._yes_no("screen"))
            self._screen.baseline = (await drivers[0].play(BASELINE, 0, flow)).result

    def _yes_no(self, name: str) -> YesNo:
        """How the critic, of whom some know only once they are loaded what they can do, answers with Yes or No."""
        critic = self.players["critic"]
        can_begin = critic.can.prefill or self.templates.completes
        in_words = replace(critic.can, decides=False)  # it is asked in its conversation, which others of it share
        return YesNo(choose_protocol(None, in_words, spec_of(critic)), self.templates.prefix[name] if can_begin else "")

    @property
    def _asked_gate(self) -> Gate | None:
        """The gate as it is put to the critic."""
        if self.gate is None:
            return None
        how = self._yes_no("gate")
        return Gate(self.gate, how.protocol, how.prefix)

    def sessions(self) -> Iterator[Run[Any]]:
        """This run; raises RunError for a folder of version 0.1.0 whose critiques gave the verdict of the gate."""
        stored = find_info(self.out, ANEW)
        if stored is not None and stored["identity"].get("gate") is True and not self.settings.force:
            raise RunError(
                f"{self.out} is a run of version 0.1.0 with the gate, which cannot be resumed: its critiques gave the "
                f"verdict. Cut the rows that it has with cai export {self.out}, and start anew with --out NEW"
            )
        yield self

    async def begin(self, folder: RunFolder) -> list[Driver]:
        """Look at the judge's votes of an earlier session, too: can they be read?"""
        drivers = await super().begin(folder)
        if self._acceptance is not None:
            await self._acceptance.judging.prepare()
            for row in folder.first_rows(CHECKED):
                self._acceptance.watch(row)
        return drivers

    def kept(self, row: Revision) -> None:
        """Stops the run if the judge who accepts revisions cannot be read."""
        if self._acceptance is not None:
            self._acceptance.watch(row)

    async def play(self, drivers: list[Driver], item: Prompt, position: int) -> Revision:
        """One prompt to its row."""
        settings = self.settings
        principles = draw(self._principles, settings.rounds, settings.seed, item.id, stream="principles")
        acceptance = self._acceptance
        accept = None
        if acceptance is not None:
            accept = acceptance.ask
        if self._teacher is not None:
            flow = distill(item, self._ask, self._teacher)
        else:
            flow = revise(item, principles, self._ask, gate=self._asked_gate, screen=self._screen, accept=accept)
        if acceptance is None:
            played = await drivers[0].play(item.id, position, flow)
        else:
            played = await acceptance.play(drivers[0], item, position, flow)
        chain = played.result
        more: Values = {}
        if self._screen is not None:
            more["screens"] = chain.screens
        if chain.reasoning is not None:
            more["reasoning"] = chain.reasoning
        if chain.problem is not None:
            more["problem"] = chain.problem
        return Revision(
            id=item.id,
            position=position,
            prompt=item.messages,
            initial=chain.initial,
            rounds=chain.rounds,
            final=chain.final,
            constitution=self._law,
            templates=self.identity["templates"],
            models=played.models,
            seed=settings.seed,
            usage=played.usage,
            calls=played.calls,
            **more,
        )

    def cut_options(self) -> Values:
        """The options of the cut that this command states."""
        stated = self.settings.model_dump(include={"sft_format", "sft_reasoning"})
        return {name: value for name, value in stated.items() if value is not None}

    def texts(self, row: Revision) -> tuple[str, ...]:
        """First reply, final text and the critiques."""
        return row.initial, row.final, *(turn.critique for turn in row.rounds)

    @staticmethod
    def shown(row: Revision) -> Iterator[tuple[str, str]]:
        """The texts of a row with their labels, for people to read."""
        yield "prompt", row.prompt[-1]["content"]
        yield "reply", row.initial
        for turn in row.rounds:
            if turn.critique:
                yield "critique", f"({turn.principle}) {turn.critique}"
        yield "revision", row.final

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.gate is not None:
            yield "a reply that the gate finds fine saves its revision: there may be fewer calls"
        if self._screen is not None:
            yield "every round is counted as one that is needed: a reply that goes against no principle saves it"
        if self._acceptance is not None:
            yield "a judge compares every revision with the reply before it, in both orders, under two principles"

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        settings = self.settings
        specs = {player: spec_of(model) for player, model in self.players.items()}
        is_one = len(set(specs.values())) == 1
        if self._teacher is not None:
            specs = {"student": specs["assistant"], "teacher": specs["reviser"]}
        models = (
            next(iter(specs.values())) if is_one else ", ".join(f"{player} {spec}" for player, spec in specs.items())
        )
        gate = "always revises"
        if self.gate is not None:
            asked = "the reply needs a change" if self._gate_question is None else "the answer to its gate is Yes"
            gate = f"revises if {asked} with p ≥ {self.gate:g}"
        elif settings.gate is None and not self.templates.completes:
            gate += " (the template set has no gate.jinja)"
        rounds = counted(settings.rounds, "round")
        screened = accepted = ""
        if self._screen is not None:
            screened = f"under a principle that the reply goes against with p ≥ {self._screen.least:g}, "
        if self._acceptance is not None:
            judging = f"{self._acceptance.judging.protocol}, both orders"
            accepted = f"a revision is kept if the judge prefers it with p > {self._acceptance.least:g} ({judging}), "
        method = f"{rounds}, {screened}{gate}, {accepted}"
        if self._teacher is not None:
            method = "answers without and with the constitution in the system text, "
        return {
            "constitution": f"{self.constitution.title}, {counted(len(self._principles), 'principle')}",
            "prompts": source_name(self.source, settings.limit),
            "method": f"{method}templates {self.templates.source}, {self.seed_words()}",
            "model": models,
        }

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished."""
        yield f"training rows in {self.out / 'sft.jsonl'}; cut them again with: cai export {folder} --split 0.9"


def _hash_of(templates: Templates, settings: GenerateSettings, gate: float | None) -> str:
    """The hash of the templates that a run asks by."""
    if settings.distill:
        return templates.teach_hash
    return templates.ungated_hash if gate is None else templates.hash


def threshold_of(gate: float | bool | None, templates: Templates) -> float | None:
    """The threshold of the gate, as it is set or by default; None: it is off.

    Raises UsageError if it was asked for and the template set has no question for it.
    """
    has_gate = "gate" in templates.by_name
    if not has_gate and gate is not None and gate is not False:
        raise UsageError(f"--gate: the template set {templates.source} has no gate.jinja; add one, or use --no-gate")
    if gate is False or not has_gate:
        return None
    return GATE if gate is None or gate is True else float(gate)
