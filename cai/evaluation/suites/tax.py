"""The price of alignment: what a model has lost against BASE in language, knowledge and obedience.

A probe in our own words (`probes/`), of which only differences mean something: bits per byte of prose, choices by
likelihood, and instructions whose results can be checked.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import orjson

from cai.calls.model import Model
from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Contestant, Line, Result, line_of
from cai.evaluation.arena.probe import ProbeRun, numbered, probe, read_probed
from cai.evaluation.arena.suite import Suite
from cai.evaluation.statistics.estimates import mean_of
from cai.evaluation.statistics.likelihood import bits, ratio
from cai.evaluation.statistics.paired import difference, mcnemar
from cai.evaluation.statistics.winrate import POWER
from cai.evaluation.suites.harness import Tasks
from cai.evaluation.suites.instructions import follows
from cai.folder.lines import read_drops
from cai.models import open_models
from cai.records import Candidate, Object, Probe, Values
from cai.runs.kinds.sample import SampleRun
from cai.runs.run import Run
from cai.runs.settings import RunSettings
from cai.sources.files import folder
from cai.texts.wording import counted

PROBE = "probe"
INSTRUCTIONS = "instructions"
LONGEST = 256  # tokens of a reply to an instruction; each can be followed in fewer
UNMEASURED = (
    "content_filter",
    "model_error",
    "bad_input",
    "too_long",
)  # of a reply: they say nothing of what the model can do
CHANGING = 0.1  # share of the items on which two models differ, for the smallest difference that can be shown
PARTS = ("arithmetic", "facts", "reading", INSTRUCTIONS)
Outcomes = dict[str, dict[str, float]]  # by the name of a contestant and item: 1 for right, 0 for wrong


class Tax(Suite):
    """The price of alignment."""

    name = "tax"
    title = "Price of alignment"
    counted = True

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.base = arena.contestants[0].name
        self.tasks = Tasks(arena, self.models)

    @cached_property
    def models(self) -> list[Model]:
        """The contestants as models, which are not started."""
        specs = {str(number): spec for number, spec in enumerate(self.arena.specs)}
        return list(open_models(specs, self.arena.settings.connection).values())

    @property
    def scorers(self) -> list[Contestant]:
        """Those that say how probable texts are."""
        contestants = self.arena.contestants
        return [each for each, model in zip(contestants, self.models, strict=True) if model.can.scoring]

    def sessions(self) -> Iterator[Run[Any]]:
        """The probe, scored by the models that can, and the instructions, followed by all; then the tasks."""
        yield from self.planned()
        self.tasks.measure()

    def planned(self) -> Iterator[Run[Any]]:
        """Its runs; what lm-eval does is none."""
        if self.scorers:
            settings = self.arena.settings_of(RunSettings, PROBE, limit=None)
            yield ProbeRun(numbered(probes()), [each.spec for each in self.scorers], settings)
        yield self._instructions()

    def _instructions(self) -> SampleRun:
        settings = self.arena.settings
        drawn: Values = {"n": 1, "limit": None, "format": None, "prompt_field": None}
        if all(model.can.temperature is not None for model in self.models):
            drawn["temperature"] = 0.0  # the same reply in every evaluation
        drawn["max_tokens"] = min(settings.max_tokens, LONGEST)
        return self.arena.sample(folder("probes") / "instructions.jsonl", INSTRUCTIONS, **drawn)

    # What came out

    def result(self) -> Result:
        """Bits per byte, and the accuracy of each part and of all, each with its difference to BASE."""
        texts, outcomes = self._scored()
        outcomes[INSTRUCTIONS] = self._followed()
        figures = {part: outcomes.get(part, {}) for part in PARTS}
        figures["accuracy"] = _together(outcomes.values())
        figures |= self.tasks.outcomes()
        lines = list(self._bits(texts))
        changes: dict[str, Values] = {}
        for part, items in figures.items():
            for contestant in self.arena.contestants:
                line, counts = self._accuracy(part, contestant.name, items)
                lines.append(line)
                changes.setdefault(part, {})[contestant.name] = counts
        return Result(
            suite=self.name,
            title=self.title,
            facts=(*self._facts(outcomes), *self.tasks.facts()),
            lines=tuple(lines),
            warnings=tuple(self.tasks.problems()),
            details={"changes": changes, "items": outcomes},
        )

    def _scored(self) -> tuple[dict[str, dict[str, tuple[float, int]]], dict[str, Outcomes]]:
        """Of each contestant that was asked: bits and bytes of every text, and by part which choices it had right."""
        answers = {item["id"]: item for item in _items("choices")}
        names = [each.name for each in self.scorers]
        texts: dict[str, dict[str, tuple[float, int]]] = {name: {} for name in names}
        outcomes: dict[str, Outcomes] = defaultdict(lambda: defaultdict(dict))
        for row in read_probed(self.arena.out / PROBE):
            for name, logprobs in zip(names, row.logprobs, strict=True):
                assert logprobs is not None
                if row.id in answers:
                    item = answers[row.id]
                    outcomes[item["part"]][name][row.id] = is_right(logprobs, row.sizes, item["answer"])
                else:
                    texts[name][row.id] = bits(logprobs[0]), row.sizes[0]
        return texts, outcomes

    def _followed(self) -> Outcomes:
        """By contestant, which instructions it followed; a reply that was cut or is empty follows none."""
        checks = {item["id"]: item["checks"] for item in _items(INSTRUCTIONS)}
        names = [each.name for each in self.arena.contestants]
        outcomes: Outcomes = {name: {} for name in names}
        for row, replies in self.arena.replies(INSTRUCTIONS):
            for name, [reply] in zip(names, replies, strict=True):
                if reply.problem not in UNMEASURED:
                    outcomes[name][row.id] = _obeys(reply, checks[row.id])
        for drop in read_drops(self.arena.out / INSTRUCTIONS):
            if drop.reason not in UNMEASURED and drop.id is not None:
                for name in names:
                    outcomes[name][drop.id] = 0.0
        return outcomes

    def _bits(self, texts: Mapping[str, Mapping[str, tuple[float, int]]]) -> Iterator[Line]:
        base = texts.get(self.base, {})
        for contestant in self.arena.contestants:
            own = texts.get(contestant.name, {})
            gap = None
            shared = [(own[name], base[name]) for name in own if name in base]
            if not contestant.base and shared:
                values = [mine[0] - theirs[0] for mine, theirs in shared]
                gap = ratio(values, [size for (_, size), _ in shared])
            estimate = ratio([value for value, _ in own.values()], [size for _, size in own.values()], 0)
            why_not = "" if own else self._why_not(contestant)
            yield line_of(contestant.name, "bits per byte", "bits", estimate, gap, why_not)

    def _accuracy(self, part: str, name: str, items: Outcomes) -> tuple[Line, Values]:
        own, base = items.get(name, {}), items.get(self.base, {})
        shared = sorted(own.keys() & base.keys())
        values, before = [own[item] for item in shared], [base[item] for item in shared]
        gap, note = None, ""
        counts: Values = {}
        if name != self.base and shared:
            changes = mcnemar(values, before)
            gap = difference(values, before, 1)
            note = f"{changes.gained} gained, {changes.lost} lost, exact McNemar p = {changes.p:.2g}"
            counts = changes._asdict()
        if not own:
            [contestant] = [each for each in self.arena.contestants if each.name == name]
            note = "not measured: see below" if part in self.tasks.names else self._why_not(contestant)
        return line_of(name, part, "share", mean_of(list(own.values()), 0, 1), gap, note), counts

    def _why_not(self, contestant: Contestant) -> str:
        if contestant in self.scorers:
            return "nothing was measured yet"
        return f"{contestant.spec} gives no probabilities of texts: only its replies to instructions are measured"

    def _facts(self, outcomes: Mapping[str, Outcomes]) -> Iterator[str]:
        yield "differences to BASE are what counts: how many of such items a model has right says little by itself"
        shared = min(map(len, _together(outcomes.values()).values()), default=0)
        if shared:
            least = POWER * math.sqrt(CHANGING / shared)
            yield f"{shared} items show a difference of {100 * least:.1f} points or more if one item in ten changes"
        drops = Counter(drop.reason for drop in read_drops(self.arena.out / PROBE))
        if drops:
            reasons = ", ".join(f"{count} {reason}" for reason, count in drops.most_common())
            yield f"{counted(drops.total(), 'probe')} left out, which one of the models could not score: {reasons}"
        for contestant in self.arena.contestants:
            if contestant not in self.scorers:
                yield self._why_not(contestant)


def probes() -> Iterator[Probe]:
    """All that is scored: 300 continuations at most, which take a small model on two cores a minute."""
    for item in _items("text"):
        yield probe(item["id"], item["context"], item["text"])
    for item in _items("choices"):
        yield probe(item["id"], item["context"], *item["choices"])


def is_right(logprobs: Iterable[float], sizes: Iterable[int], answer: int) -> float:
    """1 if the right choice is the likeliest by its log-probability per byte, and no other is as likely; else 0."""
    each = [logprob / size for logprob, size in zip(logprobs, sizes, strict=True)]
    return float(max(each) == each[answer] and each.count(each[answer]) == 1)


def _obeys(reply: Candidate, checks: Object) -> float:
    return float(reply.problem is None and follows(reply.text, checks))


def _items(name: str) -> list[Values]:
    lines = (folder("probes") / f"{name}.jsonl").read_bytes().splitlines()
    return list(map(orjson.loads, lines))


def _together(parts: Iterable[Outcomes]) -> Outcomes:
    """The items of all parts."""
    everything: Outcomes = defaultdict(dict)
    for part in parts:
        for name, items in part.items():
            everything[name] |= items
    return everything
