"""The judge: what a model believes of two replies, with the position bias taken out.

Pure. Each protocol is a flow (DESIGN §3) that asks both orders of all drawn principles at once; `read_letters` turns an
answer into a `Reading`, and `weigh` readings into one belief. Knows nothing of models or files.

With a shown as A, `L_AB = logp(A) - logp(B)`; with b shown as A, `L_BA` likewise. If the bias towards the first adds to
both, `L_AB = d + bias` and `L_BA = -d + bias`, so that `d = (L_AB - L_BA)/2` is free of it.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.constitution.principles import Principle
from cai.engine.ask import AskJudge
from cai.errors import RowDropped, UsageError
from cai.judge.metrics import probability
from cai.records import Abilities, Completion, Message, Protocol, Reading, Request, Vote

LEAST_MASS = 0.5  # of both letters together; below it the judge wanted to say something else
WAVES = 3  # of votes, where they stay split
CLAMP = 0.6  # uncalibrated beliefs after reasoning lie in [0.4, 0.6] (Bai et al. 2022, section 4.1)
NEVER = -9999.0  # what OpenAI's protocol says of a token that is too unlikely for its list: no log probability
ABOVE = 0.1  # by which rounding, as of 16-bit floats, may put a log probability above 0
CHECKED = 20  # pairs after which a run looks whether the judge can be read at all
WRAPPING = " \t\n\r▁Ġ\"'`“”‘’*_()[]{}<>.:,;!|"  # what may stand around a letter in one token or answer
NOUN = r"(?i:reply|response|answer|option|choice)"
# A letter that stands for a reply: not the article of "A kind reply …", nor one of two as in "A or B", "A/B".
LETTER = (
    rf"(?:{NOUN}\W{{1,4}})?(?:\\\w+\{{)?([AB])(?![\w'’]|\s*[/&]|\s*,\s*n?or\b"
    r"|[^\S\n]+(?!(?:as|because|by|due|for|in|on|over|since)\b)[A-Za-z])"
)
STATED = r"(?:[^\w.,;!?]{0,4}:\W{0,8}|\s+is\W{1,8})"  # "…: ", "… is "
NAMED = (
    re.compile(  # "Verdict: B", "the better reply is A", "I choose Reply B"; then "Reply A is better", not of "nor …"
        r"\b(?<!not )(?<!n't )(?<!n’t )(?<!never )"
        rf"(?:(?i:verdict|choose|prefer|pick|go\s+with|boxed|better|best)(?:\s+(?:one|{NOUN}))?"
        rf"(?:{STATED}|[^\w.,;!?\n]{{0,8}})|{NOUN}{STATED}){LETTER}"
        rf"|(\bn?or\s+)?\b(?:{NOUN}\W{{1,4}})?([AB])\s+(?i:is|was|does|seems|would\s+be)\s+"
        r"(?:(?i:the|much|far|clearly|slightly|somewhat|therefore|overall)\s+)*(?i:better|best|preferable)\b"
    )
)
ALONE = re.compile(rf"[{re.escape(WRAPPING)}]*(?:{NOUN}\W{{1,4}})?([AB])[{re.escape(WRAPPING)}]*")
FIRST = re.compile(rf"[{re.escape(WRAPPING)}]*{LETTER}")

Flow = Generator[list[Request], list[Completion], "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge believes of one pair: log odds `z` that a is better; None where no vote is valid."""

    votes: tuple[Vote, ...]
    z: float | None
    rewards: tuple[float, float] | None = None


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


def draw_for_judge(principles: Sequence[Principle], count: int, seed: int, row: str) -> tuple[Principle, ...]:
    """`count` principles by weight, none twice; all of them, in their order, where there are no more.

    Depends on the seed and the row id alone.
    """
    if count >= len(principles):
        return tuple(principles)
    chance = random.Random(f"judge\0{seed}\0{row}")
    left, drawn = list(principles), []
    for _ in range(count):
        heaviest = max(p.weight for p in left)
        [principle] = chance.choices(left, weights=[p.weight / heaviest for p in left])
        left.remove(principle)
        drawn.append(principle)
    return tuple(drawn)


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


def read_letters(done: Completion) -> Reading:
    """The log probabilities of the letters in an answer: both as scored, or each summed over its forms in the list."""
    if done.scores is not None:
        first, second = done.scores
        return _reading(first, second, done.scores, bounded=False)
    if done.finish == "content_filter":
        return Reading(problem="the provider's filter withheld the answer")
    listed = {token: value for token, value in (done.logprobs or ({},))[0].items() if not value <= NEVER}
    if not listed:
        return Reading(problem="the answer lists no probabilities")
    found = [[value for token, value in listed.items() if token.strip(WRAPPING) == letter] for letter in "AB"]
    letters = [value for values in found for value in values]
    if not letters:
        likeliest = max(listed, key=lambda token: listed[token])
        return Reading(mass=0.0, problem=f"neither letter is among the {len(listed)} likeliest tokens: {likeliest!r}")
    floor = min(listed.values())
    first, second = (log_sum(values) if values else floor for values in found)
    read = _reading(first, second, letters, bounded=not all(found))
    if not all(found) and len(letters) == len(listed) and read.problem is None:
        letter = "B" if found[0] else "A"
        return Reading(mass=read.mass, problem=f"the answer lists nothing that says how unlikely {letter} is")
    return read


def _reading(first: float, second: float, letters: Sequence[float], *, bounded: bool) -> Reading:
    """A reading of both log probabilities; letters: those whose sum is the letters' mass."""
    if not (math.isfinite(first) and math.isfinite(second)):
        return Reading(problem="a log probability is not finite")
    if max(first, second) > ABOVE:
        return Reading(problem="a log probability is above 0")
    mass = min(math.fsum(map(math.exp, letters)), 1.0)  # above 1 by rounding
    problem = f"the letters have {mass:.2f} of the probability" if mass < LEAST_MASS else None
    choice: Literal["first", "second"] | None = "first" if first > second else "second" if second > first else None
    return Reading(first=first, second=second, mass=mass, bounded=bounded, choice=choice, problem=problem)


def read_choice(done: Completion, *, named: bool) -> Reading:
    """The letter that an answer names: all of it, or the last one after a word such as "Reply".

    named: whether words around the letter are expected; after a prefix the letter comes first.
    """
    if done.finish == "content_filter":
        return Reading(problem="the provider's filter withheld the answer")
    text, cut = done.text.strip(), done.finish == "length"
    found = ALONE.fullmatch(text)
    if found is None and not named:
        found = FIRST.match(text)
    letter = found[1] if found else None if cut else _last_named(text)
    if letter is None:
        return Reading(problem="cut before it named a letter" if cut else f"names no letter: {text[:60]!r}")
    return Reading(choice="first" if letter == "A" else "second")


def _last_named(text: str) -> str | None:
    """The letter that stands alone in the last line, or the last that is called the better, or the one in front."""
    last = ALONE.fullmatch(text.rpartition("\n")[2])
    if last:
        return last[1]
    named = [found[1] or found[3] for found in NAMED.finditer(text) if not found[2]]
    if named:
        return named[-1]
    front = FIRST.match(text)
    starts = set(re.findall(r"^\W*([AB])\b", text, re.MULTILINE))  # both: a list of what is said of each
    return front[1] if front and starts <= {front[1]} else None


def _votes(principles: Sequence[Principle], readings: Sequence[Reading], wave: int = 0) -> list[Vote]:
    """Votes from the readings of one wave: first all with a in front, then all with b."""
    votes = []
    for principle, ab, ba in zip(principles, readings, readings[len(principles) :], strict=False):
        d = bias = None
        a_first, b_first = log_ratio(ab), log_ratio(ba)
        if a_first is not None and b_first is not None:
            d, bias = (a_first - b_first) / 2, (a_first + b_first) / 2
        votes.append(Vote(principle=principle.id, weight=principle.weight, wave=wave, ab=ab, ba=ba, d=d, b=bias))
    return votes


def log_ratio(reading: Reading) -> float | None:
    """How much likelier the first letter is than the second, in nats; None where the reading does not count."""
    if reading.problem is not None or reading.first is None or reading.second is None:
        return None
    return reading.first - reading.second


# Beliefs


def weigh(votes: Iterable[Vote], *, weighted: bool) -> Verdict:
    """The mean preference of the valid votes; weighted by principle where all were asked, else drawing did that."""
    votes = tuple(votes)
    return Verdict(votes, mean_preference(votes, weighted=weighted))


def mean_preference(votes: Iterable[Vote], *, weighted: bool) -> float | None:
    """The mean of d over valid votes; None without any."""
    valid = [(vote.weight if weighted else 1.0, vote.d) for vote in votes if vote.d is not None]
    if not valid:
        return None
    heaviest = max(weight for weight, _ in valid)  # the sum of the largest floats is no number
    total = math.fsum(weight / heaviest for weight, _ in valid)
    return math.fsum(weight / heaviest * d for weight, d in valid) / total


def count_votes(votes: Iterable[Vote]) -> tuple[int, int]:
    """Votes for a, and all, among the principles that were answered in both orders."""
    choices = [
        choice for vote in votes if vote.valid for choice in (vote.ab.choice == "first", vote.ba.choice == "second")
    ]
    return sum(choices), len(choices)


def belief(z: float | None, protocol: Protocol, temperature: float | None) -> float | None:
    """The probability that a is better; None where z is. After reasoning and uncalibrated it lies in [0.4, 0.6]."""
    if z is None:
        return None
    p = probability(z, 1.0 if temperature is None else temperature)
    if protocol == "reason" and temperature is None:
        return CLAMP if p > CLAMP else 1.0 - CLAMP if p < 1.0 - CLAMP else p
    return p


def readability(votes: Iterable[Vote]) -> list[float]:
    """Of every reading its letter mass; of votes in words 1 where a letter was named; 0 where nothing could be read."""
    readings = [reading for vote in votes for reading in (vote.ab, vote.ba)]
    return [float(reading.choice is not None) if reading.mass is None else reading.mass for reading in readings]


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(v))) without overflow; `values` is not empty."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
