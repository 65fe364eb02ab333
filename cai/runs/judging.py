"""What `cai label` does with each pair: ask the judge, and go on until enough are kept.

Binds the judge's flow to pairs, principles and models. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import itertools
import logging
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from cai.calls.flow import Driver, Played, total_usage
from cai.constitution.principles import draw
from cai.engine.ask import Ask
from cai.engine.ask_judge import AskJudge
from cai.engine.candidates import sample
from cai.errors import CaiError, RowDropped
from cai.export.pairs import extra_pass, reason
from cai.folder.inputs import PAIR_BITS
from cai.folder.rows import damage
from cai.folder.run import RunFolder
from cai.judge.belief import Verdict, belief
from cai.judge.flows import CHECKED, Flow, JudgeCheck, Pair, judge
from cai.records import Contest, Label, Place, Prompt, Protocol, Usage
from cai.runs.pairs import later_reply, pair_of_replies, replies_of_run
from cai.runs.run import Task
from cai.texts.repeats import identical

if TYPE_CHECKING:
    from cai.runs.label import LabelSetup

log = logging.getLogger("cai")


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply of a pair, and what it took if it was drawn for it."""

    text: str
    model: str | None
    calls: tuple[str, ...]
    usage: Usage


class Labelling(Task[Label]):
    """Judge pairs."""

    unit = "pair"
    done = "pair judged"
    rows_file = "labels.jsonl"

    def __init__(self, setup: LabelSetup) -> None:
        self._setup = setup
        law, can = setup.constitution, setup.players["judge"].can
        self._principles = law.principles_for("judge")
        self._ask = AskJudge(setup.templates, law, prefill=can.prefill)
        self._law = law.ref
        self._weighted = setup.settings.principles >= len(self._principles)
        self._check = JudgeCheck(_advice(setup.protocol), needed=setup.protocol != "reward")
        self._progress: Progress | None = None

    def places(self) -> Iterator[Place]:
        """The pairs."""
        return self._setup.places()

    def texts(self, row: Label) -> tuple[str, str]:
        """Both replies."""
        return row.a, row.b

    def open(self, run: RunFolder) -> None:
        """Look at the labels of an earlier session: can the judge be read, and how many pairs are kept?"""
        if self._setup.settings.target is not None:
            self._progress = Progress(self._setup, run.path)
        for line in itertools.islice(_lines(run.path / self.rows_file), CHECKED):
            try:
                self._check.watch(Label.model_validate_json(line).votes)
            except ValidationError as error:
                raise damage(run.path / self.rows_file) from error

    def flow(self, contest: Contest, a: str, b: str) -> Flow:
        """What is asked about a pair."""
        setup = self._setup
        drawn = self._principles
        if not self._weighted:
            drawn = draw(drawn, setup.settings.principles, setup.settings.seed, contest.id, stream="judge")
        pair = Pair(contest.messages, a, b)
        return judge(pair, drawn, self._ask, setup.protocol, score=setup.score, weighted=self._weighted)

    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Label:
        """One pair to its label; replies that are still to be sampled are asked for first."""
        assert isinstance(item, Contest)
        a = await self._reply(drivers, item, position, item.a, item.a_from, item.a_model)
        b = await self._reply(drivers, item, position, item.b, item.b_from, item.b_model)
        if identical(a.text, b.text):  # whatever a judge said, there would be nothing to choose
            raise RowDropped("identical", "judge", f"{item.a_from} and {item.b_from} are the same")
        await self._check.admitted()
        try:
            played = await drivers[0].play(item.id, position, self.flow(item, a.text, b.text))
        except CaiError:  # this pair tells nothing of the judge
            self._check.leave()
            raise
        return self._label(item, position, a, b, played)

    async def _reply(
        self, drivers: list[Driver], item: Contest, position: int, text: str | None, origin: str, model: str | None
    ) -> _Reply:
        """A reply as the source has it, or drawn now."""
        if text is not None:
            return _Reply(text, model, (), Usage(**dict.fromkeys(Usage.model_fields, 0)))
        further = self._setup.further
        assert further is not None
        number = int(origin.removeprefix("sample ")) - further["others"]
        ask = Ask(self._setup.templates, None, system=further["system"])
        prompt = Prompt(id=item.prompt_id, messages=item.messages)
        played = await drivers[1].play(prompt.id, position, sample(prompt, ask, [number]))
        [reply] = played.result.replies
        if reply.problem is not None:
            raise RowDropped(reply.problem, "assistant", f"{origin} of prompt {item.prompt_id} is {reply.problem}")
        return _Reply(reply.text, reply.model, played.calls, played.usage)

    def _label(self, item: Contest, position: int, a: _Reply, b: _Reply, played: Played[Verdict]) -> Label:
        setup, verdict = self._setup, played.result
        temperature = None if setup.calibration is None else setup.calibration.temperature
        p = belief(verdict.z, setup.protocol, temperature)
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
            protocol=setup.protocol,
            votes=verdict.votes,
            rewards=verdict.rewards,
            z=verdict.z,
            temperature=temperature,
            p_a=p,
            confidence=None if p is None else max(p, 1.0 - p),
            constitution=self._law,
            templates=setup.templates.judge_hash,
            models=played.models,
            seed=setup.settings.seed,
            usage=total_usage([a.usage, b.usage, played.usage]),
            calls=(*a.calls, *b.calls, *played.calls),
        )

    def kept(self, row: Label) -> None:
        """Stops the run where the judge cannot be read; counts towards the target."""
        self._check.watch(row.votes)
        if self._progress is not None:
            self._progress.add(row)

    def enough(self, position: int) -> bool:
        """Whether the target is reached by pairs that come before this one."""
        return self._progress is not None and self._progress.ends_before(position)

    def more(self, run: RunFolder) -> Iterator[Place] | None:
        """One further reply for every prompt that has no pair yet, against each of those before it."""
        return None if self._progress is None else self._progress.more()


def _advice(protocol: Protocol) -> str:
    """What to do where a judge that is asked so does not answer with a letter."""
    if protocol == "vote":
        return "word judge.jinja and verdict.jinja for it, or, where it thinks first, give it more --max-tokens"
    return "switch its thinking off (--extra-body), use --protocol vote, or word judge.jinja and verdict.jinja for it"


class Progress:
    """How far a run is on its way to `target` kept pairs, and which prompts have none."""

    def __init__(self, setup: LabelSetup, folder: Path) -> None:
        self._setup, self._filters = setup, setup.filters()
        self._kept: list[tuple[int, int]] = []  # pass and position of every kept pair, sorted
        self._served: dict[int, int] = {}  # place of a prompt with a kept pair → the least reply that made one
        self._pass = 0
        path = folder / "labels.jsonl"
        for line in _lines(path):
            try:
                self.add(orjson.loads(line))
            except (ValueError, LookupError, TypeError) as error:
                raise damage(path) from error

    def add(self, row: Label | Mapping[str, Any]) -> None:
        """Count a label."""
        fields = row.model_dump(mode="json") if isinstance(row, Label) else dict(row)
        if reason(fields, self._filters) is None:
            insort(self._kept, (extra_pass(fields, self._setup.identity["source"]["n"]), fields["position"]))
            unit, later = fields["position"] >> PAIR_BITS, later_reply(fields["position"])
            self._served[unit] = min(later, self._served.get(unit, later))

    def ends_before(self, position: int) -> bool:
        """Whether as many pairs are kept as are wanted before this one of the present pass.

        By place and not by count: a pair that was on its way when a run was killed comes before others that were not.
        """
        target = self._setup.settings.target or 0
        return len(self._kept) >= target and self._kept[target - 1] < (self._pass, position)

    def more(self) -> Iterator[Place] | None:
        """The pairs of the next pass; None where every prompt has as many replies as it may have, or a pair."""
        setup, self._pass = self._setup, self._pass + 1
        if len(self._kept) >= (setup.settings.target or 0):
            return None
        places = further_pairs(setup, self._pass, dict(self._served))
        first = next(places, None)
        if first is None:
            told = "%d pairs are kept, --target %d is not reached: every other prompt has its %d replies"
            log.warning(told, len(self._kept), setup.settings.target, setup.settings.max_candidates)
            return None

        def rest() -> Iterator[Place]:
            yield first
            yield from places

        return rest()


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, of which there are none where it is missing."""
    if path.exists():
        with path.open("rb") as file:
            yield from file


def further_pairs(setup: LabelSetup, turn: int, served: Mapping[int, int]) -> Iterator[Place]:
    """The pairs of the `turn`-th further reply with all replies before it, of the prompts that are not served.

    served: the least reply of each prompt that made a kept pair with one before it. Only those before the `turn`-th
    count: so a run that was stopped within this turn goes on with the same pairs.
    """
    assert setup.settings.max_candidates is not None
    for unit, prompt_id, messages, replies in replies_of_run(setup.source, setup.settings.limit):
        new = len(replies) + turn - 1
        if served.get(unit, new) < new or new >= setup.settings.max_candidates:
            continue
        texts: dict[int, str | None] = {n: text for n, (text, problem) in enumerate(replies) if problem is None}
        texts |= dict.fromkeys(range(len(replies), new))
        for number, text in texts.items():
            contest = pair_of_replies(prompt_id, messages, (number, text), (new, None))
            position = unit << PAIR_BITS | contest.position
            yield position, replace(contest, position=position)
