"""`cai constitution test`: a judge must prefer the better reply of every test case of a constitution, in both orders.

A judge looks at each example under that principle and no other, in both orders.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import orjson

from cai.calls.model import spec_of
from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution, Principle
from cai.engine.letters import probability
from cai.errors import ConstitutionError, RunError, UsageError
from cai.evaluation.bench import NOT_ASKED, Play, by_order, judging_settings, quietly
from cai.folder.identity import identity_hash
from cai.folder.info import find_info
from cai.folder.lines import PAIR_BITS, read_drops, read_rows
from cai.judge.flows import is_valid
from cai.judge.metrics import average
from cai.models import idle_servers_stopped
from cai.records import Contest, Label, Object, Record, Turns, Values
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.settings import LabelSettings
from cai.sources.conversations import pair_hash
from cai.texts.wording import counted, nearest, report_lines, settings_as_keywords

State = Literal["holds", "flips", "fails", "invalid"]
STATES = {
    "holds": "hold in both orders",
    "flips": "hold on average but flip with the order",
    "fails": "fail",
    "invalid": "have no valid answer",
}
EXAMPLE = "tests: [{prompt: …, better: …, worse: …}]"
Examples = Mapping[str, tuple[Contest, Principle]]  # by id


class Outcome(Record):
    """What the judge said of one example; the probabilities are those of the better reply's letter among both."""

    principle: str
    number: int  # among the tests of its principle, from 1
    prompt: str
    state: State
    p: float | None = None  # that the better reply is better, both orders together; None: invalid
    shown_first: float | None = None  # as seen with the better reply first; for votes in words, their share
    shown_second: float | None = None
    mass: float | None = None  # of both letters, the lower of the two orders; None: not known
    problem: str | None = None  # why it is invalid


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What a judge made of a constitution's examples."""

    constitution: Constitution
    judge: str
    protocol: str
    outcomes: tuple[Outcome, ...]
    untested: tuple[str, ...]  # principles without an example
    folder: str | None  # None: nothing is kept

    @property
    def counts(self) -> dict[str, int]:
        """How many examples came to what."""
        counts = Counter[str](outcome.state for outcome in self.outcomes)
        return {state: counts[state] for state in STATES}

    @property
    def failed(self) -> list[Outcome]:
        """The examples that do not hold in both orders."""
        return [outcome for outcome in self.outcomes if outcome.state != "holds"]

    def summary(self) -> Values:
        """The report as JSON."""
        return {
            "constitution": self.constitution.ref.model_dump(),
            "judge": self.judge,
            "protocol": self.protocol,
            "n": len(self.outcomes),
            **self.counts,
            "passed": not self.failed,
            "tests": [outcome.model_dump() for outcome in self.outcomes],
            "untested": list(self.untested),
            "folder": self.folder,
        }

    def lines(self) -> list[str]:
        """The report for people to read."""
        return report_lines(__file__, report=self, states=STATES)


class TrialRun(LabelRun):
    """A trial, resolved and checked: every example is judged under its own principle."""

    unit = "test"
    outcome = "test judged"

    def __init__(self, examples: Examples, settings: LabelSettings) -> None:
        pairs = [(example.position, example) for example, _ in examples.values()]
        super().__init__((), settings, pairs=pairs, choose=lambda item: [examples[item.id][1]])
        if self.protocol == "reward":
            name = spec_of(self.players["judge"])
            raise UsageError(f"{name} rewards replies and reads no principle: name a judge that is asked in words")
        tests = [[example.key, principle.id] for example, principle in examples.values()]
        self.identity = {name: self.identity[name] for name in ("binding", "extra_body", "max_tokens", "seed")}
        self.identity |= {"command": "test", "tests": sha256(orjson.dumps(tests)).hexdigest()[:16]}
        source = self.constitution.source.removeprefix("built-in ")
        words = self.settings.words("constitution", "principles", "min_confidence")
        self.command_line = shlex.join(["cai", "constitution", "test", source, *words])
        self.cuts = False
        self.examples = examples
        if settings.out is None:
            binding = {name: self.identity["binding"][name] for name in ("judge", "protocol")}
            self.out = Path("runs") / f"{self.constitution.name}-tests-{identity_hash(binding)}"

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        count = len({principle.id for _, principle in self.examples.values()})
        return {
            "constitution": self.constitution.title,
            "tests": f"{len(self.examples)} of {counted(count, 'principle')}, each under its own only, in both orders",
            "method": f"protocol {self.protocol}, templates {self.templates.source}, seed {self.settings.seed}",
            "judge": spec_of(self.judging.model),
        }


@settings_as_keywords(LabelSettings, *NOT_ASKED, "principles", "limit")
def constitution_test(
    constitution: str | Path | Constitution, judge: str = "local", *, principle: str | None = None, **settings: Any
) -> TrialReport:
    """Run a constitution's own test cases: a test passes if the judge prefers `better` in both orders.

    judge: a model spec. principle: the id of the only principle to test. With `out` finished calls are kept in that
    folder: what was asked before costs nothing, also after other parts of the constitution changed.
    Raises ConstitutionError if there is no test, ModelStopped if the judge stops answering.
    """
    law = load_constitution(constitution)
    out = settings.pop("out", None)
    with TemporaryDirectory(prefix="cai-") as scratch, idle_servers_stopped():
        report = run_trial(resolve_trial(law, principle, {**settings, "judge": judge, "out": out or scratch}))
    return report if out else replace(report, folder=None)


def run_trial(run: TrialRun, play: Play = quietly) -> TrialReport:
    """Play a trial to its end; returns the report."""
    play(run)
    law = run.constitution
    labels = {label.id: label for label in read_rows(run.out / "labels.jsonl", Label)}
    problems = {drop.id: f"{drop.reason}: {drop.detail}" for drop in read_drops(run.out)}
    outcomes = []
    for name, (example, principle) in run.examples.items():
        invalid = {"state": "invalid", "problem": problems.get(name)}
        figures: Values = _figures(labels[name]) if name in labels else invalid
        index = example.position & (1 << PAIR_BITS) - 1
        prompt = example.messages[-1]["content"]
        outcomes.append(Outcome(principle=principle.id, number=index + 1, prompt=prompt, **figures))
    return TrialReport(
        constitution=law,
        judge=spec_of(run.players["judge"]),
        protocol=run.protocol,
        outcomes=tuple(outcomes),
        untested=tuple(principle.id for principle in law.principles if not principle.tests),
        folder=str(run.out),
    )


def resolve_trial(law: Constitution, principle: str | None, options: Object) -> TrialRun:
    """Check everything that can be checked before the first call; options: fields of `LabelSettings`."""
    examples = {example.id: (example, under) for example, under in _examples(law, principle)}
    run = TrialRun(examples, judging_settings("a trial", law, options, principles=1))
    if principle is not None:
        run.command_line = f"{run.command_line} --principle {shlex.quote(principle)}"
    if _is_trial(run.out):
        # Its rows are rebuilt from the finished calls; only tests that changed are asked.
        run.settings = run.settings.model_copy(update={"force": True})
    return run


def _examples(law: Constitution, principle: str | None) -> Iterator[tuple[Contest, Principle]]:
    ids = [each.id for each in law.principles]
    where = law.source or None
    if principle is not None and principle not in ids:
        raise UsageError(f"--principle {principle!r} is not in {law.name}; {nearest(principle, ids)}")
    chosen = [each for each in law.principles if principle in (None, each.id)]
    if not any(each.tests for each in chosen):
        problem = "no principle has a test" if principle is None else f"principle {principle!r} has no test"
        raise ConstitutionError(f"{problem}: write some under a principle, as {EXAMPLE}", where)
    for place, each in enumerate(chosen):
        if each.tests and not each.can("judge"):
            problem = f"principle {each.id!r} has tests but no 'choose' and no 'text' to ask a judge with"
            raise ConstitutionError(problem, where)
        for index, test in enumerate(each.tests):
            name = f"{each.id}:test-{index + 1}"
            messages: Turns = ({"role": "user", "content": test.prompt},)
            # The same pair may be under two principles, and the other way round in one of them.
            key = sha256(f"{name}\0{pair_hash(messages, test.better, test.worse)}".encode()).hexdigest()[:32]
            example = Contest(
                id=name,
                position=place << PAIR_BITS | index,
                key=key,
                prompt_id=name,
                messages=messages,
                a=test.better,
                b=test.worse,
                a_from="better",
                b_from="worse",
            )
            yield example, each


def _is_trial(folder: Path) -> bool:
    try:
        info = find_info(folder)
    except RunError:
        return False  # whatever it is, a run refuses what is not its own
    return info is not None and info["identity"]["command"] == "test"


def _figures(label: Label) -> Values:
    """What a label says of its example, as fields of `Outcome`."""
    readings = [reading for vote in label.votes for reading in (vote.ab, vote.ba)]
    problems = [reading.problem for reading in readings if reading.problem is not None]
    figures: Values = {"mass": average([reading.mass for reading in readings if reading.mass is not None], min)}
    valid = [vote for vote in label.votes if is_valid(vote)]
    if valid:
        figures["shown_first"] = by_order(valid, "ab")
        figures["shown_second"] = by_order(valid, "ba")
    if label.z is None:
        return figures | {"state": "invalid", "problem": problems[0]}
    state = "fails"
    if all(vote.ab.choice == "first" and vote.ba.choice == "second" for vote in valid):
        state = "holds"
    elif label.z > 0:
        state = "flips"
    return figures | {"state": state, "p": probability(label.z)}
