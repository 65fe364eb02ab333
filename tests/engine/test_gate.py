from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.principles import Constitution
from cai.engine.gate import Gate, question_of, read_word
from cai.engine.revise import Ask
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped
from cai.records import Completion, Finish, Message, Prompt, Request

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


# The question of a constitution


OWN = "Could someone be hurt?"
LAWS = {name: Constitution(name=name, version="1.0.0", principles=("Be kind.",), gate=gate)
        for name, gate in (("plain", None), ("harm", OWN))}  # fmt: skip


@pytest.mark.parametrize("templates", ["chat", "quoted"])
def test_a_constitution_may_say_what_the_gate_asks(templates: str) -> None:
    asked = {}
    for name, law in LAWS.items():
        ask = Ask(load_templates(templates), law)
        prompt = Prompt(id="a", messages=({"role": "user", "content": "How?"},))
        asked[name] = ask.gate(prompt, "So.", "Too short.", law.principles[0]).messages
    assert OWN in asked["harm"][-1]["content"] and OWN not in asked["plain"][-1]["content"]
    assert asked["harm"][-1]["content"].endswith("Answer with the single word Yes or No.")
    if templates == "quoted":  # the critique is beside the point
        assert "Too short." in asked["plain"][-1]["content"] and "Too short." not in asked["harm"][-1]["content"]


def test_a_set_that_does_not_ask_it_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, text in {"critique": "{{ principle.text }}", "revise": "{{ principle.text }}", "gate": "Well?"}.items():
        (tmp_path / f"{name}.jinja").write_text(text)
    own, chat = load_templates(tmp_path), load_templates("chat")
    assert question_of(LAWS["harm"], chat, 0.5) == OWN
    assert question_of(LAWS["harm"], chat, None) is question_of(LAWS["plain"], chat, 0.5) is None
    assert not caplog.records
    assert question_of(LAWS["harm"], own, 0.5) is None
    assert "does not ask what the gate of harm asks" in caplog.text


@pytest.mark.parametrize(
    "gate", ['{% include "_ask.jinja" %} Well?', '{% set file = "_ask.jinja" %}{% include file %} Well?']
)
def test_a_question_may_be_put_by_a_file_that_the_template_includes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gate: str
) -> None:
    files = {"critique": "{{ principle.text }}", "revise": "{{ principle.text }}", "gate": gate}
    for name, text in {**files, "_ask": "{{ question or 'A fault?' }}"}.items():
        (tmp_path / f"{name}.jinja").write_text(text)
    assert question_of(LAWS["harm"], load_templates(tmp_path), 0.5) == OWN
    assert not caplog.records
