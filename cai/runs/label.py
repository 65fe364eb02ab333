"""`cai label`: a judge says of every pair of replies which one is better under a constitution."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.calls.flow import Driver, Played, total_usage
from cai.calls.model import Model
from cai.constitution.principles import load_constitution
from cai.engine.templates import load_templates
from cai.errors import RowDropped
from cai.export.options import ExportOptions
from cai.export.preferences import filters_of
from cai.folder.rows import reading
from cai.folder.run import RunFolder
from cai.judge.flows import WAVES, Verdict, belief, is_valid
from cai.models import open_models, spec_of
from cai.records import Contest, Label, Place, Request, Sampling, Usage, Vote
from cai.runs.judging import CHECKED, Choose, Judging, calibrate, check_reasons, human_labelled, loaded
from cai.runs.pairs import check_pairing, describe_source, read_pairs
from cai.runs.run import Run, Seats, described
from cai.runs.settings import LabelSettings
from cai.runs.target import Further, Target, further_of
from cai.sources.files import Source
from cai.texts.hygiene import identical

UNUSED = Usage(input_tokens=0, output_tokens=0, cached_tokens=0, cache_write_tokens=0)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply of a pair, and what it took if it was drawn for it."""

    text: str
    model: str | None
    calls: tuple[str, ...] = ()
    usage: Usage = UNUSED


class LabelRun(Run[Label]):
    """Judges pairs of replies.

    players: models that are open already; None: those that the settings name. pairs: the pairs, if they are in memory
    already; None: they are read from `source`. choose: the principles that a pair is judged under; None: drawn by
    weight. origin: what the identity says of a source that is not there yet.
    """

    command = "label"
    settings_class = LabelSettings
    unit = "pair"
    outcome = "pair judged"

    def __init__(
        self,
        source: Source,
        settings: LabelSettings,
        *,
        players: Mapping[str, Model] | None = None,
        pairs: Sequence[Place] | None = None,
        choose: Choose | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        if origin is None:
            read_pairs(source, settings.pairing)  # reads nothing yet, but looks
            check_pairing(source, settings.pairing)
        if settings.gold is not None:
            human_labelled(settings.gold, "--gold")
        law = load_constitution(settings.constitution)
        templates = load_templates(settings.templates)
        specs = {"judge": settings.judge}
        further: Further | None = None
        if settings.target is not None:
            further = further_of(source, settings, templates)
            specs["assistant"] = further.model
        players = players or open_models(specs, settings.connection)
        self.judging = Judging(players["judge"], settings, templates, law, choose)
        self.protocol, self.constitution = self.judging.protocol, law
        check_reasons(self.judging.protocol, settings)
        binding = self.judging.binding
        identity = {
            "command": "label",
            "source": describe_source(source) if origin is None else dict(origin),
            "pairing": "final" if settings.pairing == "final" else "all",  # best-worst judges all pairs, too
            "binding": binding,
            "extra_body": dict(settings.extra_body),
            "max_tokens": settings.max_tokens if self.protocol == "vote" else None,  # others only read the letter
            "seed": settings.seed,
        }
        super().__init__(source, settings, f"{law.name}-labels", templates, players, identity)
        self._pairs, self._further = pairs, further
        self.calibration = None if settings.calibration is None else loaded(settings, binding)
        self._target: Target | None = None

    @property
    def seats(self) -> tuple[Seats, ...]:
        """The judge, and the model that draws further replies."""
        players: Any = self.players  # the judge's name is its role, and so is the assistant's
        return tuple({role: model} for role, model in players.items())

    def items(self) -> Iterator[Place]:
        """The pairs, from the first, up to `limit`."""
        if self._pairs is not None:
            return iter(self._pairs)
        return itertools.islice(read_pairs(self.source, self.settings.pairing), self.settings.limit)

    @property
    def countable(self) -> bool:
        """Whether the pairs can be read twice."""
        return self._pairs is not None or (isinstance(self.source, str | Path) and Path(self.source).exists())

    def check_models(self) -> None:
        """Raise UsageError if a model lacks a required capability; some report it only after loading."""
        self.judging.check()

    def open(self, folder: RunFolder) -> None:
        """Look at the labels of an earlier session: can the judge be read, and how many pairs are kept?"""
        path = folder.path / folder.rows_file
        if self._further is not None:
            options = ExportOptions(**self.cut_options())
            self._target = Target(self.source, self.settings, self._further, filters_of(options, self.calibration))
            self._target.read(path)
        if not path.exists():
            return
        with reading(path), path.open("rb") as file:
            for line in itertools.islice(file, CHECKED):
                self.judging.watch(Label.model_validate_json(line).votes)

    async def play(self, drivers: list[Driver], item: Contest, position: int) -> Label:
        """One pair to its label; replies that are still to be sampled are asked for first."""
        a = await self._reply(drivers, item, item.a, item.a_from, item.a_model)
        b = await self._reply(drivers, item, item.b, item.b_from, item.b_model)
        if identical(a.text, b.text):  # whatever a judge said, there would be nothing to choose
            raise RowDropped("identical", "judge", f"{item.a_from} and {item.b_from} are the same")
        played = await self.judging.ask(drivers[0], item, position, a.text, b.text)
        return self._label(item, position, a, b, played)

    async def _reply(
        self, drivers: list[Driver], item: Contest, text: str | None, origin: str, model: str | None
    ) -> _Reply:
        """A reply as the source has it, or drawn now."""
        if text is not None:
            return _Reply(text, model)
        assert self._further is not None
        played = await self._further.draw(drivers[1], self.templates, item, origin)
        [reply] = played.result.replies
        if reply.problem is not None:
            raise RowDropped(reply.problem, "assistant", f"{origin} of prompt {item.prompt_id} is {reply.problem}")
        return _Reply(reply.text, reply.model, played.calls, played.usage)

    def _label(self, item: Contest, position: int, a: _Reply, b: _Reply, played: Played[Verdict]) -> Label:
        verdict = played.result
        temperature = None if self.calibration is None else self.calibration.temperature
        p = belief(verdict.z, self.protocol, temperature)
        return Label(
            id=item.id,
            position=position,
            key=item.key,
            prompt_id=item.prompt_id,
            prompt=item.messages,
            a=a.text,
            b=b.text,
            a_from=item.a_from,
            b_from=item.b_from,
            a_model=a.model,
            b_model=b.model,
            human=item.human,
            protocol=self.protocol,
            votes=verdict.votes,
            rewards=verdict.rewards,
            z=verdict.z,
            temperature=temperature,
            p_a=p,
            confidence=None if p is None else max(p, 1.0 - p),
            constitution=self.constitution.ref,
            templates=self.templates.judge_hash,
            models=played.models,
            seed=self.settings.seed,
            usage=total_usage([a.usage, b.usage, played.usage]),
            calls=(*a.calls, *b.calls, *played.calls),
        )

    def kept(self, row: Label) -> None:
        """Stops the run if the judge cannot be read; counts towards the target."""
        self.judging.watch(row.votes)
        if self._target is not None:
            self._target.add(row)

    def enough(self, position: int) -> bool:
        """Whether the target is reached by pairs that come before this one."""
        return self._target is not None and self._target.ends_before(position)

    def more(self) -> Iterator[Place] | None:
        """One further reply for every prompt that has no pair yet, against each of those before it."""
        return None if self._target is None else self._target.more()

    def sampling_of(self, seat: int) -> tuple[Sampling, int]:
        """How the models of a seat draw, and the seed of their calls: further replies continue the sample run."""
        if seat == 0 or self._further is None:
            return super().sampling_of(seat)
        return self._further.sampling, self._further.seed

    def sessions(self) -> Iterator[Run[Any]]:
        """The gold pairs, whose labels calibrate the judge; then the others."""
        if self.settings.gold is not None:
            if not self.settings.force:  # before anything is paid for: is the folder this run's?
                RunFolder(self.out, self.identity).close()
            gold = self._gold()
            yield gold
            self.spent = gold.info["cost_usd"] or 0.0
            self.calibration = calibrate(self.settings, gold.out, self.out)
        yield self

    def parts(self) -> Iterator[Run[Any]]:
        """The gold pairs, then the others."""
        if self.settings.gold is not None:
            yield self._gold()
        yield self

    def _gold(self) -> LabelRun:
        """The run that judges the gold pairs, in a folder inside this one's."""
        changes: dict[str, Any] = dict.fromkeys(("gold", "agreement", "target", "max_candidates", "model", "limit"))
        changes |= {"pairing": "all", "out": self.out / "gold"}
        gold = LabelRun(
            self.settings.gold, self.settings.model_copy(update=changes), players={"judge": self.players["judge"]}
        )
        gold.cuts = False
        return gold

    def cut_options(self) -> dict[str, Any]:
        """The options of the cut that this command states."""
        settings = self.settings
        options = {
            "min_confidence": settings.min_confidence,
            "agreement": settings.agreement,
            "calibration": self.calibration,
            "pairing": None if settings.pairing == "all" else settings.pairing,
            "target": settings.target,
        }
        return {name: value for name, value in options.items() if value is not None}

    def imagined(self, item: Contest, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for a pair, by player; of votes the first wave."""
        assert item.a is not None and item.b is not None
        if not identical(item.a, item.b):
            for request in self.judging.imagined(item, item.a, item.b):
                yield "judge", request

    @property
    def most_waves(self) -> int | None:
        """How often a pair may be asked about; None: a target decides how many pairs there are."""
        if self.settings.target is not None:
            return None
        return WAVES if self.protocol == "vote" else 1

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.protocol == "vote":
            yield "votes that are split are asked again, up to three times in all: there may be three times the calls"
        if self.settings.target is not None:
            yield "further replies for --target are not counted: how many it takes shows as pairs are judged"
        if self.settings.gold is not None:
            yield f"the pairs of {self.settings.gold} are counted, too"

    def texts(self, row: Label) -> tuple[str, str]:
        """Both replies."""
        return row.a, row.b

    @staticmethod
    def shown(row: Label) -> Iterator[tuple[str, str]]:
        """Both replies and what the judge believes, for people to read."""
        yield "prompt", row.prompt[-1]["content"]
        yield "reply a", row.a
        yield "reply b", row.b
        yield "judge", _verdict(row)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        words = f"templates {self.templates.source}, seed {self.settings.seed}"
        yield f"constitution  {self.judging.describe()}"
        yield f"pairs         {described(self.source, self.settings.limit)}"
        yield f"method        protocol {self.protocol}, both orders, {words}"
        yield f"judge         {spec_of(self.players['judge'])}"
        yield f"folder        {self.out}"

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished."""
        settings = self.settings
        if not self.cuts:
            return
        words = f"cai export {folder}"
        if settings.pairing != "all":
            words += f" --pairing {settings.pairing}"
        calibration = settings.calibration if settings.gold is None else self.out / "calibration.json"
        if calibration is not None:
            words += f" --calibration {shlex.quote(str(calibration))}"
        words += " --min-confidence 0.8" if settings.agreement is None else " --agreement 0.9"
        yield f"labels in {self.out / 'labels.jsonl'}; cut them again with: {words}"


def _verdict(row: Label) -> str:
    if row.p_a is None:
        return "no valid vote"
    better = "neither"
    if row.p_a > 0.5:
        better = "a"
    if row.p_a < 0.5:
        better = "b"
    verdict = f"{better}, confidence {row.confidence:.2f}"
    votes = [_preference(vote) for vote in row.votes if is_valid(vote)]
    if not votes:
        return verdict
    return f"{verdict} ({'; '.join(votes)})"


def _preference(vote: Vote) -> str:
    """The principle of a vote and the preference for a."""
    if vote.d is None:
        return vote.principle
    return f"{vote.principle} {vote.d:+.2f}"
