"""Reads letters: log probabilities, or words, become the preference of one vote."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from cai.records import Completion, Reading

LEAST_MASS = 0.5  # of both letters together; below it the judge wanted to say something else
NEVER = -9999.0  # what OpenAI's protocol says of a token that is too unlikely for its list: no log probability
ABOVE = 0.1  # by which rounding, as of 16-bit floats, may put a log probability above 0
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


def log_ratio(reading: Reading) -> float | None:
    """How much likelier the first letter is than the second, in nats; None where the reading does not count."""
    if reading.problem is not None or reading.first is None or reading.second is None:
        return None
    return reading.first - reading.second


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(v))) without overflow; `values` is not empty."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
