"""The two ways in which a judge scores the replies to a prompt: each by itself, or one against the other.

By itself, a reply is worth the mean over principles of the log odds that it keeps to them (as RLBFF asks, arXiv
2509.21319). Against each other, the replies stand in a circle, and each is compared with its two neighbours in both
orders: the mean of `d = (L_AB - L_BA)/2` is free of a bias towards either place, which adds to both (see judge/flows).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cai.calls.seats import Flow, Played
from cai.constitution.principles import Principle
from cai.engine.ask_judge import AskJudge
from cai.engine.ask_keeps import AskKeeps, Kept
from cai.errors import RowDropped
from cai.judge.flows import WAVES, Pair, Verdict, judge
from cai.records import Message, Reading, Values, Vote
from cai.records import Protocol as HowAsked
from cai.rewards.calls import settled
from cai.rewards.conditioned import AskConditioned
from cai.rewards.reward import Rated, reply_id

CLIP = 4.0  # nats: a probability of 0.982, beyond which a judge's certainty says little about the reply

Play = Callable[[str, Flow[Any], Callable[[Any], Sequence[Reading]]], Awaitable[Played[Any]]]


@dataclass(frozen=True, slots=True)
class Group:
    """The replies to one prompt, of which `id` is the hash, and the principles that they are rated under."""

    id: str
    prompt: tuple[Message, ...]
    replies: Sequence[str]
    principles: Sequence[Principle]


class Scoring(Protocol):
    """A way to score the replies to a prompt."""

    @property
    def wanted(self) -> str:
        """What the judge should answer."""

    @property
    def letters(self) -> tuple[str, ...]:
        """The words whose probabilities are read."""

    @property
    def words(self) -> str:
        """The templates of the question."""

    @property
    def readings(self) -> int:
        """Of how many answers a flow consists, for each principle."""

    def check(self, principles: Sequence[Principle]) -> None:
        """Raise TemplateError if a question cannot be worded."""

    def most_calls(self, replies: int, principles: int) -> int:
        """How many calls the replies to one prompt take at most."""

    def rehearsed(self, group: Group, replies: int) -> tuple[Flow[Any], int]:
        """What is asked about the one reply of a group, and how often if it had so many of that length."""

    async def rate(self, play: Play, group: Group) -> list[Rated]:
        """Rate the replies; play: plays a flow, by a name of what it is about and by what reads its result."""


@dataclass(frozen=True, slots=True)
class ByPoint:
    """Each reply by itself: the mean of log odds that it keeps to a principle, each clipped to ±4 nats.

    weighted: principles count by weight, not alike. at_once: how many the judge is asked about in one request. clip: of
    a reward model, whose numbers are on a scale of their own, infinite.
    """

    ask: AskKeeps | AskConditioned
    weighted: bool
    at_once: int
    clip: float = CLIP
    wanted: str = "Yes or No"
    letters: tuple[str, ...] = ("Yes", "No")
    words: str = "screen.jinja"
    readings: int = 1

    def check(self, principles: Sequence[Principle]) -> None:
        """Raise TemplateError if a question cannot be worded."""
        self.ask.check(principles)

    def most_calls(self, replies: int, principles: int) -> int:
        """How many calls the replies to one prompt take at most."""
        return replies * math.ceil(principles / self.at_once)

    def rehearsed(self, group: Group, replies: int) -> tuple[Flow[Any], int]:
        """What is asked about the one reply of a group, and how often if it had so many of that length."""
        return self.ask.flow(group.prompt, group.replies[0], group.principles), replies

    async def rate(self, play: Play, group: Group) -> list[Rated]:
        """Rate each reply."""
        return await settled(self._rated(play, group, reply) for reply in group.replies)

    async def _rated(self, play: Play, group: Group, reply: str) -> Rated:
        flow = self.ask.flow(group.prompt, reply, group.principles)
        try:
            played = await play(reply_id(group.id, reply), flow, _of_kept)
        except RowDropped as dropped:
            return Rated(None, calls=dropped.calls, problem=str(dropped))
        votes: tuple[Kept, ...] = played.result
        return Rated(mean_odds(votes, weighted=self.weighted, clip=self.clip), tuple(map(asdict, votes)), played.calls)


@dataclass(frozen=True, slots=True)
class ByGroup:
    """The replies against each other: the mean preference of each over its neighbours in a circle.

    A tie and an invalid comparison count for nothing. Equal replies are one, with one reward. protocol, score,
    weighted: as for the pairs of a label run.
    """

    ask: AskJudge
    protocol: HowAsked
    score: bool
    weighted: bool
    at_once: int
    wanted: str = "A or B"
    letters: tuple[str, ...] = ("A", "B")
    words: str = "judge.jinja and verdict.jinja"
    readings: int = 2

    def check(self, principles: Sequence[Principle]) -> None:
        """Raise TemplateError if a question cannot be worded."""
        self.ask.check(principles)
        if self.protocol == "decide":
            self.ask.check_decisions(principles)

    def most_calls(self, replies: int, principles: int) -> int:
        """How many calls the replies to one prompt take at most."""
        per_order = {"vote": WAVES * principles, "reason": 2 * principles}
        return 2 * len(circle(replies)) * per_order.get(self.protocol, math.ceil(principles / self.at_once))

    def rehearsed(self, group: Group, replies: int) -> tuple[Flow[Any], int]:
        """What is asked about the one reply of a group, and how often if it had so many of that length."""
        [reply] = group.replies
        return self._flow(group, reply, f"{reply}."), len(circle(replies))

    async def rate(self, play: Play, group: Group) -> list[Rated]:
        """Rate the replies by their comparisons."""
        # In one order for any group: a pair is asked about with the same seeds whichever neighbour comes first.
        texts = sorted({reply.strip() for reply in group.replies})
        pairs = circle(len(texts))
        compared = await settled(self._compared(play, group, texts[one], texts[other]) for one, other in pairs)
        of_text: dict[str, list[Comparison]] = {text: [] for text in texts}
        for comparison in compared:
            of_text[comparison.a].append(comparison)
            of_text[comparison.b].append(comparison)
        places = {text: place for place, text in reversed([*enumerate(map(str.strip, group.replies))])}
        rated = {text: _mean_of(text, of_text[text], places) for text in texts}
        return [rated[reply.strip()] for reply in group.replies]

    def _flow(self, group: Group, a: str, b: str) -> Flow[Verdict]:
        pair = Pair(group.prompt, a, b)
        return judge(pair, group.principles, self.ask, self.protocol, score=self.score, weighted=self.weighted)

    async def _compared(self, play: Play, group: Group, a: str, b: str) -> Comparison:
        try:
            played = await play(reply_id(group.id, a, b), self._flow(group, a, b), _of_verdict)
        except RowDropped as dropped:
            return Comparison(a, b, None, (), dropped.calls, str(dropped))
        verdict: Verdict = played.result
        return Comparison(a, b, verdict.z, verdict.votes, played.calls)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge said of two replies; z: log odds that a is better, None if no vote is valid."""

    a: str
    b: str
    z: float | None
    votes: tuple[Vote, ...]
    calls: tuple[str, ...]
    problem: str | None = None

    def seen_from(self, reply: str, places: dict[str, int]) -> Values:
        """As a vote on one of both: how much it is preferred to `other`, the first reply of that text."""
        is_a = reply == self.a
        d = self.z
        if d is not None and not is_a:
            d = -d
        other = places[self.b if is_a else self.a]
        return {"other": other, "is": "a" if is_a else "b", "d": d, "votes": self.votes, "problem": self.problem}


def circle(count: int) -> list[tuple[int, int]]:
    """The pairs of neighbours among so many in a circle: as many, but one of two, and none of one."""
    if count < 3:
        return [(0, 1)][: count - 1]
    return [(place, (place + 1) % count) for place in range(count)]


def mean_odds(votes: Sequence[Kept], *, weighted: bool, clip: float = CLIP) -> float | None:
    """The mean of the valid log odds, each clipped to ±4 nats or to `clip`; None without any."""
    valid = [(vote.weight if weighted else 1.0, vote.odds) for vote in votes if vote.odds is not None]
    if not valid:
        return None
    heaviest = max(weight for weight, _ in valid)  # the sum of the largest floats is infinite
    total = math.fsum(weight / heaviest for weight, _ in valid)
    return math.fsum(weight / heaviest * min(max(odds, -clip), clip) for weight, odds in valid) / total


def _mean_of(text: str, comparisons: Sequence[Comparison], places: dict[str, int]) -> Rated:
    """What the comparisons of a reply come to."""
    votes = [comparison.seen_from(text, places) for comparison in comparisons]
    valid = [vote["d"] for vote in votes if vote["d"]]  # a tie of 0 says nothing, either
    reward = math.fsum(valid) / len(valid) if valid else None
    calls = tuple(call for comparison in comparisons for call in comparison.calls)
    problem = None if comparisons else "there is no other reply to compare it with"
    return Rated(reward, tuple(votes), calls, problem)


def _of_kept(votes: Sequence[Kept]) -> list[Reading]:
    return [vote.reading for vote in votes]


def _of_verdict(verdict: Verdict) -> list[Reading]:
    return [reading for vote in verdict.votes for reading in (vote.ab, vote.ba)]
