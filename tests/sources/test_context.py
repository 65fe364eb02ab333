"""What a reply answers is the whole conversation that its record holds, in every command, or the record is dropped."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shape_readers import JUDGING, Record, by_audit, by_prompts, by_sft

from cai.errors import InputError
from cai.records import BadPrompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case, written
from cai.sources.files import read_prompts
from cai.training.data.rowfile import read_rows

ASKED = ("Which metal is liquid?", "And at what pressure?", "Name its symbol")
ANSWERED = ("Mercury.", "At one bar.")
SYSTEM: list[Any] = [{"role": "system", "content": "Answer a chemist."}]


def conversation(turns: int, system: bool = False) -> list[Any]:
    """A conversation of some turns of the user."""
    messages = list(SYSTEM) if system else []
    for number in range(turns):
        messages.append({"role": "user", "content": ASKED[number]})
        if number < turns - 1:
            messages.append({"role": "assistant", "content": ANSWERED[number]})
    return messages


def answered(messages: list[Any], reply: str) -> list[Any]:
    return [*messages, {"role": "assistant", "content": reply}]


def parts_of(messages: list[Any]) -> dict[str, Any]:
    """What people put under `prompt` beside the whole conversation."""
    users = [turn["content"] for turn in messages if turn["role"] == "user"]
    return {
        "nothing": None,
        "the first question": users[0],
        "the last question": users[-1],
        "the first question in other blanks": f" {users[0].replace(' ', '  ')}\n",
        "the first message": [{"role": "user", "content": users[0]}],
        "all messages": messages,
        "messages without the system turn": [turn for turn in messages if turn["role"] != "system"],
    }


COLUMNS = (("chosen", "rejected"), ("a", "b"), ("response_a", "response_b"), ("output_1", "output_2"))
HELD_TWICE = [
    pytest.param(part, columns, messages, id=f"{name}, {columns[0]}, {turns} turns, system {system}")
    for turns, system in itertools.product((1, 2, 3), (False, True))
    for messages in [conversation(turns, system)]
    for name, part in parts_of(messages).items()
    for columns in COLUMNS
]


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize(("part", "columns", "messages"), HELD_TWICE)
def test_a_pair_is_judged_and_trained_after_the_whole_conversation(
    part: Any, columns: tuple[str, str], messages: list[Any], command: str
) -> None:
    first, second = columns
    record = {"prompt": part, first: answered(messages, "Hg."), second: answered(messages, "Au."), "winner": "a"}
    assert JUDGING[command](record) == (messages, "Hg.", "Au.")


@pytest.mark.parametrize(("part", "columns", "messages"), HELD_TWICE[::4])
def test_an_audit_and_a_run_over_prompts_see_the_whole_conversation_too(
    part: Any, columns: tuple[str, str], messages: list[Any]
) -> None:
    record = {"prompt": part, "chosen": answered(messages, "Hg."), "rejected": answered(messages, "Au.")}
    assert read_case(record).prompt == written(messages)
    assert by_prompts(record) == messages
    single = {"prompt": part, "messages": answered(messages, "Hg.")}
    assert (by_sft(single), by_prompts(single)) == ((messages, "Hg."), messages)


@pytest.mark.parametrize("name", ["messages", "conversations", "conversation"])
def test_a_prompt_of_more_turns_than_the_conversation_beside_it_counts(name: str) -> None:
    whole = conversation(3, system=True)
    record = {"prompt": whole, name: answered(whole[-1:], "Hg.")}
    assert by_sft(record) == (whole, "Hg.")
    assert by_prompts(record) == whole


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


CONTRADICTIONS: list[tuple[Record, str]] = [
    ({"prompt": "Which gas is noble?"}, "answers another conversation than the prompt"),
    ({"prompt": user("Which gas is noble?")}, "answers another conversation than the prompt"),
    ({"prompt": [*user("Which gas is noble?"), *conversation(2)[1:]]}, "answers another conversation than the prompt"),
    ({"prompt": [{"role": "system", "content": "Be brief."}, *conversation(2)]}, "system text of"),
    ({"prompt": "Which metal is liquid"[:-3]}, "answers another conversation than the prompt"),
    ({"system": "Be brief."}, "'system' is not the text of the system turn"),
    ({"system_prompt": "Be brief."}, "'system_prompt' is not the text of the system turn"),
]


@pytest.mark.parametrize(("more", "problem"), CONTRADICTIONS)
def test_a_prompt_that_contradicts_the_turns_drops_the_record_everywhere(more: Record, problem: str) -> None:
    turns = conversation(2, system=True)
    record = {"chosen": answered(turns, "Hg."), "rejected": answered(turns, "Au."), **more}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, BadPrompt) and problem in item.problem
    [drop] = read_rows([record], "dpo").drops
    assert problem in drop.detail
    [prompt] = read_prompts([record])
    assert isinstance(prompt, BadPrompt) and problem in prompt.problem


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (conversation(2), conversation(1)),
        (conversation(2), conversation(2, system=True)),
        (conversation(1), user("Which gas is noble?")),
        (conversation(2), [*conversation(1), {"role": "assistant", "content": "Lead."}, *conversation(2)[2:]]),
        (conversation(3), conversation(3)[2:]),
    ],
)
def test_two_sides_of_different_conversations_drop_the_record(chosen: list[Any], rejected: list[Any]) -> None:
    record = {"chosen": answered(chosen, "Hg."), "rejected": answered(rejected, "Au.")}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, BadPrompt) and item.problem == "the two replies answer different conversations"
    [drop] = read_rows([record], "dpo").drops
    assert drop.detail == item.problem


# The system text of a record, and the turns before its prompt

OF_SYSTEM: list[Record] = [
    {"prompt": "Hi?", "chosen": "Hg.", "rejected": "Au."},
    {"question": "Hi?", "chosen": "Hg.", "rejected": "Au."},
    {"prompt": user("Hi?"), "a": "Hg.", "b": "Au.", "label": "a"},
    {"chosen": answered(user("Hi?"), "Hg."), "rejected": answered(user("Hi?"), "Au.")},
    {"prompt": "Hi?", "chosen": "\n\nHuman: Hi?\n\nAssistant: Hg.", "rejected": "\n\nHuman: Hi?\n\nAssistant: Au."},
    {"input": "Hi?", "output_1": "Hg.", "output_2": "Au.", "label": 1},
    {"conversations": [{"from": "human", "value": "Hi?"}], "chosen": {"from": "gpt", "value": "Hg."},
     "rejected": {"from": "gpt", "value": "Au."}},
]  # fmt: skip


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize("record", OF_SYSTEM)
def test_the_system_text_of_a_record_is_the_system_turn(record: Record, column: str, command: str) -> None:
    system = "Answer a chemist."
    assert JUDGING[command]({column: system, **record}) == ([*SYSTEM, *user("Hi?")], "Hg.", "Au.")
    assert by_prompts({column: system, **record}) == [*SYSTEM, *user("Hi?")]


@pytest.mark.parametrize("empty", [None, "", float("nan")])
@pytest.mark.parametrize("record", OF_SYSTEM)
def test_an_empty_system_text_and_empty_tools_are_none(record: Record, empty: Any) -> None:
    usual = read_pairs([record])
    assert list(read_pairs([{**record, "system": empty, "tools": [], "functions": "null"}])) == list(usual)


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_single_replies_are_answers_to_the_system_text_too(column: str) -> None:
    rows: list[Record] = [
        {"prompt": "Hi?", "completion": "Hg."},
        {"messages": answered(user("Hi?"), "Hg.")},
        {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hg."}]},
        {"instruction": "Hi?", "input": "", "output": "Hg."},
        {"question": "Hi?", "response": "Hg."},
    ]
    for row in rows:
        record = {**row, column: "Answer a chemist."}
        assert by_sft(record) == ([*SYSTEM, *user("Hi?")], "Hg.")
        assert by_audit(record) == (written([*SYSTEM, *user("Hi?")]), "Hg.")
    [(_, pair)] = read_pairs([{"prompt": "Hi?", "replies": ["Hg.", "Au."], column: "Answer a chemist."}])
    assert list(getattr(pair, "messages", ())) == [*SYSTEM, *user("Hi?")]


def test_the_history_before_an_instruction_is_part_of_the_conversation() -> None:
    history = [[ASKED[0], ANSWERED[0]], [ASKED[1], ANSWERED[1]]]
    record = {"instruction": ASKED[2], "input": "", "output": "Hg.", "history": history}
    assert by_sft(record) == (conversation(3), "Hg.")
    assert by_sft({**record, "history": []}) == (user(ASKED[2]), "Hg.")


EARLIER = conversation(3)[:-1]
BEFORE: dict[str, Any] = {  # columns of the turns before a prompt of its own
    "context": EARLIER,
    "history": EARLIER,
    "history in pairs": [[ASKED[0], ANSWERED[0]], [ASKED[1], ANSWERED[1]]],
    "context that ends with the prompt": conversation(3),
    "history that ends with the prompt": conversation(3),
}


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize("name", ["prompt", "question", "instruction"])
@pytest.mark.parametrize("before", BEFORE)
def test_a_pair_is_judged_and_trained_after_the_turns_before_its_prompt(before: str, name: str, command: str) -> None:
    column = before.split()[0]
    record = {name: ASKED[2], column: BEFORE[before], "chosen": "Hg.", "rejected": "Au."}
    assert JUDGING[command](record) == (conversation(3), "Hg.", "Au.")
    assert by_prompts(record) == conversation(3)


@pytest.mark.parametrize("column", ["context", "history"])
def test_turns_that_end_with_another_question_than_the_prompt_drop_the_record(column: str) -> None:
    record = {"prompt": "What else?", column: conversation(3), "chosen": "Hg.", "rejected": "Au."}
    [(_, bad)] = read_pairs([record])
    assert isinstance(bad, BadPrompt) and "another conversation than the prompt" in bad.problem
    assert not read_rows([record, {**record, column: None}], "dpo").rows[1:]


TOOLS: list[tuple[Record, str]] = [
    ({"tools": [{"type": "function"}]}, "'tools' has a value"),
    ({"tools": '[{"name": "weather"}]'}, "'tools' has a value"),
    ({"functions": [{"name": "weather"}]}, "'functions' has a value"),
]


@pytest.mark.parametrize(("more", "problem"), TOOLS)
def test_records_with_tools_are_dropped_by_every_command(more: Record, problem: str) -> None:
    pair = {"prompt": "Hi?", "chosen": "Hg.", "rejected": "Au.", **more}
    [(_, item)] = read_pairs([pair])
    [prompt] = read_prompts([{"prompt": "Hi?", **more}])
    for bad in (item, prompt):
        assert isinstance(bad, BadPrompt) and problem in bad.problem
    [drop] = read_rows([pair], "dpo").drops
    assert problem in drop.detail
    [drop] = read_rows([{"messages": answered(user("Hi?"), "Hg."), **more}], "sft").drops
    assert problem in drop.detail


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (CALL, "turn 2 calls a tool"),
        ({**CALL, "content": "Let me see."}, "turn 2 calls a tool"),
        ({"role": "assistant", "content": "", "function_call": {"name": "f"}}, "turn 2 calls a tool"),
        ({"role": "tool", "content": "3"}, "turn 2 has the role 'tool': turns of tools are not supported"),
        ({"from": "observation", "value": "3"}, "turn 2 has the role 'observation': turns of tools"),
        ({"from": "function_call", "value": "{}"}, "turn 2 has the role 'function_call': turns of tools"),
        ({"role": "Tool", "content": "3"}, "turn 2 has the role 'Tool': turns of tools"),
        ({"role": "narrator", "content": "3"}, "turn 2 has the role 'narrator'; known: system"),
    ],
)
def test_turns_of_tools_are_named_in_the_drop(turn: Record, problem: str) -> None:
    record = {"messages": answered([*user("Hi?"), turn, *user("And?")], "Hg.")}
    [drop] = read_rows([record], "sft").drops
    assert problem in drop.detail
    [prompt] = read_prompts([record])
    assert isinstance(prompt, BadPrompt) and problem in prompt.problem


# Writings of turns

SAID = {
    "system": ("system", "System", "developer"),
    "user": ("user", "User", "USER", "human", "Human", "prompter"),
    "assistant": ("assistant", "Assistant", "gpt", "GPT", "chatgpt", "bing", "bard", "model", "bot", " assistant "),
}
WRITERS = [
    lambda text: text,
    lambda text: [{"type": "text", "text": text}],
    lambda text: [{"type": "text", "text": text[:2]}, {"type": "text", "text": text[2:]}],
    lambda text: [text],
    lambda text: [{"type": "input_text", "text": text, "image": None}],
]


@given(st.data())
def test_roles_and_contents_may_be_written_in_many_ways(data: st.DataObject) -> None:
    messages = answered(conversation(2, system=True), "Hg.")
    role_key = data.draw(st.sampled_from(["role", "from"]))
    content_key = data.draw(st.sampled_from(["content", "value"]))
    written_turns = [
        {
            role_key: data.draw(st.sampled_from(SAID[turn["role"]])),
            content_key: data.draw(st.sampled_from(WRITERS))(turn["content"]),
            "name": None,
        }
        for turn in messages
    ]
    assert by_sft({"messages": written_turns}) == (messages[:-1], "Hg.")
    assert by_prompts({"conversations": written_turns}) == messages[:-1]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "has a part of type 'image_url': only text is read"),
        ([{"type": "text", "text": "a"}, {"type": "audio"}], "has a part of type 'audio'"),
        ([{"type": "text"}], "has a part without text"),
        ([7], "has a part of type int"),
        ({"text": "a"}, "is of type dict, not text"),
        (None, "is null, not text"),
    ],
)
def test_a_content_that_is_not_text_is_named(content: Any, problem: str) -> None:
    [prompt] = read_prompts([[{"role": "user", "content": content}]])
    assert isinstance(prompt, BadPrompt) and f"the content of turn 1 {problem}" in prompt.problem


# Text that repeats the prompt

REPEATED = [
    ("Which metal is liquid? ", "Hg.", "Au."),
    ("Which metal is liquid?", " Hg.", " Au."),
    ("Q7?", " Hg.", " Au."),
    ("The liquid metal is", " mercury.", " gold."),
    ("Question: liquid metal?\nAnswer:", " Hg", " Au"),
    ("Solve\n", "Hg", "Au"),
]


@pytest.mark.parametrize(("prompt", "better", "worse"), REPEATED)
def test_text_that_repeats_the_prompt_is_neither_trained_nor_judged_twice(prompt: str, better: str, worse: str) -> None:
    record = {"prompt": prompt, "chosen": prompt + better, "rejected": prompt + worse}
    [row] = read_rows([record], "dpo").rows
    assert (row.prompt, row.reply, row.rejected) == (prompt, better, worse)
    assert JUDGING["label"](record) == (user(prompt), better, worse)
    [single] = read_rows([{"prompt": prompt, "completion": prompt + better}], "sft").rows
    assert (single.prompt, single.reply) == (prompt, better)
    assert [text for _, text in read_case(record).replies] == [better, worse]


@pytest.mark.parametrize("greeting", ["Hi", "Hello!", "Good morning", "Thanks."])
def test_a_greeting_that_is_returned_is_a_reply(greeting: str) -> None:
    record = {"prompt": greeting, "chosen": f"{greeting} What can I do?", "rejected": f"{greeting} Bye."}
    assert JUDGING["label"](record) == (user(greeting), f"{greeting} What can I do?", f"{greeting} Bye.")


def test_one_side_that_repeats_the_prompt_drops_the_pair() -> None:
    record = {"prompt": "Which metal is liquid?", "chosen": "Which metal is liquid? Hg.", "rejected": "Au."}
    [(_, item)] = read_pairs([record])
    assert isinstance(item, BadPrompt) and "chosen begins with the prompt, and rejected does not" in item.problem
    [drop] = read_rows([record], "dpo").drops
    assert drop.detail == item.problem


# Weights of turns

U, V = {"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}


def said(text: str, weight: Any = None) -> Record:
    return {"role": "assistant", "content": text, "weight": weight}


@pytest.mark.parametrize(
    ("messages", "learnt"),
    [
        ([U, said("a", 1)], "a"),
        ([U, said("a", 0), V, said("b")], "b"),
        ([U, said("a", 0), V, said("b", 1.0)], "b"),
        ([U, said("a"), V, said("b", 0)], "a"),
        ([U, said("a", True), V, said("b", False)], "a"),
        ([U, said("a", 1), V, said("b", 0), U, said("c", 0)], "a"),
        ([U, said("a"), V, {**said("b"), "train": False}], "a"),
        ([U, {**said("a"), "loss": True}, V, {**said("b"), "loss": False}], "a"),
        ([U, {**said("a"), "train": False}, V, {**said("b", 1), "train": True}], "b"),
        ([U, {"from": "gpt", "value": "a", "weight": 1}, V, {"from": "gpt", "value": "b", "weight": 0}], "a"),
    ],
)
def test_the_last_reply_whose_weight_is_not_zero_is_learnt(messages: list[Any], learnt: str) -> None:
    [row] = read_rows([{"messages": messages}], "sft").rows
    assert row.reply == learnt
    assert row.prompt[-1]["role"] == "user"  # type: ignore[index]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": [U, said("a", 0)]}, "'messages' has no reply to learn: its weight is 0"),
        ({"messages": [U, said("a", 0), V, said("b", 0)]}, "has no reply to learn"),
        ({"prompt": [U], "completion": [said("a", 0)]}, "'completion' has no reply to learn"),
        ({"messages": [U, said("a", 0.5)]}, "the weight of turn 2 is 0.5, not 0 or 1"),
        ({"messages": [U, {**said("a", 1), "train": False}]}, "the weight of turn 2 is 1 and False, not 0 or 1"),
        ({"messages": [U, {**said("a"), "loss": [0]}]}, "the weight of turn 2 is [0], not 0 or 1"),
        ({"messages": [U, said("a", "low")]}, "the weight of turn 2 is low, not 0 or 1"),
        ({"messages": [U, said("a", 0), said("b", 1)]}, "several turns, of which some have weight 0"),
        ({"messages": [U, said("a")], "weight": 0}, "its weight is 0: it is not to be learnt"),
        ({"prompt": "One?", "completion": "a", "weight": "0.0"}, "its weight is 0: it is not to be learnt"),
        ({"messages": [U, said("a")], "weight": 0.5}, "the weight of the record is 0.5, not 0 or 1"),
        ({"messages": [U, {**said("a"), "train_detail": [{"begin_offset": 0, "train": False}]}]}, "has 'train_detail'"),
    ],
)
def test_a_record_of_which_nothing_may_be_learnt_is_dropped(record: Record, problem: str) -> None:
    file = read_rows([{"messages": [U, said("kept")]}, record], "sft")
    assert [row.reply for row in file.rows] == ["kept"]
    assert problem in file.drops[0].detail


@pytest.mark.parametrize("weight", [1, 1.0, "1", None, "", float("nan"), True])
def test_a_record_whose_weight_is_1_or_empty_is_learnt(weight: Any) -> None:
    assert by_sft({"messages": [U, said("a", weight)], "weight": weight})[1] == "a"


@pytest.mark.parametrize(("tag", "grade"), [(True, True), (False, False), (1, True), (0, False), ("false", False)])
def test_the_tag_of_llama_factory_is_a_grade_and_no_reply_that_it_rejects_is_learnt(tag: Any, grade: bool) -> None:
    alpaca = {"instruction": "One?", "input": "", "output": "a"}
    share_gpt = {"conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "a"}]}
    for record in (alpaca, share_gpt):
        [row] = read_rows([{**record, "kto_tag": tag}], "kto").rows
        assert (row.reply, row.label) == ("a", grade)
        with pytest.raises(InputError, match="cai train kto"):
            read_rows([{**record, "kto_tag": tag}], "sft")
        assert by_sft({**record, "kto_tag": None})[1] == "a"


def test_a_pair_of_which_one_reply_has_weight_zero_is_dropped() -> None:
    record = {"prompt": [U], "chosen": [said("a", 0)], "rejected": [said("b")]}
    [drop] = read_rows([record], "dpo").drops
    assert "'chosen' has no reply to learn" in drop.detail
