"""How likely a model makes each of several levels or labels, read from its answer, and the value that follows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cai.calls.decisions import Decided
from cai.engine.letters import ABOVE, LEAST_MASS, is_form
from cai.folder.journal.answers import NEVER
from cai.records import Completion


@dataclass(frozen=True, slots=True)
class Grade:
    """What a model makes of one reply.

    p: the probability of each level in all that could be answered. mass: of all levels together; None: the model gives
    no probabilities. value: None if the grade is invalid; then `problem` says why.
    """

    p: dict[str, float] = field(default_factory=dict)
    mass: float | None = None
    value: float | None = None
    problem: str | None = None


def read_levels(answer: Completion, levels: Mapping[str, float]) -> Grade:
    """The value Σ v·p / Σ p over levels with the values v; invalid if Σ p, the mass, is below one half.

    levels: the value of each by name, in the order in which their continuations were scored; else each is one token,
    and its forms in the list are summed. A level that is not listed is less likely than every token that is: it counts
    as 0, and is left out of `p`.
    """
    if answer.scores is not None:
        if len(answer.scores) != len(levels):
            return Grade(problem=f"the answer has {len(answer.scores)} scores for {len(levels)} levels")
        return _grade({name: [score] for name, score in zip(levels, answer.scores, strict=True)}, levels)
    if answer.finish == "content_filter":
        return Grade(problem="the provider's filter withheld the answer")
    tokens = (answer.logprobs or ({},))[0]
    forms = {name: [v for token, v in tokens.items() if is_form(token, name) and not v <= NEVER] for name in levels}
    if any(forms.values()):
        return _grade({name: values for name, values in forms.items() if values}, levels)
    listed = {token: value for token, value in tokens.items() if NEVER < value <= ABOVE}
    if not listed:
        return Grade(problem="the answer lists no probabilities")
    likeliest = max(listed, key=lambda token: listed[token])
    return Grade(
        mass=0.0, problem=f"no level is among the {len(listed)} likeliest tokens, of which the first is {likeliest!r}"
    )


def read_predicates(decided: Sequence[Decided], levels: Mapping[str, float]) -> Grade:
    """The same value from the probabilities that each level, in their order, is the right one; the mass is not known.

    They need not add up to 1; below one half in all, no level fits.
    """
    for name, each in zip(levels, decided, strict=True):
        if each.problem is not None:
            return Grade(problem=f"level {name}: {each.problem}")
    p = {name: each.p[0] for name, each in zip(levels, decided, strict=True)}
    total = math.fsum(p.values())
    if total < LEAST_MASS:
        return Grade(p, problem=f"no level fits: their probabilities add up to {total:.2f}")
    return Grade(p, value=math.fsum(levels[name] * share for name, share in p.items()) / total)


def _grade(logs: Mapping[str, list[float]], levels: Mapping[str, float]) -> Grade:
    """The grade from the log probabilities of each level's forms."""
    every = [value for values in logs.values() for value in values]
    if not all(map(math.isfinite, every)):
        return Grade(problem="a log probability is not finite")
    if max(every) > ABOVE:
        return Grade(problem="a log probability is above 0")
    p = {name: math.fsum(map(math.exp, values)) for name, values in logs.items()}
    total = math.fsum(p.values())
    mass = min(total, 1.0)  # above 1 by rounding
    if mass < LEAST_MASS:
        return Grade(p, mass, problem=f"the levels have {mass:.2f} of the probability")
    return Grade(p, mass, math.fsum(levels[name] * share for name, share in p.items()) / total)


# In words

OF_MOST = r"(?:\s*(?:/|out of|of)\s*\d+)?"
LABEL = r"\b(?:rating|score|level|answer|verdict|grade)\b\W*(?:(?:is|at|of|level)\b\W*)*"
RANGE = re.compile(r"\b\d\s*(?:to|through|-|–)\s*\d\b")  # "on a scale of 1 to 5"
# The surest first: a line that states a level and nothing else, such as "**Rating: 4/5**", a label, and any number.
STATEMENTS = (
    re.compile(
        rf"^\W*(?:(?:the|my|final|overall|reply|is|at)\s+)*(?:{LABEL})?(?P<x>\d){OF_MOST}[^\w\n]*$", re.I | re.M
    ),
    re.compile(rf"{LABEL}(?P<x>\d+(?:[.,]\d+)?)\b", re.I),
    re.compile(rf"(?<![\w.,/+-])(?P<x>\d+(?:[.,]\d+)?){OF_MOST}(?![\w/%-])"),
)
FIRST = re.compile(rf"\W*(?P<x>\d){OF_MOST}(?![\w/%-]|[.,]\d)")  # after a prefix


def read_word(answer: Completion, levels: Mapping[str, float], *, named: bool) -> Grade:
    """The value of the level, a digit, that an answer names in words; it has no probabilities.

    named: whether words around the digit are expected; after a prefix it comes first. What states several, or a number
    that is not a level, is invalid.
    """
    if answer.finish == "content_filter":
        return Grade(problem="the provider's filter withheld the answer")
    text = answer.text.strip()
    if named and answer.finish == "length":  # the last line may go on
        return Grade(problem="cut before it named a level")
    stated = set[str]()
    if named:
        said = RANGE.sub("", text)
        found = ({match["x"] for match in pattern.finditer(said)} for pattern in STATEMENTS)
        stated = next(filter(None, found), stated)
    elif first := FIRST.match(text):
        stated = {first["x"]}
    if len(stated) == 1 and stated <= levels.keys():
        return Grade(value=levels[stated.pop()])
    if len(stated) > 1:
        return Grade(problem=f"names several numbers: {', '.join(sorted(stated))}")
    return Grade(problem=f"names no level: {text[:60]!r}")
