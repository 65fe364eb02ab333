"""Best of N: which of several replies to one prompt a judge prefers.

A reward model gives every reply a number. A judge of pairs is asked about every two replies, in both orders, and a
reply's score is its mean probability of being the better one: Borda counting, which finds the best up to constant
factors as well as anything can, whatever the probabilities of the pairs are (Shah and Wainwright 2018, JMLR 18:199). A
knockout would ask N - 1 pairs instead of N(N - 1)/2, but leaves most replies without a score, depends on who meets
whom, and loses the best reply by one wrong verdict: of a judge that is right in 70 % of the pairs, a simulation of
20,000 draws gives the best of 4 in 57 % of all and of 8 in 55 % by all pairs, in 51 % and 41 % by a knockout.

Pure. Knows nothing of models, files or principles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

from cai.errors import RowDropped
from cai.judge.belief import belief
from cai.records import Candidate, Comparison, Completion, Message, Protocol, Request

TIE = 1e-9  # between scores: sums of the same probabilities in another order differ by 1e-16


def competitors(replies: Sequence[Candidate]) -> dict[int, int]:
    """Places of the replies that can be used, each with the first place of its text, white space apart."""
    first: dict[tuple[str, ...], int] = {}
    usable = [(number, tuple(reply.text.split())) for number, reply in enumerate(replies) if reply.problem is None]
    return {number: first.setdefault(words, number) for number, words in usable}


def pairs_of(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Every two of the replies, the lower number first."""
    return itertools.combinations(sorted(numbers), 2)


def rewards(
    prompt: Sequence[Message], texts: Sequence[str]
) -> Generator[list[Request], list[Completion], tuple[float, ...]]:
    """Ask a reward model for the number of every reply; raises RowDropped where one is not finite."""
    turns: list[Message] = [{"role": "assistant", "content": text} for text in texts]
    answers = yield [Request("judge", (*prompt, turn), score=("",), max_tokens=1) for turn in turns]
    numbers = tuple(done.scores[0] if done.scores else math.nan for done in answers)
    if not all(map(math.isfinite, numbers)):
        raise RowDropped("model_error", "judge", "the reward model gave no finite number")
    return numbers


def mean_wins(comparisons: Iterable[Comparison], protocol: Protocol) -> dict[int, float]:
    """Of every reply with a valid vote the mean probability of being better than those it was compared with."""
    won: dict[int, list[float]] = {}
    for pair in comparisons:
        p = belief(pair.z, protocol, None)
        if p is not None:
            won.setdefault(pair.a, []).append(p)
            won.setdefault(pair.b, []).append(1 - p)
    return {number: math.fsum(values) / len(values) for number, values in sorted(won.items())}


def pick(scores: Mapping[int, float]) -> int:
    """The reply with the highest score; raises RowDropped where two share it, for then nobody knows which is better."""
    highest = max(scores.values())
    best = [number for number, score in scores.items() if highest - score <= TIE]
    if len(best) > 1:
        named = " and ".join(map(str, best))
        raise RowDropped("low_confidence", "judge", f"replies {named} share the highest score, {highest:.4g}")
    return best[0]


def unread(comparisons: Iterable[Comparison]) -> str:
    """Why no vote of a prompt was valid, in the words of the first."""
    readings = (reading for pair in comparisons for vote in pair.votes for reading in (vote.ab, vote.ba))
    return next((reading.problem for reading in readings if reading.problem is not None), "no vote was valid")
