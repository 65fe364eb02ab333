"""From two replies to a probability: the protocols of a judge, its letters and votes, z and p.

Each protocol is a flow: a generator that yields the requests it needs next, both orders of all principles at once, is
sent the answers, and returns a verdict.

With a shown as A, `L_AB = logp(A) - logp(B)`; with b shown as A, `L_BA` likewise. If the bias towards the first adds to
both, `L_AB = d + bias` and `L_BA = -d + bias`, so that `d = (L_AB - L_BA)/2` is free of it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.calls.decisions import read_decisions
from cai.constitution.principles import Principle
from cai.engine.ask_judge import AskJudge, Question
from cai.engine.letters import log_ratio, probability, read_decided, read_letters
from cai.errors import RowDropped
from cai.judge.words import choice
from cai.records import Completion, Protocol, Reading, Request, Turns, Vote

WAVES = 3  # of votes, while they stay split
CLAMP = 0.6  # uncalibrated beliefs after reasoning lie in [0.4, 0.6] (Bai et al. 2022, section 4.1)
PLACES: dict[str, Literal["first", "second"]] = {"A": "first", "B": "second"}  # of the reply that a letter names


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge believes of one pair: log odds `z` that a is better; None if no vote is valid."""

    votes: tuple[Vote, ...]
    z: float | None
    rewards: tuple[float, float] | None = None


Flow = Generator[list[Request], list[Completion], Verdict]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one conversation."""

    prompt: Turns
    a: str
    b: str

    def questions(self, principles: Sequence[Principle]) -> Iterator[Question]:
        """What is shown, in the order of `votes_of`: a first under each principle, then b first.

        Questions that share a prefix come one after the other.
        """
        for first, second in ((self.a, self.b), (self.b, self.a)):
            for principle in principles:
                yield self.prompt, first, second, principle


# Protocols


def judge(
    pair: Pair, principles: Sequence[Principle], ask: AskJudge, protocol: Protocol, *, score: bool, weighted: bool
) -> Flow:
    """The flow of a protocol. score: read letters by scoring; weighted: principles count by weight, not alike."""
    if protocol == "reward":
        return by_reward(pair, ask)
    if protocol == "conditioned":
        return by_condition(pair, principles, ask, weighted=weighted)
    if protocol == "vote":
        return by_votes(pair, principles, ask)
    if protocol == "decide":
        return by_decisions(pair, principles, ask, weighted=weighted)
    if protocol == "reason":
        return by_reasons(pair, principles, ask, score=score, weighted=weighted)
    return by_letter(pair, principles, ask, score=score, weighted=weighted)


def by_letter(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, score: bool, weighted: bool) -> Flow:
    """Ask only for the letter's probability: both orders of every principle, side by side."""
    answers = yield [ask.letter(question, score=score) for question in pair.questions(principles)]
    votes = votes_of(principles, [read_letters(answer) for answer in answers])
    return Verdict(votes, mean_preference(votes, weighted=weighted))


def by_decisions(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, weighted: bool) -> Flow:
    """Ask for the probability of each reply, under all principles in one request for each order."""
    requests = [
        request
        for first, second in ((pair.a, pair.b), (pair.b, pair.a))
        for request in ask.decide(pair.prompt, first, second, principles)
    ]
    answers = yield requests
    readings: list[Reading] = []
    for request, answer in zip(requests, answers, strict=True):
        readings += map(read_decided, read_decisions(answer.text, request.decisions))
    votes = votes_of(principles, readings)
    return Verdict(votes, mean_preference(votes, weighted=weighted))


def by_reasons(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, score: bool, weighted: bool) -> Flow:
    """Let the judge reason first, then ask for the letter's probability."""
    questions = list(pair.questions(principles))
    answers = yield [ask.reasons(question) for question in questions]
    reasons = {number: answer.text.strip() for number, answer in enumerate(answers) if answer.text.strip()}
    readings = [Reading(problem="no reasons were given") for _ in questions]
    if reasons:
        answers = yield [ask.letter(questions[n], score=score, reasons=text) for n, text in reasons.items()]
        for number, answer in zip(reasons, answers, strict=True):
            readings[number] = read_letters(answer)
    votes = votes_of(principles, readings)
    return Verdict(votes, mean_preference(votes, weighted=weighted))


def by_votes(pair: Pair, principles: Sequence[Principle], ask: AskJudge) -> Flow:
    """Ask for the letter in words, wave by wave while the votes are split; every wave has both orders of all."""
    votes: tuple[Vote, ...] = ()
    for wave in range(WAVES):
        answers = yield [ask.vote(question, wave) for question in pair.questions(principles)]
        votes += votes_of(principles, [read_choice(answer, named=not ask.prefix) for answer in answers], wave)
        for_a, count = count_votes(votes)
        if for_a in (0, count):  # unanimous, or none is valid: no reason to ask again
            break
    return Verdict(votes, odds_of_votes(votes))


def by_reward(pair: Pair, ask: AskJudge) -> Flow:
    """Ask a reward model for both replies; the log odds are the difference (Bradley and Terry 1952)."""
    answers = yield [ask.reward(pair.prompt, reply) for reply in (pair.a, pair.b)]
    a, b = map(reward_in, answers)
    return Verdict((), _finite(a - b), (a, b))


def by_condition(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, weighted: bool) -> Flow:
    """Ask a reward model for both replies under each principle, whose vote is the difference; there are no orders."""
    prompts = [ask.told(pair.prompt, principle) for principle in principles]
    answers = yield [ask.reward(prompt, reply) for reply in (pair.a, pair.b) for prompt in prompts]
    rewards = list(map(reward_in, answers))
    votes = []
    for principle, a, b in zip(principles, rewards, rewards[len(principles) :], strict=False):
        votes.append(_vote_of(principle, _finite(a - b)))
    return Verdict(tuple(votes), mean_preference(votes, weighted=weighted))


def reward_in(answer: Completion) -> float:
    """The number of a reward model; RowDropped for one that is not finite."""
    [reward] = answer.scores or (math.nan,)
    return _finite(reward)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise RowDropped("model_error", "judge", "the reward model gave no finite number")
    return value


def _vote_of(principle: Principle, d: float) -> Vote:
    """The vote of a judge that reads each reply by itself, in whichever order they are shown."""
    ab, ba = Reading(choice="first"), Reading(choice="second")
    if d < 0:
        ab, ba = ba, ab
    if d == 0:
        ab = ba = Reading()
    return Vote(principle=principle.id, weight=principle.weight, ab=ab, ba=ba, d=d)


# Letters


def read_choice(answer: Completion, *, named: bool) -> Reading:
    """The letter that an answer chooses in words.

    named: whether words around the letter are expected; after a prefix the letter comes first.
    """
    if answer.finish == "content_filter":
        return Reading(problem="the provider's filter withheld the answer")
    cut = answer.finish == "length"
    letter = choice(answer.text, named=named, cut=cut)
    if letter is not None:
        return Reading(choice=PLACES[letter])
    if cut:
        return Reading(problem="cut before it named a letter")
    return Reading(problem=f"names no letter: {answer.text.strip()[:60]!r}")


# Votes, z and p


def votes_of(principles: Sequence[Principle], readings: Sequence[Reading], wave: int = 0) -> tuple[Vote, ...]:
    """Votes from the readings of one wave: first all with a in front, then all with b."""
    votes = []
    for principle, ab, ba in zip(principles, readings, readings[len(principles) :], strict=False):
        d = bias = None
        a_first = log_ratio(ab)
        b_first = log_ratio(ba)
        if a_first is not None and b_first is not None:
            d = (a_first - b_first) / 2
            bias = (a_first + b_first) / 2
        votes.append(Vote(principle=principle.id, weight=principle.weight, wave=wave, ab=ab, ba=ba, d=d, b=bias))
    return tuple(votes)


def mean_preference(votes: Iterable[Vote], *, weighted: bool) -> float | None:
    """The mean of d over valid votes; None without any.

    weighted: count each vote by its principle's weight. False for principles drawn by weight, which has counted it.
    """
    valid = [(vote.weight, vote.d) for vote in votes if vote.d is not None]
    if not valid:
        return None
    if not weighted:
        return math.fsum(d for _, d in valid) / len(valid)
    heaviest = max(weight for weight, _ in valid)  # the sum of the largest floats is infinite
    total = math.fsum(weight / heaviest for weight, _ in valid)
    return math.fsum(weight / heaviest * d for weight, d in valid) / total


def odds_by_principle(votes: Sequence[Vote]) -> dict[str, float | None]:
    """Log odds that a is better by the votes under each principle; None if none of them is valid."""
    found = {}
    for principle in dict.fromkeys(vote.principle for vote in votes):
        own = [vote for vote in votes if vote.principle == principle]
        odds = mean_preference(own, weighted=False)
        found[principle] = odds_of_votes(own) if odds is None else odds
    return found


def is_valid(vote: Vote) -> bool:
    """Whether both orders were answered."""
    return vote.ab.problem is None and vote.ba.problem is None


def count_flips(votes: Iterable[Vote]) -> tuple[int, int]:
    """Valid votes that choose the same place in both orders, and all valid votes; an even order does not flip."""
    valid = [vote for vote in votes if is_valid(vote)]
    return sum(vote.ab.choice == vote.ba.choice is not None for vote in valid), len(valid)


def winner(z: float) -> float:
    """1 if the log odds are for the first reply, 0 for the second, 0.5 for neither."""
    return 0.5 + ((z > 0) - (z < 0)) / 2


def odds_of_votes(votes: Iterable[Vote]) -> float | None:
    """Log odds that a is better from votes in words; None if none is valid.

    With x of n valid votes for a, `p = (x + 1/2)/(n + 1)`: the mean under Jeffreys' prior.
    """
    for_a, count = count_votes(votes)
    if not count:
        return None
    return math.log(for_a + 0.5) - math.log(count - for_a + 0.5)


def count_votes(votes: Iterable[Vote]) -> tuple[int, int]:
    """Votes for a, and all votes, among the principles that were answered in both orders."""
    valid = [vote for vote in votes if is_valid(vote)]
    for_a = sum((vote.ab.choice == "first") + (vote.ba.choice == "second") for vote in valid)
    return for_a, 2 * len(valid)


def belief(z: float | None, protocol: Protocol, temperature: float | None) -> float | None:
    """The probability that a is better; None if z is. After reasoning and uncalibrated it lies in [0.4, 0.6]."""
    if z is None:
        return None
    p = probability(z, temperature or 1.0)
    if protocol == "reason" and temperature is None:
        return min(max(p, 1.0 - CLAMP), CLAMP)
    return p
