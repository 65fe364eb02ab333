"""`cai label`: a judge says of every pair of replies which one is better under a constitution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cai.calls.feed import Feed
from cai.calls.flow import Driver
from cai.calls.model import Call, Model, spec_of
from cai.calls.prices import total_usage
from cai.calls.seats import Played
from cai.constitution.files import load_constitution
from cai.engine.asked import unshipped_words
from cai.engine.readability import CHECKED
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped
from cai.export.options import ExportOptions, filters_of
from cai.export.pairings import PAIRINGS
from cai.folder.run import RunFolder
from cai.judge.flows import belief
from cai.models import open_models
from cai.records import Contest, Label, Object, Place, Values
from cai.runs.kind import Seats
from cai.runs.kinds.calibration import (
    VOTES,
    calibrate,
    check_agreement,
    check_human_labels,
    check_reasons,
    drawn_pairs,
    next_steps,
    read_calibration,
)
from cai.runs.kinds.judging import Choose, Judging, verdict_in_words
from cai.runs.kinds.pairs import describe_source, models_of, read_pairs
from cai.runs.kinds.pairs_of_row import lasting_names, later_reply
from cai.runs.kinds.settings import ALONE, LabelSettings
from cai.runs.kinds.target import Target
from cai.runs.run import Run
from cai.sources.files import Source
from cai.texts.likeness import identical
from cai.texts.wording import source_name


class LabelRun(Run[Label]):
    """Judges pairs of replies.

    players: models that are open already; None: those that the settings name. pairs: the pairs, if they are in memory
    already; None: they are read from `source`. choose: the principles that a pair is judged under; None: drawn by
    weight. origin: what the identity says of a source that is not there yet. models: how many wrote its replies.
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
        origin: str | Object | None = None,
        models: int = 1,
    ) -> None:
        check_agreement(settings, source)
        if origin is None:
            read_pairs(source, settings.pairing)  # reads nothing yet, but looks
            origin = describe_source(source, settings.pairing)
            models = models_of(source)
        if settings.gold is not None:
            self._people = check_human_labels(settings.gold, "--gold")
        law = load_constitution(settings.constitution)
        templates = load_templates(settings.templates)
        specs = {"judge": settings.judge}
        self.bounded = settings.target is None
        self._target: Target | None = None
        if settings.target is not None:
            self._target = Target(source, settings, templates)
            specs["assistant"] = self._target.model
        players = players or open_models(specs, settings.connection)
        self.judging = Judging(players["judge"], settings, templates, law, choose)
        self.judging.drawn_as = lasting_names(origin, models)
        self.drawn_as = {**self.drawn_as, "judge": self.judging.drawn_as}
        self.protocol, self.constitution = self.judging.protocol, law
        self._law = law.ref  # hashing it for each row takes 0.06 ms
        check_reasons(self.protocol, settings)
        identity = {
            "command": "label",
            "source": origin,
            "pairing": "all" if settings.pairing == "best-worst" else settings.pairing,  # which judges all pairs, too
            "binding": self.judging.binding,
            "extra_body": dict(settings.extra_body),
            # Of other answers than votes only the letter is read.
            "max_tokens": settings.max_tokens if self.protocol == "vote" else None,
            "seed": settings.seed,
        }
        self._pairs = pairs
        self.keeps_missing = pairs is not None
        self.replaces = settings.pairing == "final"  # which another round writes
        # Which further replies are drawn depends on what is kept: those of before are looked at anew.
        self.is_replanned = self._target is not None
        super().__init__(source, settings, f"{law.name}-labels", templates, players, identity)
        self.asked = unshipped_words(law, templates)
        self.asked_first = self.judging.readable.first
        self.total = None if pairs is None else len(pairs)
        self.calibration = None if settings.calibration is None else read_calibration(settings, self.judging.binding)

    def seats(self) -> list[Seats]:
        """The judge, and the model that draws further replies, which continue those of the sample run."""
        seats: list[Seats] = [({"judge": "judge"}, self.settings.sampling, self.settings.seed)]
        if self._target is not None:
            seats.append(({"assistant": "assistant"}, self._target.sampling, self._target.seed))
        return seats

    def everything(self) -> Iterator[Place]:
        """All pairs with their positions, from the first."""
        if self._pairs is not None:
            return iter(self._pairs)
        return self.again(lambda: read_pairs(self.source, self.settings.pairing))

    def items(self) -> Iterator[Place]:
        """The pairs, from the first, up to `limit`."""
        limit = None if self._pairs is not None else self.settings.limit
        return itertools.islice(self.everything(), limit)

    def is_besides(self, position: int, there: Object) -> bool:
        """Whether a pair has a reply that was drawn for the target."""
        return self._target is not None and later_reply(position) >= there["source"]["n"]

    def check_models(self) -> None:
        """Raise UsageError if a model lacks a required capability; some report it only after loading."""
        self.judging.check()

    def twins(self, info: Object) -> Callable[[Call], Iterable[Call]]:
        """What finds the questions of a judge that had another number when fewer principles were drawn."""
        counts = {*info.get("principles_before", []), info["identity"]["binding"]["principles"]}
        counts.discard(self.judging.binding["principles"])
        return partial(self.judging.asked_before, counts=sorted(counts))

    async def begin(self, folder: RunFolder) -> list[Driver]:
        """Look at the labels of an earlier session, too: can the judge be read, and how many pairs are kept?"""
        drivers = await super().begin(folder)
        await self.judging.prepare()
        if self._target is not None:
            filters = filters_of(ExportOptions(**self.cut_options()), self.calibration)
            self._target.read(folder.path / folder.rows_file, filters, folder.is_finished)
        for row in folder.first_rows(CHECKED):
            self.judging.readable.watch(row.votes)
        return drivers

    async def play(self, drivers: list[Driver], item: Contest, position: int) -> Label:
        """One pair to its label; replies that are still to be sampled are asked for first."""
        drawn: list[Played[Any]] = []
        if self._target is not None:
            item, drawn = await self._target.complete(drivers[1], item)
        assert item.a is not None and item.b is not None
        if identical(item.a, item.b):  # whatever a judge said, there would be nothing to choose
            calls = tuple(call for part in drawn for call in part.calls)
            raise RowDropped("identical", "judge", f"{item.a_from} and {item.b_from} are the same", calls)
        played = await self.judging.ask(drivers[0], item, position)
        verdict = played.result
        temperature = None if self.calibration is None else self.calibration.temperature
        p = belief(verdict.z, self.protocol, temperature)
        return Label(
            id=item.id,
            position=position,
            key=item.key,
            prompt_id=item.prompt_id,
            prompt=item.messages,
            a=item.a,
            b=item.b,
            a_from=item.a_from,
            b_from=item.b_from,
            a_model=item.a_model,
            b_model=item.b_model,
            human=item.human,
            protocol=self.protocol,
            votes=verdict.votes,
            rewards=verdict.rewards,
            z=verdict.z,
            temperature=temperature,
            p_a=p,
            confidence=None if p is None else max(p, 1.0 - p),
            constitution=self._law,
            templates=self.templates.judge_hash,
            models=played.models,
            seed=self.settings.seed,
            usage=total_usage([each.usage for each in (*drawn, played)]),
            calls=tuple(call for each in (*drawn, played) for call in each.calls),
        )

    def kept(self, row: Label) -> None:
        """Stops the run if the judge cannot be read; counts towards the target."""
        self.judging.readable.watch(row.votes)
        if self._target is not None:
            self._target.add(row)

    def enough(self, position: int) -> bool:
        """Whether the target is reached by pairs that come before this one."""
        return self._target is not None and self._target.ends_before(position)

    def more(self) -> Feed[Place] | None:
        """One further reply for every prompt that has no pair yet, against each of those before it."""
        return None if self._target is None else self._target.more()

    def sessions(self) -> Iterator[Run[Any]]:
        """The gold pairs, whose labels calibrate the judge; then the others."""
        if self.settings.gold is not None:
            if not self.settings.force and self.out.exists():  # before anything is paid for: is the folder this run's?
                RunFolder(self.out, self.identity).close()
            gold = self._gold()
            gold.sharing, self.sharing = [self.out], [gold.out]
            gold.be_part_of(self.out, self.command_line)
            yield gold
            self.calibration = calibrate(self.settings, gold.out, self.out)
        yield self

    def parts(self) -> Iterator[Run[Any]]:
        """The gold pairs, then the others."""
        if self.settings.gold is not None:
            yield self._gold()
        yield self

    def _gold(self) -> LabelRun:
        """The run that judges the gold pairs, in a folder inside this one's."""
        changes: Values = dict.fromkeys(("gold", "agreement", "target", "max_candidates", "model", "limit"))
        changes |= {"pairing": "all", "out": self.out / "gold", "min_confidence": 0.5, **ALONE}  # labels are not cut
        source = self.settings.gold
        pairs = origin = None
        if self._people.lines:  # the file grows: pairs keep their places, and are judged once they have been drawn
            origin = VOTES
            pairs = drawn_pairs(source, self._people)
        gold = LabelRun(
            source,
            self.settings.model_copy(update=changes),
            players={"judge": self.players["judge"]},
            pairs=pairs,
            origin=origin,
        )
        gold.cuts = False
        return gold

    def cut_options(self) -> Values:
        """The options of the cut that this command states."""
        settings = self.settings
        options = {
            "min_confidence": settings.min_confidence,
            "agreement": settings.agreement,
            "calibration": self.calibration,
            "target": settings.target,
        }
        if settings.pairing in PAIRINGS:
            options["pairing"] = settings.pairing
        return {name: value for name, value in options.items() if value is not None}

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
        yield "judge", verdict_in_words(row)

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        words = f"templates {self.templates.source}, {self.seed_words()}"
        count = len(self.judging.principles)
        drawn = f"all {count}" if self.judging.all else f"{self.settings.principles} of {count}"
        return {
            "constitution": f"{self.constitution.title}, {drawn} principles a pair",
            "pairs": source_name(self.source, self.settings.limit),
            "method": f"protocol {self.protocol}, both orders, {words}",
            "judge": spec_of(self.judging.model),
        }

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished."""
        if self.cuts:
            yield from next_steps(self.settings, self.out, folder)
