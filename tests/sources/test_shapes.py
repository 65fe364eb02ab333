"""One record is read alike by every command: prompts, label, bench, train and audit."""

from __future__ import annotations

from typing import Any

import pytest
from shape_readers import JUDGING, Record, by_audit, by_prompts, by_sft

from cai.records import Contest, Prompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case, written
from cai.sources.files import read_prompts
from cai.training.data.rowfile import read_rows

HI: list[Any] = [{"role": "user", "content": "Hi?"}]
LONG: list[Any] = [
    *HI,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And in French?"},
]
SHARE_GPT = [
    {"from": "human", "value": "Hi?"},
    {"from": "gpt", "value": "Hello."},
    {"from": "human", "value": "And in French?"},
]
TRANSCRIPT = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: And in French?"


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PROMPTS: list[tuple[Record, list[Any]]] = [
    ({"prompt": HI}, HI),
    ({"prompt": LONG}, LONG),
    ({"prompt": SHARE_GPT}, LONG),
    ({"instruction": "Hi?"}, HI),
    ({"instruction": "Hi?", "input": ""}, HI),
    ({"instruction": "Translate.", "input": "Hi?"}, [{"role": "user", "content": "Translate.\n\nHi?"}]),
    ({"question": "Hi?"}, HI),
    ({"input": "Hi?"}, HI),
    ({"rl_prompt": TRANSCRIPT}, LONG),
    ({"prompt": [*HI, {"role": "user", "content": "There?"}]}, [{"role": "user", "content": "Hi?\n\nThere?"}]),
]
TWO: list[Record] = [
    {"chosen": "Yes.", "rejected": "No."},
    {"chosen": said("Yes."), "rejected": said("No.")},
    {"a": "No.", "b": "Yes.", "human": "b"},
    {"a": "Yes.", "b": said("No."), "label": "first"},
    {"output_1": "No.", "output_2": "Yes.", "label": 2},
    {"output_1": "Yes.", "output_2": "No.", "label": "1"},
    {"text_a": "Yes.", "text_b": "No.", "human": "A"},
    {"response_a": "No.", "response_b": "Yes.", "human": "second"},
]
WHOLE: list[tuple[Record, list[Any]]] = [
    ({"chosen": f"{TRANSCRIPT}\n\nAssistant: Yes.", "rejected": f"{TRANSCRIPT}\n\nAssistant: No."}, LONG),
    ({"chosen": [*LONG, *said("Yes.")], "rejected": [*LONG, *said("No.")]}, LONG),
    ({"prompt": "Hi?", "chosen": [*HI, *said("Yes.")], "rejected": [*HI, *said("No.")]}, HI),
    ({"prompt": "Hi?", "chosen": said("Yes."), "rejected": said("No.")}, HI),
    ({"prompt": HI, "a": [*HI, *said("Yes.")], "b": "No.", "human": "a"}, HI),
]
PAIRS = [({**prompt, **two}, turns) for prompt, turns in PROMPTS for two in TWO] + WHOLE


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize(("record", "turns"), PAIRS)
def test_a_pair_is_read_alike(record: Record, turns: list[Any], command: str) -> None:
    assert JUDGING[command](record) == (turns, "Yes.", "No.")


@pytest.mark.parametrize(("record", "turns"), PAIRS)
def test_an_audit_and_a_run_over_prompts_see_the_same_conversation(record: Record, turns: list[Any]) -> None:
    case = read_case(record)
    assert case.prompt == written(turns) and {reply for _, reply in case.replies} == {"Yes.", "No."}
    [prompt] = read_prompts([record])
    assert isinstance(prompt, Prompt) and list(prompt.messages) == turns


ONE: list[Record] = [
    *({name: "Yes."} for name in ("completion", "output", "response", "reply", "answer", "generation", "chosen")),
    {"completion": said("Yes.")},
]


@pytest.mark.parametrize("reply", ONE)
@pytest.mark.parametrize(("prompt", "turns"), PROMPTS)
def test_a_single_reply_is_read_alike(prompt: Record, turns: list[Any], reply: Record) -> None:
    record = {**prompt, **reply}
    assert (by_sft(record), by_audit(record), by_prompts(record)) == ((turns, "Yes."), (written(turns), "Yes."), turns)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*LONG, *said("Yes.")]},
        {"messages": f"{TRANSCRIPT}\n\nAssistant: Yes."},
        {"conversations": [*SHARE_GPT, {"from": "gpt", "value": "Yes."}]},
        {"chosen": f"{TRANSCRIPT}\n\nAssistant: Yes."},
    ],
)
def test_a_whole_conversation_is_read_alike(record: Record) -> None:
    assert (by_sft(record), by_audit(record), by_prompts(record)) == ((LONG, "Yes."), (written(LONG), "Yes."), LONG)


@pytest.mark.parametrize(
    "many",
    [
        {"replies": ["Yes.", "No."]},
        {"outputs": ["Yes.", {"text": "No."}]},
        {"replies": [{"text": "Yes.", "finish_reason": "stop"}, {"text": "No."}]},
        {"sampled_answers": [{"sampled_string": "Yes."}, {"sampled_string": "No.\n\nHuman:"}]},
    ],
)
@pytest.mark.parametrize(("prompt", "turns"), PROMPTS)
def test_several_replies_are_read_alike(prompt: Record, turns: list[Any], many: Record) -> None:
    [(_, item)] = read_pairs([{**prompt, **many}])
    assert isinstance(item, Contest) and (list(item.messages), item.a, item.b) == (turns, "Yes.", "No.")
    case = read_case({**prompt, **many})
    assert (case.prompt, [reply for _, reply in case.replies]) == (written(turns), ["Yes.", "No."])


def test_a_reply_in_several_turns_is_one_reply_everywhere() -> None:
    record = {"messages": [*HI, *said("Yes."), *said("Please.")]}
    [row] = read_rows([record], "sft").rows
    assert row.reply == "Yes.\n\nPlease." == read_case(record).replies[0][1]


def test_a_reply_that_was_cut_is_truncated_everywhere() -> None:
    record = {"prompt": "Hi?", "replies": ["Yes.", {"text": "No, bec", "finish_reason": "length"}]}
    [(_, item)] = read_pairs([record])
    assert getattr(item, "reason", None) == "truncated"
    assert read_case(record).cut == {1}


def test_a_number_beside_letters_is_not_a_human_label() -> None:
    record = {"prompt": "Hi?", "a": "Yes.", "b": "No.", "label": 1}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, Contest) and item.human is None
    [drop] = read_rows([record], "dpo").drops
    assert "nothing says which of 'a' and 'b' is better" in drop.detail
