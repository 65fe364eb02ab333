"""The judge: what a model believes of two replies, with the position bias taken out.

Pure. Each protocol is a flow (DESIGN §3) that asks both orders of all drawn principles at once; `read_letters` turns an
answer into a `Reading`, and `weigh` readings into one belief. Knows nothing of models or files.

With a shown as A, `L_AB = logp(A) - logp(B)`; with b shown as A, `L_BA` likewise. If the bias towards the first adds to
both, `L_AB = d + bias` and `L_BA = -d + bias`, so that `d = (L_AB - L_BA)/2` is free of it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from cai.constitution.principles import Principle
from cai.engine.ask_judge import AskJudge
from cai.errors import RowDropped, UsageError
from cai.judge.belief import Verdict, _votes, count_votes, weigh
from cai.judge.letters import read_choice, read_letters
from cai.records import Abilities, Completion, Message, Protocol, Reading, Request, Vote

WAVES = 3  # of votes, where they stay split
CHECKED = 20  # pairs after which a run looks whether the judge can be read at all

Flow = Generator[list[Request], list[Completion], "Verdict"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one conversation."""

    prompt: tuple[Message, ...]
    a: str
    b: str


def choose_protocol(asked: str | None, can: Abilities, name: str) -> Protocol:
    """The protocol asked for, or the best one for what a model can do; raises UsageError where it cannot."""
    if can.reward or asked == "reward":
        if not can.reward or asked not in (None, "reward"):
            what = "is a reward model: its protocol is reward" if can.reward else "is no reward model: use reward:PATH"
            raise UsageError(f"{name} {what}")
        return "reward"
    letters: Protocol | None = "logprob" if can.logprobs else "score" if can.scoring else None
    if asked is None:
        return letters or "vote"
    if asked == "vote":
        return "vote"
    if asked == "logprob" and can.logprobs:
        return "logprob"
    if asked == "score" and can.scoring:
        return "score"
    if asked == "reason" and letters is not None:
        return "reason"
    if asked in ("logprob", "score", "reason"):
        hint = f"use --protocol {letters or 'vote'}"
        raise UsageError(f"--protocol {asked}: {name} gives no such probabilities; {hint}")
    raise UsageError(f"--protocol {asked!r} must be logprob, score, vote, reason or reward")


# Flows: the requests of a are listed before those of b, so that those which share a prefix come one after the other


def by_letter(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, score: bool, weighted: bool) -> Flow:
    """Ask for the letter's probability alone: both orders of every principle, side by side."""
    answers = yield [
        ask.letter(pair.prompt, first, second, principle, score=score)
        for first, second in ((pair.a, pair.b), (pair.b, pair.a))
        for principle in principles
    ]
    return weigh(_votes(principles, [read_letters(done) for done in answers]), weighted=weighted)


def by_reasons(pair: Pair, principles: Sequence[Principle], ask: AskJudge, *, score: bool, weighted: bool) -> Flow:
    """Let the judge reason first, then ask for the letter's probability."""
    asked = [
        (first, second, principle) for first, second in ((pair.a, pair.b), (pair.b, pair.a)) for principle in principles
    ]
    reasons = yield [ask.reasons(pair.prompt, *question) for question in asked]
    said = [done.text.strip() for done in reasons]
    requests = [
        ask.letter(pair.prompt, *question, score=score, reasons=text)
        for question, text in zip(asked, said, strict=True)
        if text
    ]
    answers = iter((yield requests) if requests else ())
    readings = [read_letters(next(answers)) if text else Reading(problem="no reasons were given") for text in said]
    return weigh(_votes(principles, readings), weighted=weighted)


def by_votes(pair: Pair, principles: Sequence[Principle], ask: AskJudge) -> Flow:
    """Ask for the letter in words, wave by wave while the votes are split; every wave has both orders of all.

    With x of n valid votes for a, `p = (x + 1/2)/(n + 1)`: the mean under Jeffreys' prior.
    """
    votes: list[Vote] = []
    for wave in range(WAVES):
        answers = yield [
            ask.vote(pair.prompt, first, second, principle, wave)
            for first, second in ((pair.a, pair.b), (pair.b, pair.a))
            for principle in principles
        ]
        votes += _votes(principles, [read_choice(done, named=not ask.prefix) for done in answers], wave)
        for_a, count = count_votes(votes)
        if for_a in (0, count):  # unanimous, or none is valid: no reason to ask again
            break
    z = math.log(for_a + 0.5) - math.log(count - for_a + 0.5) if count else None
    return Verdict(tuple(votes), z)


def by_reward(pair: Pair, ask: AskJudge) -> Flow:
    """Ask a reward model for both replies; the log odds are the difference (Bradley and Terry 1952)."""
    answers = yield [ask.reward(pair.prompt, reply) for reply in (pair.a, pair.b)]
    numbers = [done.scores[0] if done.scores else math.nan for done in answers]
    if not all(map(math.isfinite, (*numbers, numbers[0] - numbers[1]))):
        raise RowDropped("model_error", "judge", "the reward model gave no finite number")
    return Verdict((), numbers[0] - numbers[1], (numbers[0], numbers[1]))


def judge(
    pair: Pair,
    principles: Sequence[Principle],
    ask: AskJudge,
    protocol: Protocol,
    *,
    score: bool,
    weighted: bool,
) -> Flow:
    """The flow of a protocol. score: read letters by scoring; weighted: principles count by weight, not alike."""
    if protocol == "reward":
        return by_reward(pair, ask)
    if protocol == "vote":
        return by_votes(pair, principles, ask)
    if protocol == "reason":
        return by_reasons(pair, principles, ask, score=score, weighted=weighted)
    return by_letter(pair, principles, ask, score=score, weighted=weighted)


# Readings


# Beliefs
