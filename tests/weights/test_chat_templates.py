"""System text without a role of its own goes before the first turn of the user, wherever that is."""

from __future__ import annotations

import pytest

from cai.weights.chat_templates import SYSTEM, begins_with_system, folded, has_system

Turns = list[tuple[str, str]]


def turns(said: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in said]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("system", "S"), ("user", "U")], [("user", "S\n\nU")]),
        ([("system", " S \n"), ("user", " U\n")], [("user", "S\n\n U\n")]),
        ([("system", "S"), ("system", "T"), ("user", "U")], [("user", "S\n\nT\n\nU")]),
        ([("system", "S"), ("assistant", "A"), ("user", "U")], [("assistant", "A"), ("user", "S\n\nU")]),
        (
            [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")],
            [("user", "S\n\nU"), ("assistant", "A"), ("user", "V")],
        ),
    ],
)
def test_system_text_is_folded_and_nothing_else_changes(said: Turns, expected: Turns) -> None:
    before = turns(said)
    assert begins_with_system(before) and folded(before) == turns(expected)
    assert before == turns(said)


@pytest.mark.parametrize("said", [[], [("user", "U")], [("system", "S")], [("user", "U"), ("assistant", "A")]])
def test_without_system_text_or_a_turn_of_the_user_there_is_nothing_to_fold(said: Turns) -> None:
    assert not begins_with_system(turns(said))


def test_whether_a_template_has_the_role_is_seen_in_what_it_writes() -> None:
    def refuses(messages: list[dict[str, str]]) -> str:
        raise ValueError("Conversation roles must alternate user/assistant")

    assert has_system(lambda messages: "".join(turn["content"] for turn in messages))
    assert has_system(lambda messages: f"[INST] <<{SYSTEM}>> {messages[1]['content']}")  # within the turn of the user
    assert not has_system(lambda messages: "".join(turn["content"] for turn in messages if turn["role"] == "user"))
    assert not has_system(lambda messages: messages[0]["role"] + messages[-1]["content"])
    assert not has_system(refuses)
