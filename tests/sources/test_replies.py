from __future__ import annotations

from typing import Any

import pytest

from cai.sources.cases import read_case
from cai.sources.values import BadRecord

ASKED = "When does the ferry leave?"
TURN = [{"role": "user", "content": ASKED}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("record", "replies", "asked"),
    [
        ({"prompt": ASKED, "completion": "A"}, [("reply", "A")], ASKED),
        ({"prompt": TURN, "completion": said("A"), "label": True}, [("reply", "A")], ASKED),
        ({"messages": TURN + said("A")}, [("reply", "A")], ASKED),
        (
            {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "A"}]},
            [("reply", "A")],
            ASKED,
        ),
        ({"prompt": TURN, "chosen": said("A"), "rejected": said("B")}, [("chosen", "A"), ("rejected", "B")], ASKED),
        ({"prompt": ASKED, "chosen": "A", "rejected": "B"}, [("chosen", "A"), ("rejected", "B")], ASKED),
        ({"chosen": TURN + said("A"), "rejected": TURN + said("B")}, [("chosen", "A"), ("rejected", "B")], ASKED),
        (
            {"chosen": f"\n\nHuman: {ASKED}\n\nAssistant: A", "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: B"},
            [("chosen", "A"), ("rejected", "B")],
            ASKED,
        ),
        ({"prompt": TURN, "replies": [{"text": "A", "model": "m"}, "B"]}, [("reply", "A"), ("reply", "B")], ASKED),
        ({"prompt": TURN, "initial": "A", "rounds": [], "final": "B"}, [("final", "B"), ("initial", "A")], ASKED),
        ({"prompt": TURN, "a": "A", "b": "B", "votes": []}, [("a", "A"), ("b", "B")], ASKED),
        ({"instruction": "Translate.", "input": "Fähre", "output": "A"}, [("reply", "A")], "Translate.\n\nFähre"),
        ({"instruction": ASKED, "input": "", "output": "A"}, [("reply", "A")], ASKED),
        ({"input": ASKED, "output_1": "A", "output_2": "B"}, [("output_1", "A"), ("output_2", "B")], ASKED),
        (
            {"rl_prompt": f"\n\nHuman: {ASKED}\n\nAssistant:", "sampled_answers": [{"sampled_string": " A\n\nHuman:"}]},
            [("reply", " A")],
            ASKED,
        ),
        ("A", [("reply", "A")], None),
        (TURN + said("A"), [("reply", "A")], ASKED),
    ],
)
def test_replies_and_prompt_are_found_in_the_shapes_that_people_have(
    record: Any, replies: list[tuple[str, str]], asked: str | None
) -> None:
    case = read_case(record)
    assert (list(case.replies), case.question) == (replies, asked)


def test_one_conversation_is_the_same_prompt_in_every_shape() -> None:
    turns = [*TURN, *said("At dawn."), {"role": "user", "content": "And back?"}]
    text = f"\n\nHuman: {ASKED}\n\nAssistant: At dawn.\n\nHuman: And back?"
    records = [
        {"prompt": turns, "completion": "A"},
        {"messages": turns + said("A")},
        {"chosen": f"{text}\n\nAssistant: A", "rejected": f"{text}\n\nAssistant: B"},
        {"prompt": f"{text}\n\nAssistant:", "completion": "A"},
    ]
    assert {read_case(record).prompt for record in records} == {text}
    assert read_case(records[0]).question == "And back?"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": ASKED}, "no reply; it has 'prompt': name its column with --reply-field"),
        ({"completion": 3}, "completion is of type int, not text"),
        ({"completion": None}, "completion is null, not text"),
        ({"messages": TURN}, "messages does not end with a reply"),
        ({"messages": [{"role": "robot", "content": "A"}]}, "turn 1 has the role 'robot'"),
        (7, "the record is of type int"),
        ({"completion": "caf\udce9"}, "completion is not UTF-8 (character 4)"),
        ({"prompt": [{"role": "user", "content": "\ud800"}], "completion": "A"}, "turn 1 is not UTF-8"),
    ],
)
def test_a_record_without_a_reply_says_why(record: Any, problem: str) -> None:
    with pytest.raises(BadRecord) as caught:
        read_case(record)
    assert str(caught.value).startswith(problem)
