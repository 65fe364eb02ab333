"""How likely a model makes each of several levels or labels, read from its answer, and the value that follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cai.engine.letters import ABOVE, LEAST_MASS, is_form
from cai.folder.answers import NEVER
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
