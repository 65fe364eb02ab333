"""A constitution on trial: by the examples that its principles bring along, and by the votes cast under it.

`constitution_test` has a judge look at each example under its own principle alone, in both orders; `ablate` takes every
principle in turn out of stored labels, and asks nothing of any model. Knows no formulas, and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import orjson

from cai.constitution.principles import Constitution, Principle, load_constitution
from cai.errors import ConstitutionError, RunError, UsageError
from cai.folder.files import identity_hash
from cai.folder.rows import PAIR_BITS, damage
from cai.folder.run import find_info
from cai.judge.flows import is_valid, log_ratio, probability
from cai.models import spec_of
from cai.records import Contest, Label, Message, Reading, Record, Vote
from cai.runs.label import LabelRun
from cai.runs.play import in_thread
from cai.runs.settings import LabelSettings, make_settings
from cai.sources.conversations import pair_hash
from cai.texts.wording import nearest

State = Literal["holds", "flips", "fails", "invalid"]
STATES: dict[State, str] = {
    "holds": "hold in both orders",
    "flips": "hold on average but flip with the order",
    "fails": "fail",
    "invalid": "have no valid answer",
}
EXAMPLE = "tests: [{prompt: …, better: …, worse: …}]"
SHOWN = 48  # characters of a test's prompt in a table
NOT_ASKED = ("gold", "agreement", "calibration", "target", "max_candidates", "model", "pairing", "min_confidence")
Play = Callable[[LabelRun], None]  # plays a run to its end


def quietly(run: LabelRun) -> None:
    """Play a run to its end, also inside a running event loop."""
    for _ in in_thread(run.rows):
        pass


class Outcome(Record):
    """What the judge said of one example; the probabilities are those of the better reply's letter among both."""

    principle: str
    number: int  # among the tests of its principle, from 1
    prompt: str
    state: State
    p: float | None  # that the better reply is better, both orders together; None: invalid
    shown_first: float | None  # as seen with the better reply first, and second; of votes in words the share of votes
    shown_second: float | None
    mass: float | None  # of both letters, the lower of the two orders; None: not known
    problem: str | None  # why it is invalid


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
    def counts(self) -> dict[State, int]:
        """How many examples came to what."""
        seen = Counter(outcome.state for outcome in self.outcomes)
        return {state: seen[state] for state in get_args(State)}

    @property
    def failed(self) -> list[Outcome]:
        """The examples that do not hold in both orders."""
        return [outcome for outcome in self.outcomes if outcome.state != "holds"]

    def summary(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "constitution": self.constitution.ref.model_dump(),
            "judge": self.judge,
            "protocol": self.protocol,
            "n": len(self.outcomes),
            **{str(state): count for state, count in self.counts.items()},
            "passed": not self.failed,
            "tests": [outcome.model_dump() for outcome in self.outcomes],
            "untested": list(self.untested),
            "folder": self.folder,
        }

    def lines(self) -> Iterator[str]:
        """The report for people to read."""
        law = self.constitution
        yield f"{law.name} {law.version} by {self.judge}, protocol {self.protocol}, each test under its principle alone"
        yield ""
        yield f"{'P(better reply)':18}{'first':>8}{'second':>8}{'both':>8}{'mass':>8}"
        named = ""
        for outcome in self.outcomes:
            if outcome.principle != named:
                named = outcome.principle
                of = [other for other in self.outcomes if other.principle == named]
                yield f"{named}  ({sum(other.state == 'holds' for other in of)} of {len(of)} hold)"
            numbers = (outcome.shown_first, outcome.shown_second, outcome.p, outcome.mass)
            shown = "".join(f"{'–' if number is None else f'{number:.3f}':>8}" for number in numbers)
            prompt = " ".join(outcome.prompt.split())
            prompt = prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 1] + "…"
            yield f"  {outcome.number:<4}{outcome.state:12}{shown}  {outcome.problem or prompt}"
        yield ""
        told = ", ".join(f"{count} {STATES[state]}" for state, count in self.counts.items() if count)
        yield f"{len(self.outcomes)} tests: {told}"
        if self.untested:
            yield f"principles without a test: {', '.join(self.untested)}"
        if self.failed:
            yield "not held: " + ", ".join(f"{one.principle} {one.number} ({one.state})" for one in self.failed)


Examples = Sequence[tuple[Contest, Principle]]


class TrialRun(LabelRun):
    """A trial, resolved and checked: every example is judged under its own principle."""

    unit = "test"
    outcome = "test judged"

    def __init__(self, examples: Examples, settings: LabelSettings) -> None:
        under = {example.id: principle for example, principle in examples}
        pairs = [(example.position, example) for example, _ in examples]
        super().__init__((), settings, pairs=pairs, choose=lambda item: [under[item.id]])
        if self.protocol == "reward":
            name = spec_of(self.players["judge"])
            raise UsageError(f"{name} rewards replies and reads no principle: name a judge that is asked in words")
        asked = [[example.key, principle.id] for example, principle in examples]
        self.identity = {name: self.identity[name] for name in ("binding", "extra_body", "max_tokens", "seed")}
        self.identity |= {"command": "test", "tests": sha256(orjson.dumps(asked)).hexdigest()[:16]}
        self.words = ["cai", "constitution", "test", str(self.constitution.source)]
        self.cuts = False
        self.examples = examples
        self.labels: dict[str, Label] = {}  # by the id of the example
        if settings.out is None:
            binding = {name: self.identity["binding"][name] for name in ("judge", "protocol")}
            self.out = Path("runs") / f"{self.constitution.name}-tests-{identity_hash(binding)}"

    def kept(self, row: Label) -> None:
        """Remembers a label."""
        super().kept(row)
        self.labels[row.id] = row

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        law = self.constitution
        count = len({principle.id for _, principle in self.examples})
        yield f"constitution  {law.name} {law.version} ({law.source or 'made in Python'})"
        yield f"tests         {len(self.examples)}, of {count} principles, each under its own alone, in both orders"
        yield f"method        protocol {self.protocol}, templates {self.templates.source}, seed {self.settings.seed}"
        yield f"judge         {spec_of(self.players['judge'])}"
        yield f"folder        {self.out}"


def constitution_test(
    constitution: str | Path | Constitution, judge: str = "local", *, principle: str | None = None, **settings: Any
) -> TrialReport:
    """Ask a judge about the examples of a constitution's principles; one passes where it holds in both orders.

    judge: a model spec. principle: the id of the one whose examples are wanted. settings: fields of `LabelSettings`
    such as `protocol`, `seed` and `out`. With `out` finished calls are kept in that folder: what was asked before costs
    nothing, also after other parts of the constitution changed.
    Raises ConstitutionError where there is no example, ModelStopped where the judge cannot go on.
    """
    law = load_constitution(constitution)
    out = settings.pop("out", None)
    with TemporaryDirectory(prefix="cai-") as scratch:
        report = run_trial(resolve_trial(law, principle, {**settings, "judge": judge, "out": out or scratch}))
    return report if out else replace(report, folder=None)


def run_trial(run: TrialRun, play: Play = quietly) -> TrialReport:
    """Play a trial to its end, and say what it came to."""
    play(run)
    law, labels = run.constitution, run.labels
    lost = {} if len(labels) == len(run.examples) else _lost(run.out / "dropped.jsonl")
    return TrialReport(
        constitution=law,
        judge=spec_of(run.players["judge"]),
        protocol=run.protocol,
        outcomes=tuple(_outcome(example, of.id, labels.get(example.id), lost) for example, of in run.examples),
        untested=tuple(principle.id for principle in law.principles if not principle.tests),
        folder=str(run.out),
    )


def resolve_trial(law: Constitution, principle: str | None, given: dict[str, Any]) -> TrialRun:
    """Check everything that can be checked before the first call; `given` are fields of `LabelSettings`."""
    examples = tuple(_examples(law, principle))
    for name in NOT_ASKED:
        if name in given:
            raise UsageError(f"{name!r} is for labels that are kept for training: a trial keeps none")
    # 0.5: beliefs after reasoning are looked at as they are, not filtered
    fixed = {"constitution": law, "min_confidence": 0.5, "principles": 1}
    run = TrialRun(examples, make_settings(LabelSettings, given | fixed))
    if _is_trial(
        run.out
    ):  # its rows are made again from the finished calls, of which only the changed ones are missing
        run.settings = run.settings.model_copy(update={"force": True})
    return run


def _examples(law: Constitution, wanted: str | None) -> Iterator[tuple[Contest, Principle]]:
    ids = [principle.id for principle in law.principles]
    where = law.source or None
    if wanted is not None and wanted not in ids:
        raise UsageError(f"--principle {wanted!r} is not in {law.name}; {nearest(wanted, ids)}")
    chosen = [principle for principle in law.principles if wanted in (None, principle.id)]
    if not any(principle.tests for principle in chosen):
        what = "no principle" if wanted is None else f"principle {wanted!r}"
        has = "has a test" if wanted is None else "has no test"
        raise ConstitutionError(f"{what} {has}: write some under a principle, as {EXAMPLE}", where)
    for unit, principle in enumerate(chosen):
        if principle.tests and not principle.can_judge:
            problem = f"principle {principle.id!r} has tests but no 'choose' and no 'text' to ask a judge with"
            raise ConstitutionError(problem, where)
        for number, test in enumerate(principle.tests):
            name = f"{principle.id}:test-{number + 1}"
            messages: tuple[Message, ...] = ({"role": "user", "content": test.prompt},)
            # The same pair may stand under two principles, and the other way round in one of them.
            key = sha256(f"{name}\0{pair_hash(messages, test.better, test.worse)}".encode()).hexdigest()[:32]
            example = Contest(
                id=name,
                position=unit << PAIR_BITS | number,
                key=key,
                prompt_id=name,
                messages=messages,
                a=test.better,
                b=test.worse,
                a_from="better",
                b_from="worse",
            )
            yield example, principle


def _is_trial(folder: Path) -> bool:
    try:
        info = find_info(folder)
    except RunError:
        return False  # whatever it is, a run refuses what is not its own
    return info is not None and info["identity"]["command"] == "test"


def _lost(path: Path) -> dict[str, str]:
    """Why examples were dropped, by their id."""
    try:
        rows = map(orjson.loads, path.read_bytes().splitlines())
        return {row["id"]: f"{row['reason']}: {row['detail']}" for row in rows}
    except (ValueError, LookupError, TypeError) as error:
        raise damage(path) from error


def _outcome(example: Contest, principle: str, label: Label | None, lost: dict[str, str]) -> Outcome:
    votes = () if label is None else label.votes
    valid = [vote for vote in votes if is_valid(vote)]
    readings = [reading for vote in votes for reading in (vote.ab, vote.ba)]
    masses = [reading.mass for reading in readings if reading.mass is not None]
    state: State = "invalid"
    problem = lost.get(example.id) or next((each.problem for each in readings if each.problem is not None), None)
    if label is not None and label.z is not None:
        state, problem = "holds" if _holds(valid) else "flips" if label.z > 0 else "fails", None
    return Outcome(
        principle=principle,
        number=(example.position & (1 << PAIR_BITS) - 1) + 1,
        prompt=example.messages[-1]["content"],
        state=state,
        p=None if label is None or label.z is None else probability(label.z),
        shown_first=_preferred([vote.ab for vote in valid], "first"),
        shown_second=_preferred([vote.ba for vote in valid], "second"),
        mass=min(masses) if masses else None,
        problem=problem,
    )


def _holds(votes: Sequence[Vote]) -> bool:
    """Whether a is preferred in both orders, every time it was asked."""
    return all(vote.ab.choice == "first" and vote.ba.choice == "second" for vote in votes)


def _preferred(readings: Sequence[Reading], place: Literal["first", "second"]) -> float | None:
    """Probability of the letter at a place among both; of votes in words the share that named it."""
    if not readings:
        return None
    ratios = [ratio for reading in readings if (ratio := log_ratio(reading)) is not None]
    if ratios:
        [ratio] = ratios  # probabilities are asked for once
        return probability(ratio if place == "first" else -ratio)
    return sum(reading.choice == place for reading in readings) / len(readings)
