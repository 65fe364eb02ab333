"""What the answers to typed questions say: probabilities among the choices, refusals, and what cannot be used.

A completion holds the answers as the JSON list of OpenAI's Decisions API, whichever form its server speaks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cai.records import Decision, Object, Values

ROUNDING = 0.02  # by which two probabilities of two decimals each may miss their sum or their order


@dataclass(frozen=True, slots=True)
class Decided:
    """What one answer says.

    p: of each choice, in the order asked, adding up to 1; of a predicate, that it is true. problem: why there is none.
    """

    p: tuple[float, ...] = ()
    problem: str | None = None


class _Unusable(Exception):
    """Why an answer does not count."""


def read_decisions(text: str, decisions: Sequence[Decision]) -> list[Decided]:
    """What a completion's text says of each question; an answer is found by its name, else by its place.

    One that is missing, refused or contradicts itself has a problem, and the others count. If one came under
    a name that was not asked in its place, the names are of the server's own making, as q0 to q2, and none counts.
    """
    answers = _answers(text)
    names = [decision.name for decision in decisions]
    given = [answer.get("name") for answer in answers]
    foreign = [name for name in given if name is not None and name not in names]
    if foreign and not all(name in given for name in names):
        problem = f"the answers have other names than the questions: {foreign[0]!r:.40}"
        return [Decided(problem=problem) for _ in decisions]
    read = []
    for place, decision in enumerate(decisions):
        try:
            answer = _answer_to(decision, answers, place, len(decisions))
            read.append(Decided(_choice(decision, answer) or _predicate(answer)))
        except _Unusable as problem:
            read.append(Decided(problem=str(problem)))
    return read


def undecided(decisions: Sequence[Decision]) -> str:
    """A completion's text that finds everything equally likely: the stand-in of a plan."""
    answers = []
    for decision in decisions:
        even = [{"value": choice, "probability": 1 / len(decision.choices)} for choice in decision.choices]
        answers.append({"name": decision.name, "probability": 0.5, "probabilities": even})
    return json.dumps(answers)


def _answers(text: str) -> list[Values]:
    """The answers in their order; one that is not an object counts as an empty one."""
    listed = None
    with suppress(ValueError, RecursionError):
        listed = json.loads(text)
    if not isinstance(listed, list):
        return []
    return [dict(answer) for answer in map(_object, listed)]


def _object(value: Any) -> Object:
    if isinstance(value, dict):
        return value
    return {}


def _answer_to(decision: Decision, answers: Sequence[Object], place: int, count: int) -> Object:
    """The answer with the name of a question, or the nameless one at its place if there are as many as questions."""
    named = [answer for answer in answers if answer.get("name") == decision.name]
    if len(named) > 1:
        raise _Unusable(f"the question was answered {len(named)} times")
    if not named and len(answers) == count and answers[place].get("name") is None:
        named = [answers[place]]
    if not named or not named[0]:
        raise _Unusable(f"the question has no answer among the {len(answers)} that came")
    answer = named[0]
    if answer.get("type") == "refusal":
        raise _Unusable("the model declined to answer")
    if answer.get("type", decision.kind) != decision.kind:
        raise _Unusable(f"the answer is a {answer['type']!r:.40}, not a {decision.kind}")
    return answer


def _choice(decision: Decision, answer: Object) -> tuple[float, ...]:
    """The probability of each choice; they are checked against each other and against the choice that is named.

    Empty for a predicate.
    """
    if not decision.choices:
        return ()
    listed = answer.get("probabilities")
    entries: list[Object] = []
    if isinstance(listed, list):
        entries = list(map(_object, listed))
    found: dict[str, float] = {}
    for entry in entries:
        value = _chosen(decision, entry.get("value"))
        if value in found:
            raise _Unusable(f"the answer has two probabilities of {value}")
        found[value] = _probability(entry.get("probability"))
    lacking = [choice for choice in decision.choices if choice not in found]
    if lacking:
        raise _Unusable(f"the answer has no probability of {' and '.join(lacking)}")
    total = math.fsum(found.values())
    if abs(total - 1) > ROUNDING:
        raise _Unusable(f"the probabilities add up to {total:.3g}")
    best = answer.get("choice")
    if best is not None and found[_chosen(decision, best)] < max(found.values()) - ROUNDING:
        raise _Unusable(f"the answer chooses {best!r:.40}, and finds another choice likelier")
    return tuple(found[choice] / total for choice in decision.choices)


def _predicate(answer: Object) -> tuple[float, ...]:
    return (_probability(answer.get("probability")),)


def _chosen(decision: Decision, value: Any) -> str:
    """The choice that a value names, whatever its case."""
    for choice in decision.choices:
        if isinstance(value, str) and value.strip().casefold() == choice.casefold():
            return choice
    raise _Unusable(f"the answer names {value!r:.40}, which is no choice")


def _probability(value: Any) -> float:
    """A number from 0 to 1, which rounding may have moved a little outside."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -1e-6 <= value <= 1 + 1e-6:  # also of NaN
        raise _Unusable(f"the answer has {value!r:.40} for a probability")
    return min(max(float(value), 0.0), 1.0)
