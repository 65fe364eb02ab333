"""How likely a model makes each of two letters, read from what it scored or listed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engine.letters import read_letters
from cai.records import Completion


def scored(first: float, second: float) -> Completion:
    return Completion("", "length", "m", scores=(first, second))


def listing(**tokens: float) -> Completion:
    """A completion that lists these log probabilities; `__A` stands for " A"."""
    listed = {name.replace("__", " "): value for name, value in tokens.items()}
    return Completion("A", "length", "m", logprobs=(listed,))


@pytest.mark.parametrize("token", ["A", " A", "(A", "▁A", "ĠA", '"A"', "**A", "A.", "\nA", " (A)", "[A]", "A:", "“A”"])
def test_every_form_of_a_letter_counts(token: str) -> None:
    read = read_letters(Completion("A", "length", "m", logprobs=({token: math.log(0.6), " B": math.log(0.3)},)))
    assert (read.first, read.mass, read.problem) == (math.log(0.6), pytest.approx(0.9), None)


@pytest.mark.parametrize("token", ["a", "An", "As", " a", "AB", "A1", "Ａ", "Both", "А", "", " ", "()"])
def test_what_only_looks_like_a_letter_does_not(token: str) -> None:
    read = read_letters(Completion("A", "length", "m", logprobs=({token: math.log(0.3), " B": math.log(0.6)},)))
    assert (read.first, read.bounded, read.mass) == (math.log(0.3), True, pytest.approx(0.6))


@given(st.lists(st.floats(-20, -2), min_size=1, max_size=5), st.floats(-0.5, -0.05))
def test_the_forms_of_a_letter_are_summed(logs: list[float], other: float) -> None:
    forms = dict(zip(["A", " A", "(A", "▁A", "ĠA"], logs, strict=False))
    read = read_letters(Completion("", "length", "m", logprobs=({**forms, "B": other, "z": -21.0},)))
    assert read.first == pytest.approx(math.log(sum(map(math.exp, logs))))
    assert read.mass == pytest.approx(min(1.0, sum(map(math.exp, [*logs, other]))))
    assert (read.choice, read.bounded) == (("second", False) if read.first < other else ("first", False))


def test_a_letter_that_is_not_listed_is_bounded_by_the_lowest_that_is_and_flagged() -> None:
    read = read_letters(listing(__B=-0.1, the=-3.0, So=-7.5))
    assert (read.first, read.second, read.bounded, read.choice) == (-7.5, -0.1, True, "second")
    assert read.mass == pytest.approx(math.exp(-0.1)) and read.problem is None


@pytest.mark.parametrize("listed", [{" B": -0.1}, {" B": -0.7, "B": -0.75}, {" B": 0.0, "x": -9999.0}])
def test_where_nothing_bounds_the_other_letter_the_reading_is_unknown_and_no_tie(listed: dict[str, float]) -> None:
    read = read_letters(Completion("B", "length", "m", logprobs=(listed,)))
    assert (read.first, read.choice) == (None, None)
    assert read.problem == "the answer lists nothing that says how unlikely A is"
    assert read.mass is not None and read.mass > 0.9  # the judge does answer with a letter


@pytest.mark.parametrize("never", [-9999.0, -math.inf])
def test_a_server_that_says_never_has_not_listed_the_token(never: float) -> None:
    read = read_letters(listing(__A=never, __B=-0.01, the=-6.0))
    assert (read.first, read.second, read.bounded) == (-6.0, -0.01, True)


def test_neither_letter_listed_tells_what_is() -> None:
    read = read_letters(listing(Sure=-0.1, I=-3.0))
    assert read.problem == "neither letter is among the 2 likeliest tokens: 'Sure'"
    assert (read.mass, read.choice, read.first) == (0.0, None, None)


@pytest.mark.parametrize(
    "done",
    [
        Completion("A", "stop", "m"),
        Completion("", "stop", "m", logprobs=()),
        Completion("", "stop", "m", logprobs=({},)),
    ],
)
def test_an_answer_without_a_list_is_invalid(done: Completion) -> None:
    assert read_letters(done).problem == "the answer lists no probabilities"


@given(st.floats(0.0, 1.0), st.floats(0.001, 0.999))
def test_less_than_half_of_the_probability_on_the_letters_is_invalid(mass: float, share: float) -> None:
    first, second = (math.log(max(mass * part, 1e-12)) for part in (share, 1 - share))
    for read in (read_letters(scored(first, second)), read_letters(listing(__A=first, __B=second, x=-30.0))):
        assert read.mass == pytest.approx(mass, abs=1e-9)
        if abs(mass - 0.5) > 1e-9:
            assert (read.problem is not None) == (mass < 0.5)
        assert read.problem is None or "of the probability" in read.problem


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1000.0, 0.5])
def test_what_is_no_log_probability_is_invalid(bad: float) -> None:
    for read in (read_letters(scored(bad, -0.1)), read_letters(scored(-0.1, bad))):
        assert read.problem is not None and read.choice is None
    if bad != -math.inf:  # of a list that is the same as not to be listed
        assert read_letters(listing(__A=bad, A=-2.0, __B=-0.1, x=-5.0)).problem is not None
        assert read_letters(listing(__A=-0.3, __B=bad, x=-5.0)).problem is not None


def test_a_mass_that_rounding_puts_above_one_is_one() -> None:
    assert read_letters(scored(-0.6931, -0.6931)).mass == 1.0


def test_what_a_filter_withheld_is_invalid() -> None:
    done = Completion("A", "content_filter", "m", logprobs=({"A": -0.1, "B": -3.0},))
    assert read_letters(done).problem == "the provider's filter withheld the answer"


def test_equal_letters_are_a_vote_for_neither() -> None:
    read = read_letters(scored(-0.7, -0.7))
    assert (read.choice, read.problem) == (None, None)
