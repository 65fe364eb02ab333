from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engine.revise import Ask, sample
from cai.engine.templates.sets import load_templates
from cai.records import Candidate, Completion, Prompt, Request

PROMPT = Prompt(id="p", messages=({"role": "user", "content": "Hi?"},))
ASK = Ask(load_templates("chat"), None, system="Be brief.")


def drawn(numbers: list[int], *answers: Completion) -> tuple[list[Candidate], list[Request]]:
    flow = sample(PROMPT, ASK, numbers)
    asked = next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send(list(answers))
    return stop.value.value, asked


@given(st.lists(st.integers(0, 1_000), unique=True, max_size=20))
def test_the_same_number_is_the_same_question_whenever_it_comes(numbers: list[int]) -> None:
    asked = next(sample(PROMPT, ASK, numbers))
    assert [(request.sample, request.index) for request in asked] == [(number, number) for number in numbers]
    assert asked == [next(sample(PROMPT, ASK, [number]))[0] for number in numbers]
    assert all(request.messages == ASK.respond(PROMPT).messages and request.role == "assistant" for request in asked)


@pytest.mark.parametrize(
    ("text", "finish", "problem"),
    [
        ("Hello.", "stop", None), ("", "stop", "empty"), (" \n", "stop", "empty"), ("Hel", "length", "truncated"),
        ("", "length", "truncated"), ("Hello.", "content_filter", "content_filter"),
        ("", "content_filter", "content_filter"),
    ],
)  # fmt: skip
def test_a_reply_that_cannot_be_used_is_kept_with_its_problem(text: str, finish: Any, problem: str | None) -> None:
    result, _ = drawn([4], Completion(text, finish, "m-1"))
    [reply] = result
    assert (reply.text, reply.problem, reply.model, reply.sample) == (text.strip(), problem, "m-1", 4)


def test_replies_come_in_the_order_of_their_numbers() -> None:
    result, _ = drawn([2, 0], Completion(" two ", "stop", "m"), Completion("zero", "stop", "m"))
    assert [(reply.sample, reply.text) for reply in result] == [(2, "two"), (0, "zero")]
