from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engine.gate import Gate, read_word
from cai.errors import RowDropped
from cai.records import Completion, Finish, Message, Request

ASKED: tuple[Message, ...] = ({"role": "user", "content": "Does it need a change?"},)
QUESTION = Request("gate", ASKED, stop=("\n",))


def said(text: str, finish: Finish = "stop") -> Completion:
    return Completion(text, finish, "m")


def scored(yes: float, no: float) -> Completion:
    return Completion("", "stop", "m", scores=(yes, no))


def listed(**tokens: float) -> Completion:
    """An answer that lists tokens; an underscore stands for a space."""
    return Completion("", "stop", "m", logprobs=({name.replace("_", " "): value for name, value in tokens.items()},))


def play(gate: Gate, *answers: Completion | RowDropped, question: Request = QUESTION) -> tuple[Any, list[Request]]:
    """The probability that these answers give, and what was asked for them; all are wanted."""
    flow = gate.ask(question)
    waiting = iter(answers)
    asked = []
    try:
        [request] = next(flow)
        while True:
            asked.append(request)
            answer = next(waiting)
            if isinstance(answer, RowDropped):
                [request] = flow.throw(answer)
            else:
                [request] = flow.send([answer])
    except StopIteration as end:
        assert next(waiting, None) is None
        return end.value, asked


def refusal(reason: Any = "model_error") -> RowDropped:
    return RowDropped(reason, "gate", "logprobs are not supported with this model")


# Asking


def test_a_model_that_scores_is_asked_for_both_words_after_its_begun_answer() -> None:
    p, [asked] = play(Gate(0.5, "score", "Answer:"), scored(-0.2, -2.2))
    assert (asked.role, asked.messages, asked.prefill, asked.score) == ("gate", ASKED, "Answer:", (" Yes", " No"))
    assert asked.stop == ("\n",)
    assert p == pytest.approx(1 / (1 + math.exp(-2)))


def test_a_model_that_cannot_go_on_with_an_answer_begins_with_the_word() -> None:
    _, [asked] = play(Gate(0.5, "score"), scored(-0.2, -2.2))
    assert (asked.prefill, asked.score) == ("", ("Yes", "No"))
    _, [asked] = play(Gate(0.5, "vote"), said("Yes"))
    assert (asked.prefill, asked.max_tokens, asked.temperature) == ("", None, 0.0)  # room for thoughts


def test_a_model_that_lists_is_asked_for_one_token_and_all_forms_of_a_word_count() -> None:
    answer = listed(_Yes=math.log(0.3), Yes=math.log(0.1), _yes=math.log(0.1), _No=math.log(0.4), Sure=-9.0)
    p, [asked] = play(Gate(0.5, "logprob", "Answer:"), answer)
    assert (asked.max_tokens, asked.top_logprobs, asked.temperature, asked.score) == (1, 20, 0.0, ())
    assert p == pytest.approx(0.5 / 0.9)


def test_a_set_for_base_models_ends_with_the_begun_answer() -> None:
    question = Request("gate", text="Human: Hi\n\nNeeds a change?")
    _, [asked] = play(Gate(0.5, "score", "Answer:"), scored(-1.0, -1.0), question=question)
    assert (asked.text, asked.prefill) == ("Human: Hi\n\nNeeds a change? Answer:", "")


@pytest.mark.parametrize("first", [refusal(), said("Yes"), Completion("Yes", "stop", "m", logprobs=())])
def test_a_server_that_gives_no_probabilities_is_asked_for_the_word(first: Any) -> None:
    p, asked = play(Gate(0.5, "logprob", "Answer:"), first, said("No."))
    assert p == 0.25
    assert [(request.top_logprobs, request.max_tokens) for request in asked] == [(20, 1), (0, 8)]
    assert asked[0].messages == asked[1].messages and asked[0].prefill == asked[1].prefill


@pytest.mark.parametrize("reason", ["content_filter", "too_long"])
def test_what_would_be_refused_in_a_word_too_ends_the_row(reason: str) -> None:
    with pytest.raises(RowDropped):
        play(Gate(0.5, "logprob"), refusal(reason))


def test_a_refusal_of_the_word_ends_the_row() -> None:
    with pytest.raises(RowDropped):
        play(Gate(0.5, "logprob"), refusal(), refusal())


def test_no_word_is_asked_for_if_none_could_reach_the_threshold() -> None:
    assert play(Gate(0.9, "logprob"), refusal())[0] is None


# Reading


@pytest.mark.parametrize(
    "answer",
    [
        scored(-5.0, -6.0),  # neither is likely
        scored(math.nan, -0.1),
        scored(-0.1, -math.inf),
        listed(The=-0.1, It=-3.0),
        listed(_Yes=-2.0, The=-0.2, It=-3.0),
        listed(_Yes=-0.01),  # nothing says how unlikely No is
    ],
)
def test_probabilities_that_say_nothing_of_the_words_are_unknown(answer: Completion) -> None:
    protocol: Any = "logprob" if answer.scores is None else "score"
    gate = Gate(0.5, protocol, "Answer:")
    p, _ = play(gate, answer)
    assert p is None and gate.verdict(p) is None


@pytest.mark.parametrize(
    ("text", "p"),
    [
        ("Yes", 0.75), (" No", 0.25), ("**No**", 0.25), ("yes.", 0.75), ("NO!", 0.25), ("\n\n“Yes”", 0.75),
        ("Answer: No", 0.25), ("**Answer:** Yes, it is rude.", 0.75), ("No, it is fine as it is.", 0.25),
        ("Yes — the second step could hurt somebody.", 0.75), ("no\n\nNo change is needed.", 0.25),
        ("", None), ("Nothing to fix.", None), ("Not really.", None), ("Yesterday", None), ("I would say yes.", None),
        ("Maybe", None), ("Verdict: revise", None), ("Nein", None), ("It depends: yes or no.", None),
    ],
)  # fmt: skip
def test_a_word_counts_at_the_start_of_an_answer_alone(text: str, p: float | None) -> None:
    assert read_word(said(text)) == p


def test_a_filtered_word_is_unknown() -> None:
    assert read_word(said("Yes", "content_filter")) is None


# Deciding


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_reply_is_revised_from_the_threshold_on(threshold: float, p: float) -> None:
    assert (Gate(threshold, "score").verdict(p) == "revise") is (p >= threshold)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_the_probability_is_that_of_yes_among_the_two_words(yes: float, no: float) -> None:
    p, _ = play(Gate(0.5, "score"), scored(yes, no))
    if math.exp(yes) + math.exp(no) >= 0.5:
        assert p == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)))
    else:
        assert p is None
