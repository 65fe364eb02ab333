"""`cai label`: a run resolved and checked, and its calibration on gold pairs.

What it does with each pair is in `judging`. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cai.calls.model import Model
from cai.constitution.principles import Constitution, load_constitution
from cai.engine.ask_judge import AskJudge
from cai.engine.templates import load_templates
from cai.errors import UsageError
from cai.export.options import ExportOptions, filters_of
from cai.export.pairs import Filters
from cai.judge.calibration import binding_problems, calibrate_file, load_calibration, untrustworthy
from cai.judge.certify import TARGETS, Calibration, threshold
from cai.judge.flows import WAVES, choose_protocol
from cai.models import spec_of
from cai.records import Contest, Item, Label, Place, Protocol, Request, Role, Sampling
from cai.runs.judging import Labelling
from cai.runs.pairs import Source, describe_source, human_labelled, read_pairs, run_info
from cai.runs.players import check_ability, open_models, prices_of
from cai.runs.run import Setup, check_identity, describe_prompts, is_countable, limited
from cai.runs.settings import LabelSettings
from cai.texts.repeats import identical


@dataclass(frozen=True)
class LabelSetup(Setup[Label]):
    """A label run, resolved and checked. further: the sample run whose prompts get more replies, for a target."""

    settings: LabelSettings
    source: Source
    constitution: Constitution
    protocol: Protocol
    further: Mapping[str, Any] | None = None
    calibration: Calibration | None = None
    is_gold: bool = False

    @property
    def cuts(self) -> bool:
        """Gold pairs are for calibration, not for training."""
        return not self.is_gold

    def task(self) -> Labelling:
        """Judge every pair."""
        return Labelling(self)

    def places(self) -> Iterator[Place]:
        """The pairs, from the first, as far as `limit`."""
        return limited(read_pairs(self.source, self.settings.pairing), self.settings.limit)

    @property
    def countable(self) -> bool:
        """Whether the pairs can be read twice."""
        return isinstance(self.source, str | Path) and (is_countable(self.source) or Path(self.source).is_dir())

    @property
    def score(self) -> bool:
        """Whether letters are read by scoring them."""
        return self.protocol == "score" or (self.protocol == "reason" and not self.players["judge"].can.logprobs)

    def check_models(self) -> None:
        """Raises UsageError where a model cannot do what it is for, which some know only once they are loaded."""
        can = self.players["judge"].can
        if choose_protocol(self.settings.protocol, can, spec_of(self.players["judge"])) != self.protocol:
            raise UsageError(
                f"{spec_of(self.players['judge'])} cannot be asked by --protocol {self.protocol} once loaded"
            )
        if self.protocol != "reward":
            check_ability(self.players["judge"], self.templates)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        law, settings = self.constitution, self.settings
        count = len(law.principles_for("judge"))
        under = f"all {count}" if settings.principles >= count else f"{settings.principles} of {count}"
        yield f"constitution  {law.name} {law.version} ({law.source or 'made in Python'}), {under} principles a pair"
        yield f"pairs         {describe_prompts(self.source, settings.limit)}"
        words = f"templates {self.templates.source}, seed {settings.seed}"
        yield f"method        protocol {self.protocol}, both orders, {words}"
        yield f"judge         {spec_of(self.players['judge'])}"
        yield f"folder        {self.out}"

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through."""
        if self.cuts:
            settings, named = self.settings, self.settings.calibration
            made = self.out / "calibration.json" if settings.gold is not None else named
            again = f"cai export {folder}" + ("" if settings.pairing == "all" else f" --pairing {settings.pairing}")
            again += "" if made is None else f" --calibration {shlex.quote(str(made))}"
            again += " --min-confidence 0.8" if settings.agreement is None else " --agreement 0.9"
            yield f"labels in {self.out / 'labels.jsonl'}; cut them again with: {again}"

    def parts(self) -> Iterator[LabelSetup]:
        """The gold pairs, then the rest."""
        if self.settings.gold is not None:
            yield self.gold_setup()
        yield self

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        if self.protocol == "vote":
            yield "votes that are split are asked again, up to three times in all: there may be three times the calls"
        if self.settings.target is not None:
            yield "further replies for --target are not counted: how many it takes shows as pairs are judged"
        if self.settings.gold is not None:
            yield f"the pairs of {self.settings.gold} are counted, too"

    @property
    def most_times(self) -> int | None:
        """How often a pair may be asked about; None: a target decides how many pairs there are."""
        return None if self.settings.target is not None else WAVES if self.protocol == "vote" else 1

    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for a pair, by player; of votes the first wave."""
        assert isinstance(item, Contest) and item.a is not None and item.b is not None
        if identical(item.a, item.b):
            return
        flow = self._asking.flow(item, item.a, item.b)
        for request in next(flow):
            yield "judge", request
            if self.protocol == "reason":
                yield "judge", replace(request, max_tokens=1, score=("", ""))
        flow.close()

    @cached_property
    def _asking(self) -> Labelling:
        return self.task()

    def calibrated(self, calibration: Calibration) -> LabelSetup:
        """The same run, with beliefs that a calibration corrects."""
        return replace(self, calibration=calibration)

    def gold_setup(self) -> LabelSetup:
        """The run that judges the gold pairs, in a folder inside this one's."""
        assert self.settings.gold is not None
        plain: dict[str, Any] = dict.fromkeys(("gold", "agreement", "target", "max_candidates", "model", "limit"))
        plain |= {"pairing": "all", "out": self.out / "gold"}
        judge = self.players["judge"]
        made = resolve(self.settings.gold, self.settings.model_copy(update=plain))
        return replace(made, players={"judge": judge}, seats=({"judge": judge},), is_gold=True)

    def sampling_of(self, seat: int) -> tuple[Sampling, int]:
        """How the models of a seat draw, and the seed of their calls: further replies continue the sample run."""
        if seat == 0 or self.further is None:
            return super().sampling_of(seat)
        sampling = self.further["sampling"]
        return Sampling(sampling["temperature"], sampling["max_tokens"], sampling["extra_body"]), self.further["seed"]

    def filters(self) -> Filters:
        """What the first cut keeps, by the judge's confidence and the texts."""
        return filters_of(ExportOptions(**self.cut_options()), self.calibration)

    def cut_options(self) -> dict[str, Any]:
        """The options of the first cut."""
        settings = self.settings
        options = {
            "min_confidence": settings.min_confidence,
            "agreement": settings.agreement,
            "calibration": self.calibration,
            "pairing": None if settings.pairing == "all" else settings.pairing,
            "target": settings.target,
        }
        return {name: value for name, value in options.items() if value is not None}


def resolve(source: Source, settings: LabelSettings) -> LabelSetup:
    """Check everything that can be checked before the first call, and say what the run will be."""
    read_pairs(source, settings.pairing)  # reads nothing yet, but looks
    _check_pairing(source, settings.pairing)
    if settings.gold is not None:
        human_labelled(settings.gold, "--gold")
    law = load_constitution(settings.constitution)
    principles = law.principles_for("judge")
    further = _further(source, settings)
    specs = {"judge": settings.judge} | ({} if further is None else {"assistant": further["model"]})
    players = open_models(settings, specs)
    judge_model = players["judge"]
    protocol = choose_protocol(settings.protocol, judge_model.can, spec_of(judge_model))
    _check_reasons(protocol, settings)
    templates = load_templates(settings.templates)
    if further is not None and further["templates"] not in (None, templates.hash):
        raise UsageError("--target: the sample run had other templates: name those as --templates, with a judge.jinja")
    if protocol != "reward":
        check_ability(judge_model, templates)
        AskJudge(templates, law, prefill=judge_model.can.prefill).check(principles)
    binding = {
        "judge": spec_of(judge_model),
        "protocol": protocol,
        "templates": templates.judge_hash,
        "constitution": law.ref.model_dump(),
        "principles": min(settings.principles, len(principles)),
    }
    identity = _identity(source, settings, binding)
    seats: tuple[Mapping[Role, Model], ...] = ({"judge": judge_model},)
    if further is not None:
        seats += ({"assistant": players["assistant"]},)
    prices, calibration = prices_of(settings, players), _loaded(settings, binding)
    name = f"{law.name}-labels"
    return LabelSetup(
        name, templates, players, seats, prices, identity, settings, source, law, protocol, further, calibration
    )


def _identity(source: Source, settings: LabelSettings, binding: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the labels of a run; binding: what a calibration of its judge is bound to."""
    identity = {
        "command": "label",
        "source": describe_source(source),
        "pairing": "final" if settings.pairing == "final" else "all",  # best-worst judges all pairs, too
        "binding": binding,
        "extra_body": dict(settings.extra_body),
        "max_tokens": settings.max_tokens if binding["protocol"] == "vote" else None,  # others read the letter alone
        "seed": settings.seed,
    }
    check_identity(identity)
    return identity


def calibrate_gold(setup: LabelSetup) -> Calibration:
    """The calibration that the judged gold pairs of a run give, written into its folder.

    Raises UsageError where the agreement that is asked for cannot be certified on them.
    """
    targets = sorted({*TARGETS, *([] if setup.settings.agreement is None else [setup.settings.agreement])})
    report = calibrate_file(setup.out / "gold", targets=targets)
    why = untrustworthy(report)
    if why is not None:
        raise UsageError(f"--gold {setup.settings.gold}: {why}; labels without a calibration come without --gold")
    report.save(setup.out, plots=False)
    if setup.settings.agreement is not None:
        threshold(report.calibration, setup.settings.agreement)
    return report.calibration


def _check_pairing(source: Source, pairing: str) -> None:
    """Raises UsageError where a source has no pairs of this kind; of Python rows that shows when they are read."""
    info = run_info(source)
    command = "" if info is None else info["identity"]["command"]
    if pairing == "final" and command != "generate" and isinstance(source, str | Path):
        raise UsageError("--pairing final is for generate runs: this source has no rounds; leave it out")
    if pairing == "best-worst" and command == "generate":
        raise UsageError("--pairing best-worst is for several replies: of a generate run name final, or leave it out")


def _loaded(settings: LabelSettings, binding: Mapping[str, Any]) -> Calibration | None:
    """The calibration of --calibration; raises UsageError if it is another judge's or certifies too little."""
    if settings.calibration is None:
        return None
    calibration = load_calibration(settings.calibration)
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(f"--calibration {settings.calibration} was made for a different judge: {'; '.join(problems)}")
    if settings.agreement is not None:
        threshold(calibration, settings.agreement)
    return calibration


def _further(source: Source, settings: LabelSettings) -> dict[str, Any] | None:
    """How further replies are drawn: as those of the sample run that the source is."""
    if settings.target is None:
        return None
    info = run_info(source)
    if info is None or info["identity"]["command"] != "sample":
        raise UsageError(
            "--target draws further replies to the prompts of a sample run: name the --out of a cai sample"
        )
    identity, specs = info["identity"], info["settings"]["model"]
    if settings.model is None and len(specs) > 1:
        raise UsageError(f"--target: the sample run has {len(specs)} models ({', '.join(specs)}): say which by --model")
    return {
        "model": specs[0] if settings.model is None else settings.model,
        "templates": identity["templates"],
        "others": identity["n"] * (len(specs) - 1),  # replies of other models: its own next number is that much lower
        "system": identity["system"],
        "sampling": identity["sampling"],
        "seed": identity["seed"],
    }


def _check_reasons(protocol: Protocol, settings: LabelSettings) -> None:
    """Say before anything is spent that beliefs after reasoning end at 0.6 unless they are calibrated."""
    if protocol != "reason" or settings.gold is not None or settings.calibration is not None:
        return
    if settings.min_confidence is None or settings.min_confidence > 0.6:
        raise UsageError(
            "--protocol reason: uncalibrated beliefs after reasoning are cut to 0.4 … 0.6 (Bai et al. 2022): name "
            "--min-confidence of at most 0.6, or calibrate with --gold FILE or --calibration FILE"
        )
