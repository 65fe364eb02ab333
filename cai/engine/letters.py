"""How likely a model makes each of two letters, read from its answer: those of a judge, or the Yes and No of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from cai.calls.decisions import Decided
from cai.folder.journal.answers import NEVER, log_sum
from cai.records import Completion, Reading

LISTED = 20  # likeliest tokens whose probabilities are asked for: the most that OpenAI's protocol lists
LETTER_TOKENS = 8  # for a letter after the prefix
LEAST_MASS = 0.5  # of both letters together; below it the judge wanted to say something else
LEAST = 1e-6  # of a probability that comes as such: one of 0 would be infinitely far from the other
NO_MASS = "not known: a typed question is answered with probabilities among its choices alone"
ABOVE = 0.1  # by which rounding, as of 16-bit floats, may put a log probability above 0
WRAPPING = " \t\n\r▁Ġ\"'`“”‘’*_()[]{}<>.:,;!|"  # what may stand around a letter in one token or answer


def read_letters(answer: Completion, letters: tuple[str, str] = ("A", "B")) -> Reading:
    """The log probabilities of two letters, or words of one token, in an answer.

    Both as they were scored, or each summed over its forms in the list. What is no log probability makes an answer
    unreadable if it is a letter's; any other token is left out with it.
    """
    if answer.scores is not None:
        if len(answer.scores) != len(letters):
            return Reading(problem=f"the answer has {len(answer.scores)} scores for {len(letters)} letters")
        first, second = answer.scores
        return _reading(first, second, answer.scores, bounded=False)
    if answer.finish == "content_filter":
        return Reading(problem="the provider's filter withheld the answer")
    tokens = (answer.logprobs or ({},))[0]
    forms = {name: [v for token, v in tokens.items() if is_form(token, name) and not v <= NEVER] for name in letters}
    listed = {token: value for token, value in tokens.items() if NEVER < value <= ABOVE}
    if not listed and not any(forms.values()):
        return Reading(problem="the answer lists no probabilities")
    values = [value for name in letters for value in forms[name]]
    if not values:
        likeliest = max(listed, key=lambda token: listed[token])
        return Reading(mass=0.0, problem=f"neither letter is among the {len(listed)} likeliest tokens: {likeliest!r}")
    # A letter that is not listed is at most as likely as the last token that is.
    floor = [min(listed.values(), default=math.nan)]
    unlisted = [letter for letter in letters if not forms[letter]]
    first, second = (log_sum(forms[letter] or floor) for letter in letters)
    reading = _reading(first, second, values, bounded=bool(unlisted))
    if unlisted and len(values) == len(listed) and reading.problem is None:
        return Reading(mass=reading.mass, problem=f"the answer lists nothing that says how unlikely {unlisted[0]} is")
    return reading


def read_decided(decided: Decided) -> Reading:
    """The log probabilities of the first choice and the second; outside of [1e-6, 1 - 1e-6] they are clipped.

    Their mass is not known: they are probabilities among the choices.
    """
    if decided.problem is not None:
        return Reading(problem=decided.problem)
    first, second = (math.log(min(max(p, LEAST), 1 - LEAST)) for p in decided.p)
    bounded = min(decided.p) < LEAST
    return Reading(first=first, second=second, bounded=bounded, choice=_likelier(first, second))


def is_form(token: str, name: str) -> bool:
    """Whether a token is a letter with something around it, or a word in any case: "a" is a word of its own."""
    text = token.strip(WRAPPING)
    return text == name or (len(name) > 1 and text.casefold() == name.casefold())


def _reading(first: float, second: float, values: Sequence[float], *, bounded: bool) -> Reading:
    """A reading of both log probabilities; values: those whose sum is the letters' mass."""
    if not (math.isfinite(first) and math.isfinite(second)):
        return Reading(problem="a log probability is not finite")
    if max(first, second) > ABOVE:
        return Reading(problem="a log probability is above 0")
    mass = min(math.fsum(map(math.exp, values)), 1.0)  # above 1 by rounding
    problem = f"the letters have {mass:.2f} of the probability" if mass < LEAST_MASS else None
    choice = _likelier(first, second)
    return Reading(first=first, second=second, mass=mass, bounded=bounded, choice=choice, problem=problem)


def _likelier(first: float, second: float) -> Literal["first", "second"] | None:
    if first == second:
        return None
    if first > second:
        return "first"
    return "second"


def probability(z: float, temperature: float = 1.0) -> float:
    """sigma(z / temperature); `probability(-z)` is `1 - probability(z)` to the last bit: swapped pairs mirror."""
    larger = 1 / (1 + math.exp(-abs(z / temperature)))  # in [0.5, 1], where 1 - larger is exact
    return 1 - larger if z < 0 else larger


def log_ratio(reading: Reading) -> float | None:
    """How much likelier the first letter is than the second, in nats; None if the reading does not count."""
    if reading.problem is not None or reading.first is None or reading.second is None:
        return None
    return reading.first - reading.second
