"""What is read from answers to typed questions, in whatever order, spelling and state they come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.calls.decisions import Decided, read_decisions, undecided
from cai.engine.letters import LEAST, read_decided
from cai.records import Decision

CHOICES = tuple(Decision(f"q{number}", "Which?", ("A", "B")) for number in (1, 2, 3))
PREDICATES = tuple(Decision(f"q{number}", "It is so.") for number in (1, 2, 3))
ASKED = (CHOICES[0], PREDICATES[1], CHOICES[2])
Answers = list[dict[str, Any]]
Change = Callable[[Answers], Any]
P = st.floats(0, 1)


def answers(*chances: float, asked: tuple[Decision, ...] = CHOICES) -> Answers:
    """Answers as a server gives them that does all as it should."""
    made: Answers = []
    for decision, p in zip(asked, chances, strict=True):
        answer: dict[str, Any] = {"name": decision.name, "type": "predicate", "probability": p}
        if decision.choices:
            values = [{"value": "A", "probability": p}, {"value": "B", "probability": 1 - p}]
            answer = {"name": decision.name, "type": "choice", "choice": "AB"[p < 0.5], "probabilities": values}
        made.append(answer)
    return made


def read(listed: Any, asked: tuple[Decision, ...] = CHOICES) -> list[Decided]:
    return read_decisions(json.dumps(listed), asked)


def firsts(decided: list[Decided]) -> list[float | None]:
    return [each.p[0] if each.problem is None else None for each in decided]


def without(listed: Answers, left_out: str) -> Answers:
    return [{key: value for key, value in answer.items() if key != left_out} for answer in listed]


def nameless(listed: Answers) -> Answers:
    return without(listed, "name")


def spelt_otherwise(listed: Answers) -> Answers:
    answers: Answers = json.loads(json.dumps(listed).replace('"A"', '"a"').replace('"B"', '" b "'))
    return answers


def each(listed: Answers, **changes: Any) -> Answers:
    """The answers with the second one changed."""
    return [listed[0], {**listed[1], **changes}, listed[2]]


def listed_as(a: Any, b: Any, *more: tuple[str, float]) -> list[dict[str, Any]]:
    pairs = [("A", a), ("B", b), *more]
    return [{"value": value, "probability": p} for value, p in pairs]


# How answers may come that still say what was asked


AS_GOOD: dict[str, Change] = {
    "as asked": lambda listed: listed,
    "in another order": lambda listed: listed[::-1],
    "without names": nameless,
    "with names that are null": lambda listed: [{**answer, "name": None} for answer in listed],
    "with an answer to a question that nobody asked": lambda listed: [{**listed[0], "name": "q9"}, *listed],
    "with fields that nobody knows": lambda listed: [{**each, "why": "…", "confidence": 2} for each in listed],
    "without types": lambda listed: without(listed, "type"),
    "choices in small letters": spelt_otherwise,
    "choices in another order": lambda listed: [{**a, "probabilities": a["probabilities"][::-1]} for a in listed],
    "without the choice itself": lambda listed: without(listed, "choice"),
}  # fmt: skip


@pytest.mark.parametrize("change", AS_GOOD.values(), ids=AS_GOOD)
@given(chances=st.tuples(P, P, P))
def test_an_answer_is_found_however_the_list_is_arranged(change: Change, chances: tuple[float, ...]) -> None:
    assert firsts(read(change(answers(*chances)))) == pytest.approx(chances, abs=1e-12)


@given(chances=st.tuples(P, P, P))
def test_choices_and_predicates_may_be_asked_together(chances: tuple[float, ...]) -> None:
    decided = read(answers(*chances, asked=ASKED)[::-1], ASKED)
    assert firsts(decided) == pytest.approx(chances, abs=1e-12)
    assert [len(each.p) for each in decided] == [2, 1, 2]


@given(a=st.integers(1, 99), b=st.integers(-1, 1))
def test_two_decimals_are_near_enough_to_one(a: int, b: int) -> None:
    listed = each(answers(0.3, 0.5, 0.7), probabilities=listed_as(a / 100, (100 - a + b) / 100), choice="AB"[a < 50])
    [_, second, _] = read(listed)
    assert second.problem is None and math.fsum(second.p) == pytest.approx(1, abs=1e-12)


# Answers that cannot be used: the others still count


UNUSABLE: dict[str, tuple[Change, str]] = {
    "refused": (lambda listed: each(listed, type="refusal"), "declined"),
    "not a number": (lambda listed: each(listed, probabilities=listed_as(math.nan, 0.5)), "nan"),
    "infinite": (lambda listed: each(listed, probabilities=listed_as(math.inf, 0.0)), "inf"),
    "beyond all measure": (lambda listed: each(listed, probabilities=listed_as(10**400, 0.0)), "1000000"),
    "negative": (lambda listed: each(listed, probabilities=listed_as(-0.2, 1.2)), "-0.2"),
    "in percent": (lambda listed: each(listed, probabilities=listed_as(70, 30)), "70"),
    "true": (lambda listed: each(listed, probabilities=listed_as(True, False)), "True"),
    "a text": (lambda listed: each(listed, probabilities=listed_as("0.7", "0.3")), "0.7"),
    "null": (lambda listed: each(listed, probabilities=listed_as(None, None)), "None"),
    "adding up to more": (lambda listed: each(listed, probabilities=listed_as(0.9, 0.9)), "1.8"),
    "adding up to less": (lambda listed: each(listed, probabilities=listed_as(0.2, 0.3)), "0.5"),
    "both 0": (lambda listed: each(listed, probabilities=listed_as(0, 0)), "add up to 0"),
    "of one choice alone": (lambda listed: each(listed, probabilities=listed_as(0.6, 0.4)[:1]), "no probability of B"),
    "of a third choice": (lambda listed: each(listed, probabilities=listed_as(0.3, 0.3, ("C", 0.4))), "'C'"),
    "of a choice twice": (lambda listed: each(listed, probabilities=listed_as(0.3, 0.3, ("a", 0.4))), "two prob"),
    "of other names": (
        lambda listed: each(listed, probabilities=[{"value": name, "probability": 0.5} for name in ("1", "2")]),
        "'1'",
    ),
    "of booleans": (
        lambda listed: each(listed, probabilities=[{"value": name, "probability": 0.5} for name in (True, False)]),
        "True",
    ),
    "none at all": (lambda listed: each(listed, probabilities=[]), "no probability of A and B"),
    "in an object": (lambda listed: each(listed, probabilities={"A": 0.5, "B": 0.5}), "no probability of A and B"),
    "against its choice": (lambda listed: each(listed, choice="B", probabilities=listed_as(0.9, 0.1)), "'B'"),
    "with a choice of its own": (lambda listed: each(listed, choice="neither"), "'neither'"),
    "of a predicate": (lambda listed: each(listed, type="predicate", probability=0.4), "'predicate'"),
    "of a score": (lambda listed: each(listed, type="score", score=1.2), "'score'"),
    "answered twice": (lambda listed: [listed[0], listed[1], {**listed[1]}, listed[2]], "2 times"),
    "left out": (lambda listed: [listed[0], listed[2]], "no answer among the 2"),
    "null instead": (lambda listed: [listed[0], None, listed[2]], "no answer"),
}


@pytest.mark.parametrize(("change", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_one_answer_that_cannot_be_used_loses_that_question_alone(change: Change, words: str) -> None:
    first, second, third = read(change(answers(0.3, 0.6, 0.8)))
    assert (first, third) == (Decided(pytest.approx((0.3, 0.7))), Decided(pytest.approx((0.8, 0.2))))
    assert second.problem is not None and words in second.problem and second.p == ()
    assert read_decided(second).problem == second.problem and read_decided(second).first is None


NOTHING: dict[str, Any] = {
    "none": [],
    "too few without names": nameless(answers(0.1, 0.2, 0.3))[:2],
    "too many without names": nameless([*answers(0.1, 0.2, 0.3), *answers(0.1, 0.2, 0.3)]),
    "an object": {"q1": 1},
    "a number": 5,
    "texts": ["A", "B", "A"],
    "one under another name": each(answers(0.1, 0.2, 0.3), name="Q two"),
    "counted from 0": [{**answer, "name": f"q{place}"} for place, answer in enumerate(answers(0.1, 0.2, 0.3))],
    "under a number": [{**answer, "name": place} for place, answer in enumerate(answers(0.1, 0.2, 0.3))],
}


@pytest.mark.parametrize("listed", NOTHING.values(), ids=NOTHING)
def test_a_list_that_cannot_be_told_apart_answers_nothing(listed: Any) -> None:
    assert all(each.problem is not None for each in read(listed))


@given(st.text())
def test_no_text_is_taken_for_an_answer(text: str) -> None:
    assert all(each.problem is not None for each in read_decisions(text, CHOICES))


PREDICATE_FAULTS = [None, "0.4", True, math.nan, -0.1, 1.1, [0.4]]


@pytest.mark.parametrize("p", PREDICATE_FAULTS, ids=str)
def test_a_predicate_without_a_probability_counts_for_nothing(p: Any) -> None:
    listed = each(answers(0.3, 0.6, 0.8, asked=PREDICATES), probability=p)
    assert [decided.problem is None for decided in read(listed, PREDICATES)] == [True, False, True]


# From a probability to a reading


@given(P)
def test_a_probability_is_clipped_only_where_its_logarithm_would_run_away(p: float) -> None:
    reading = read_decided(Decided((p, 1 - p)))
    assert reading.mass is None and reading.problem is None
    assert reading.first is not None and reading.second is not None
    assert reading.bounded is (min(p, 1 - p) < LEAST)
    ratio = reading.first - reading.second
    assert abs(ratio) <= math.log((1 - LEAST) / LEAST) + 1e-9
    if not reading.bounded:
        assert ratio == pytest.approx(math.log(p) - math.log(1 - p), abs=1e-9)


@given(P, P)
def test_clipping_turns_no_order_round(one: float, other: float) -> None:
    lower, higher = (read_decided(Decided((p, 1 - p))) for p in sorted((one, other)))
    assert (lower.first or 0) - (lower.second or 0) <= (higher.first or 0) - (higher.second or 0)


def test_an_even_answer_chooses_neither_and_counts() -> None:
    reading = read_decided(Decided((0.5, 0.5)))
    assert reading.choice is None and reading.problem is None and reading.first == reading.second


def test_the_stand_in_of_a_plan_finds_everything_even() -> None:
    assert read_decisions(undecided(ASKED), ASKED) == [Decided((0.5, 0.5)), Decided((0.5,)), Decided((0.5, 0.5))]
