"""Levels in an answer: their probabilities, how much they have in all, and the value that follows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engine.levels import Grade, read_levels, read_word
from cai.records import Completion

FIVE = {str(level): float(level) for level in range(1, 6)}


def scored(*values: float) -> Completion:
    return Completion("", "length", "m", scores=values)


def listed(tokens: dict[str, float]) -> Completion:
    return Completion("", "length", "m", logprobs=(tokens,))


@given(st.lists(st.floats(0.001, 1.0), min_size=5, max_size=5), st.floats(0.51, 1.0))
def test_the_value_is_the_mean_of_the_levels_by_their_probabilities(weights: list[float], mass: float) -> None:
    shares = [mass * weight / sum(weights) for weight in weights]
    grade = read_levels(scored(*map(math.log, shares)), FIVE)
    mean = sum(level * weight for level, weight in enumerate(weights, 1)) / sum(weights)
    assert grade.value == pytest.approx(mean) and grade.mass == pytest.approx(mass) and grade.problem is None
    assert list(grade.p.values()) == pytest.approx(shares) and 1 <= grade.value <= 5


def test_the_example_of_the_docs() -> None:
    grade = read_levels(scored(*map(math.log, (0.05, 0.05, 0.1, 0.5, 0.2))), FIVE)
    assert grade.value == pytest.approx((0.05 + 0.1 + 0.3 + 2.0 + 1.0) / 0.9) and grade.mass == pytest.approx(0.9)


@given(st.lists(st.floats(0.0001, 0.0999), min_size=5, max_size=5))
def test_levels_with_less_than_half_of_the_probability_have_no_value(shares: list[float]) -> None:
    grade = read_levels(scored(*map(math.log, shares)), FIVE)
    assert grade.value is None and grade.problem == f"the levels have {sum(shares):.2f} of the probability"
    assert grade.mass == pytest.approx(sum(shares)) and len(grade.p) == 5


def test_the_forms_of_a_level_are_summed_and_other_tokens_are_not_levels() -> None:
    tokens = {"4": 0.3, " 4": 0.2, "**4": 0.1, "10": 0.1, "45": 0.1, "Four": 0.05, "2": 0.05, "4th": 0.04}
    grade = read_levels(listed({token: math.log(share) for token, share in tokens.items()}), FIVE)
    assert grade.p == {"2": pytest.approx(0.05), "4": pytest.approx(0.6)} and grade.mass == pytest.approx(0.65)
    assert grade.value == pytest.approx((0.6 * 4 + 0.05 * 2) / 0.65)


def test_labels_have_the_values_that_they_are_given() -> None:
    grade = read_levels(scored(math.log(0.2), math.log(0.6)), {"Safe": 0.0, "Unsafe": 1.0})
    assert grade.value == pytest.approx(0.75) and set(grade.p) == {"Safe", "Unsafe"}
    assert read_levels(listed({" unsafe": -0.1}), {"Safe": 0.0, "Unsafe": 1.0}).value == 1.0


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (scored(-1.0, -2.0), "the answer has 2 scores for 5 levels"),
        (scored(-1.0, -2.0, math.nan, -2.0, -3.0), "a log probability is not finite"),
        (scored(-1.0, -2.0, 0.5, -2.0, -3.0), "a log probability is above 0"),
        (Completion("", "content_filter", "m"), "the provider's filter withheld the answer"),
        (Completion("4", "stop", "m"), "the answer lists no probabilities"),
        (listed({}), "the answer lists no probabilities"),
        (listed({"Hm": -0.1, "A": -3.0}), "no level is among the 2 likeliest tokens, of which the first is 'Hm'"),
        (listed({"4": 3.0}), "a log probability is above 0"),
        (listed({"4": math.nan}), "a log probability is not finite"),
    ],
)
def test_what_cannot_be_read_has_no_value_and_says_why(answer: Completion, problem: str) -> None:
    grade = read_levels(answer, FIVE)
    assert (grade.value, grade.problem) == (None, problem)
    assert grade == Grade(mass=grade.mass, problem=problem)


# In words


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("4", 4), (" 4.", 4), ("**4**", 4), ("4/5", 4), ("4 out of 5", 4), ("Rating: 4", 4), ("**Rating:** 4/5", 4),
        ("Level 2", 2), ("Score is 3.", 3), ("The reply is at level 5.", 5), ("I would rate it 2 out of 5.", 2),
        ("On a scale of 1 to 5, this is a 3.", 3), ("It names 2 of the 3 steps.\n\nRating: 4", 4),
        ("4: Does what was asked.", 4), ("Rating: 4 (2 slips)", 4), ("On a scale from 1–5 I say 1.", 1),
        ("My final rating: 5", 5), ("1\n", 1),
    ],
)  # fmt: skip
def test_a_level_named_in_words_is_read(text: str, level: int) -> None:
    assert read_word(Completion(text, "stop", "m"), FIVE, named=True) == Grade(value=float(level))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no level: ''"),
        ("It is good.", "names no level: 'It is good.'"),
        ("4.5", "names no level: '4.5'"),
        ("Rating: 4.5", "names no level: 'Rating: 4.5'"),
        ("7", "names no level: '7'"),
        ("0", "names no level: '0'"),
        ("10", "names no level: '10'"),
        ("80%", "names no level: '80%'"),
        ("4-5", "names no level: '4-5'"),
        ("Rating: 2\nRating: 4", "names several numbers: 2, 4"),
        ("Not a 3, rather a 4", "names several numbers: 3, 4"),
    ],
)
def test_what_names_no_level_or_several_is_invalid(text: str, problem: str) -> None:
    assert read_word(Completion(text, "stop", "m"), FIVE, named=True) == Grade(problem=problem)


@pytest.mark.parametrize(("text", "level"), [(" 4", 4), (" 4, as it", 4), (" 3/5.", 3), ("**2**", 2)])
def test_after_a_prefix_the_digit_comes_first(text: str, level: int) -> None:
    for finish in ("stop", "length"):
        assert read_word(Completion(text, finish, "m"), FIVE, named=False).value == level  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [" well above 4", " 45", " 4.5", "", " 9"])
def test_after_a_prefix_anything_else_is_invalid(text: str) -> None:
    assert "names no level" in str(read_word(Completion(text, "stop", "m"), FIVE, named=False).problem)


def test_an_answer_that_is_cut_or_withheld_is_invalid() -> None:
    cut = read_word(Completion("It is a 4", "length", "m"), FIVE, named=True)
    assert cut == Grade(problem="cut before it named a level")
    withheld = read_word(Completion("", "content_filter", "m"), FIVE, named=True)
    assert withheld == Grade(problem="the provider's filter withheld the answer")


@given(st.text(max_size=200), st.booleans())
def test_whatever_is_answered_is_a_level_or_says_why_not(text: str, named: bool) -> None:
    grade = read_word(Completion(text, "stop", "m"), FIVE, named=named)
    assert (grade.value in FIVE.values()) == (grade.problem is None)
