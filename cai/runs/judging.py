"""A judge bound to a constitution: what it is asked about two replies, whether it can be read, its calibration."""

from __future__ import annotations

import asyncio
import logging
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cai.calls.flow import Driver, Played, call_seed
from cai.calls.model import Call, ListsTokens, Model, check_ability, spec_of
from cai.calls.protocols import choose_protocol
from cai.constitution.draw import draw
from cai.constitution.principles import Constitution, Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.letters import LEAST_MASS
from cai.engine.templates import Templates
from cai.errors import CaiError, SourceError, Unreadable, UsageError
from cai.judge.calibration import calibrate_judge
from cai.judge.certify import TARGETS, Calibration, binding_problems, load_calibration, threshold, weaknesses
from cai.judge.flows import Flow, Pair, Verdict, is_valid, judge
from cai.judge.gold import FILE
from cai.judge.majority import People
from cai.judge.votes import votes_in
from cai.records import Contest, Label, Object, Place, Protocol, Values, Vote
from cai.runs.pairs import read_pairs, run_info
from cai.runs.settings import ANNOTATE, LabelSettings
from cai.sources.files import Source

log = logging.getLogger("cai")
VOTES = "votes of people"  # a source that grows, in a run's identity: a changed pair is noticed by its place
CHECKED = 20  # pairs after which a run looks whether the judge can be read at all
Choose = Callable[[Contest], Sequence[Principle]]


class Judging:
    """How one judge is asked in one session.

    choose: the principles that a pair is judged under; None: drawn by weight. Raises UsageError if the judge cannot be
    asked by the protocol of `settings`, TemplateError if a question cannot be worded.
    """

    def __init__(
        self, model: Model, settings: LabelSettings, templates: Templates, law: Constitution, choose: Choose | None
    ) -> None:
        self.model, self.law, self._settings, self._templates = model, law, settings, templates
        self.protocol = choose_protocol(settings.protocol, model.can, spec_of(model), completes=templates.completes)
        self.principles = law.principles_for("judge")
        self.all = settings.principles >= len(self.principles)  # then each pair is judged under all principles
        self._choose = choose or self._draw
        self._ask = AskJudge(templates, law, prefill=model.can.prefill, decisions=model.can.decisions)
        needed = self.protocol != "reward"
        if needed:
            check_ability(model, completes=templates.completes)
        self.check_words(self.principles)
        self.readable = JudgeCheck(_advice(self.protocol), needed=needed)

    @property
    def binding(self) -> Values:
        """What a calibration of this judge is bound to."""
        return {
            "judge": spec_of(self.model),
            "protocol": self.protocol,
            "templates": self._templates.judge_hash,
            "constitution": self.law.ref.model_dump(),
            "principles": min(self._settings.principles, len(self.principles)),
        }

    def check(self) -> None:
        """Raise UsageError if the judge, now that it is loaded, cannot be asked after all."""
        name = spec_of(self.model)
        completes = self._templates.completes
        if choose_protocol(self._settings.protocol, self.model.can, name, completes=completes) != self.protocol:
            raise UsageError(f"{name} cannot be asked by --protocol {self.protocol} once loaded")
        if self.protocol != "reward":
            check_ability(self.model, completes=completes)

    async def prepare(self) -> None:
        """Have both letters listed, however unlikely, by a server that can be named tokens."""
        if self.protocol in ("logprob", "reason") and isinstance(self.model, ListsTokens):
            await self.model.list_tokens(tuple(map(str.strip, self._ask.letters)))

    def _draw(self, item: Contest) -> Sequence[Principle]:
        return self._drawn(item.id, self._settings.principles)

    def _drawn(self, pair: str, count: int) -> Sequence[Principle]:
        """So many principles for the pair of an id."""
        if count >= len(self.principles):
            return self.principles
        return draw(self.principles, count, self._settings.seed, pair, stream="judge")

    def asked_before(self, call: Call, counts: Sequence[int]) -> Iterator[Call]:
        """A question as it was when fewer principles were drawn: it had another number then, and so another seed.

        A greedy answer follows from no seed, and a drawn one is as good a draw. counts: how many were drawn in earlier
        sessions.
        """
        if not counts:
            return
        now = self._drawn(call.row, self._settings.principles)
        wave, place = divmod(call.index, 2 * len(now))
        order, number = divmod(place, len(now))
        for count in counts:
            ids = [principle.id for principle in self._drawn(call.row, count)]
            if now[number].id in ids:
                index = (2 * wave + order) * count + ids.index(now[number].id)
                yield replace(call, index=index, seed=call_seed(self._settings.seed, call.row, "judge", index))

    def check_words(self, principles: Sequence[Principle]) -> None:
        """Raise TemplateError if a question under one of these principles cannot be worded."""
        if self.protocol != "reward":
            self._ask.check(principles)
        if self.protocol == "decide":
            self._ask.check_decisions(principles)

    def flow(self, pair: Pair, principles: Sequence[Principle], *, weighted: bool) -> Flow:
        """The questions about a pair under these principles; weighted: they count by weight, not alike."""
        score = self.protocol == "score" or (self.protocol == "reason" and not self.model.can.logprobs)
        return judge(pair, principles, self._ask, self.protocol, score=score, weighted=weighted)

    async def ask(self, driver: Driver, item: Contest, position: int) -> Played[Verdict]:
        """The verdict on a pair; raises Unreadable if the answers to the first pairs cannot be read."""
        await self.readable.admitted()
        assert item.a is not None and item.b is not None
        flow = self.flow(Pair(item.messages, item.a, item.b), self._choose(item), weighted=self.all)
        try:
            return await driver.play(item.id, position, flow)
        except CaiError:  # this pair shows nothing of the judge
            self.readable.leave()
            raise


def _advice(protocol: Protocol) -> str:
    """What to do if a judge that is asked so does not answer with a letter."""
    if protocol == "decide":
        return "look at an answer with cai show RUN ID --calls, or use --protocol logprob or vote"
    if protocol == "vote":
        return "word judge.jinja and verdict.jinja for it, or, if it thinks first, give it more --max-tokens"
    return "switch its thinking off (--extra-body), use --protocol vote, or word judge.jinja and verdict.jinja for it"


# Whether it can be read


class JudgeCheck:
    """Whether a judge can be read: a session asks about few pairs until that is known, and ends if it cannot.

    advice: what to do if the judge fails. needed: False lets every pair through. wanted: what it should answer. unit:
    what is counted; the checks are the same for ratings of one reply.
    """

    def __init__(self, advice: str, *, needed: bool = True, wanted: str = "A or B", unit: str = "pairs") -> None:
        self._advice, self._wanted, self._unit = advice, wanted, unit
        self._passed = not needed
        self._masses: list[float] = []  # of the letters, for the first pairs
        self._read = 0
        self._permits = asyncio.Semaphore(CHECKED)  # pairs that may be asked about before the check
        self._unreadable: Unreadable | None = None

    async def admitted(self) -> None:
        """Returns when the judge is known to be readable, or this pair is among the first; else raises Unreadable."""
        if self._passed:
            return
        await self._permits.acquire()
        if self._passed or self._unreadable is not None:
            self._permits.release()  # lets the next one know, too
        if self._unreadable is not None:
            raise self._unreadable

    def leave(self) -> None:
        """A pair that was admitted got no verdict: another may, or must see that the run is over."""
        if not self._passed:
            self._permits.release()

    def watch(self, votes: Sequence[Vote]) -> None:
        """Look at the votes of a pair; raises Unreadable if those of the first pairs cannot be read."""
        if self._passed:
            return
        problems = (reading.problem for vote in votes for reading in (vote.ab, vote.ba))
        self.see(readability(votes), next(filter(None, problems), None))

    def see(self, masses: Sequence[float], problem: str | None) -> None:
        """Look at the letter masses of one pair; problem: why one of its answers does not count."""
        if self._passed or self._unreadable is not None:
            return
        self._read += 1
        self._masses += masses
        if self._read < CHECKED:
            return
        median = statistics.median(self._masses)
        self._passed = median >= LEAST_MASS
        self._permits.release()
        if not self._passed:
            example = "" if problem is None else f", such as: {problem}"
            evidence = f"median letter mass {median:.2f} of the first {CHECKED} {self._unit}{example}"
            self._unreadable = Unreadable(f"the judge does not answer {self._wanted}: {evidence}; {self._advice}")
            raise self._unreadable


def readability(votes: Iterable[Vote]) -> list[float]:
    """The letter mass of every reading; 1 if it is not known and the reading counts, as of a vote; else 0."""
    masses = []
    for vote in votes:
        for reading in (vote.ab, vote.ba):
            masses.append(float(reading.problem is None) if reading.mass is None else reading.mass)
    return masses


def verdict_in_words(row: Label) -> str:
    """What the judge believes of a pair, for people to read."""
    if row.p_a is None:
        return "no valid vote"
    better = "a" if row.p_a > 0.5 else "b"
    if row.p_a == 0.5:
        better = "neither"
    verdict = f"{better}, confidence {row.confidence:.2f}"
    votes = []
    for vote in filter(is_valid, row.votes):
        votes.append(vote.principle if vote.d is None else f"{vote.principle} {vote.d:+.2f}")
    return verdict if not votes else f"{verdict} ({'; '.join(votes)})"


# Its calibration


def view_command(run: str | Path, count: int | None) -> str:
    """The command that opens the pairs of a run to be labelled by hand."""
    return f"cai view {shlex.quote(str(run))} --annotate {count or ANNOTATE}"


def check_agreement(settings: LabelSettings, source: Source) -> None:
    """Raise UsageError for an agreement that nothing can certify."""
    if settings.agreement is None or settings.gold is not None or settings.calibration is not None:
        return
    needed = "--agreement needs pairs that people have labelled: --gold FILE, or --calibration FILE"
    if run_info(source) is None:
        raise UsageError(f"{needed}; without --agreement you get a run whose pairs cai view has you label by hand")
    file = shlex.quote(str(Path(str(source)) / FILE))
    command = view_command(str(source), settings.annotate)
    raise UsageError(f"{needed}; to label pairs of this run by hand: {command}, which makes --gold {file}")


def check_human_labels(source: Source, what: str) -> People:
    """The votes in a source; raises SourceError if no pair of it says which reply people prefer.

    Of a source without votes it reads as far as the first label. what: the option that names it.
    """
    people = votes_in(source)
    for _, item in read_pairs(source):
        if isinstance(item, Contest) and item.human is not None:
            for note in people.notes():
                log.warning("%s %s: %s", what, source, note)
            return people
    raise without_labels(source, what, people)


def without_labels(source: Source, what: str, people: People) -> SourceError:
    """The error for a source in which no pair says which reply people prefer."""
    where = source if isinstance(source, str | Path) else None
    problem = f"no pair says which reply people prefer: {what} needs chosen and rejected, or a label"
    return SourceError("; ".join([problem, *people.notes()]), where)


def drawn_pairs(source: Source, people: People) -> list[Place]:
    """The pairs of a source but for those whose votes may not certify; people: the votes in it."""
    places = []
    for position, item in read_pairs(source):
        if not (isinstance(item, Contest) and people.is_only_left_out(item.key)):
            places.append((position, item))
    return places


def read_calibration(settings: LabelSettings, binding: Object) -> Calibration:
    """The calibration of --calibration; raises UsageError if it is another judge's or certifies too little."""
    calibration = load_calibration(str(settings.calibration))
    problems = binding_problems(calibration, binding)
    if problems:
        raise UsageError(f"--calibration {settings.calibration} was made for a different judge: {'; '.join(problems)}")
    if settings.agreement is not None:
        threshold(calibration, settings.agreement)
    return calibration


def calibrate(settings: LabelSettings, gold: Path, out: Path) -> Calibration:
    """The calibration that the labels in the folder `gold` give, written into `out`.

    Raises UsageError if it cannot be trusted, or does not certify the agreement that is asked for.
    """
    targets = {*TARGETS, *filter(None, [settings.agreement])}
    people = votes_in(str(settings.gold))
    report = calibrate_judge(gold, gold=people if people.lines else None, targets=sorted(targets))
    why = next(weaknesses(report.calibration), None)
    if why is not None:
        raise UsageError(f"--gold {settings.gold}: {why}; labels without a calibration come without --gold")
    report.save(out, plots=False)
    if settings.agreement is not None:
        threshold(report.calibration, settings.agreement)
    return report.calibration


def check_reasons(protocol: str, settings: LabelSettings) -> None:
    """Raise UsageError, before anything is spent, if beliefs after reasoning would all be below the confidence."""
    if protocol != "reason" or settings.gold is not None or settings.calibration is not None:
        return
    if settings.min_confidence is None or settings.min_confidence > 0.6:
        raise UsageError(
            "--protocol reason: uncalibrated beliefs after reasoning are cut to 0.4 … 0.6 (Bai et al. 2022): name "
            "--min-confidence of at most 0.6, or calibrate with --gold FILE or --calibration FILE"
        )
