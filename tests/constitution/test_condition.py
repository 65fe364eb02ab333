"""A principle in front of a conversation: where it stands, how it is known there, and which principles are new."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.condition import FORM, is_told, told, warn_of_unseen, wording
from cai.constitution.principles import Principle
from cai.records import Condition, Message

KIND = Principle.model_validate({"id": "kind", "text": "Be\n  kind.", "choose": "Choose the kinder\nreply."})
SHORT = Principle.model_validate({"id": "short", "text": "Be  short.\n"})
CONDITION = Condition(FORM, ("Be short.",))
TURNS: tuple[Message, ...] = ({"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."})


def test_a_principle_is_told_in_the_words_of_a_judge_with_single_spaces() -> None:
    assert (wording(KIND), wording(SHORT)) == ("Choose the kinder reply.", "Be short.")


@given(st.text(), st.booleans())
def test_it_stands_before_the_conversation_whatever_it_says(principle: str, has_system: bool) -> None:
    system: Message = {"role": "system", "content": "You are brief."}
    before = (system, *TURNS) if has_system else TURNS
    first, *rest = told(CONDITION, before, principle)
    start = FORM.replace("{principle}", " ".join(principle.split()))
    assert first == {"role": "system", "content": f"{start}\n\nYou are brief." if has_system else start}
    assert tuple(rest) == TURNS
    assert is_told(CONDITION, (first, *rest)) and not is_told(CONDITION, before) and not is_told(CONDITION, ())


def test_principles_that_a_model_was_not_trained_on_are_named_by_their_ids(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cai"):
        warn_of_unseen("reward:rm", None, [KIND])
        warn_of_unseen("reward:rm", CONDITION, [SHORT])
        assert not caplog.messages
        warn_of_unseen("reward:rm", CONDITION, [KIND, SHORT])
    assert caplog.messages == ["reward:rm was not trained on kind: what it makes of these is a guess"]
