"""A conversation is the same in whatever writing it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shape_readers import JUDGING, by_audit, by_prompts, by_sft

from cai.records import BadPrompt
from cai.runs.kinds.pairs import read_pairs
from cai.sources.cases import read_case, written
from cai.sources.files import read_prompts
from cai.sources.values import BadRecord
from cai.training.data.rowfile import read_rows

TEXTS = st.text(min_size=1, max_size=30).filter(str.strip) | st.sampled_from(
    ['It\'s "so"', "a, b", "{x}\n {y}", "]\n[", "C:\\new", "naïve “words”", "[{'role': 'user'}]", "None", "Human: no"]
)


def turns(texts: list[str]) -> list[Any]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def exchanges(asked: str, said: str) -> Any:
    def write(messages: list[Any]) -> Any:
        texts = [message["content"] for message in messages]
        return [{asked: question, said: answer} for question, answer in zip(texts[::2], texts[1::2], strict=True)]

    return write


def printed_by_numpy(messages: list[Any]) -> str:
    return "[" + "\n ".join(map(repr, messages)) + "]"


def columns(messages: list[Any]) -> Any:
    return {key: [message[key] for message in messages] for key in ("role", "content")}


def share_gpt(messages: list[Any]) -> Any:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


WRITINGS: dict[str, Any] = {
    "messages": list,
    "JSON": json.dumps,
    "indented JSON": lambda messages: json.dumps(messages, indent=2),
    "Python's print": repr,
    "numpy's print": printed_by_numpy,
    "numpy's print of short messages": lambda messages: printed_by_numpy(messages).replace("}\n {'role'", "} {'role'"),
    "a tuple": tuple,
    "an object": lambda messages: {"messages": messages},
    "an object as JSON": lambda messages: json.dumps({"messages": messages}),
    "an object as Python prints it": lambda messages: repr({"conversation": messages}),
    "columns": columns,
    "columns as JSON": lambda messages: json.dumps(columns(messages)),
    "ShareGPT as Python prints it": lambda messages: repr(share_gpt(messages)),
    "ShareGPT in columns": lambda messages: {
        key: [turn[key] for turn in share_gpt(messages)] for key in ("from", "value")
    },
    "input and output": exchanges("input", "output"),
    "human and assistant": exchanges("human", "assistant"),
    "user and bot": exchanges("user", "bot"),
    "question and answer": exchanges("question", "answer"),
    "prompt and response": exchanges("prompt", "response"),
    "instruction and output": exchanges("instruction", "output"),
    "pairs of texts": lambda messages: [
        [first["content"], second["content"]] for first, second in zip(messages[::2], messages[1::2], strict=True)
    ],
}
IN_TURN = {"texts in turn": lambda messages: [message["content"] for message in messages]}  # LIMA


@settings(max_examples=settings.default.max_examples // 4)  # for each writing
@given(st.data(), st.integers(1, 3))
@pytest.mark.parametrize("name", [*WRITINGS, *IN_TURN])
def test_a_conversation_is_read_alike_in_every_writing(name: str, data: st.DataObject, rounds: int) -> None:
    messages = turns(data.draw(st.lists(TEXTS, min_size=2 * rounds, max_size=2 * rounds)))
    value = (WRITINGS | IN_TURN)[name](messages)
    for column in ("conversation", "conversations") if name in IN_TURN else ("messages", "conversation"):
        record = {column: value}
        assert by_prompts(record) == messages[:-1]
        assert by_sft(record) == (messages[:-1], messages[-1]["content"])
        assert by_audit(record) == (written(messages[:-1]), messages[-1]["content"])


OBJECTS = ("an object as JSON", "an object as Python prints it", "columns as JSON")  # text of one is a reply, too


@pytest.mark.parametrize("command", JUDGING)
@pytest.mark.parametrize("name", [name for name in WRITINGS if name not in OBJECTS])
def test_pairs_are_read_alike_in_every_writing(name: str, command: str) -> None:
    before = turns(["Ho, it's?", "No.", "Hi?"])
    write = WRITINGS[name]
    sides = {
        side: write([*before, {"role": "assistant", "content": text}])
        for side, text in (("chosen", "Yes."), ("rejected", "Never."))
    }
    for prompt in ({}, {"prompt": "Ho, it's?"}, {"prompt": json.dumps(before)}, {"prompt": repr(before)}):
        assert JUDGING[command]({**prompt, **sides}) == (before, "Yes.", "Never.")
    for prompt in (before, json.dumps(before), repr(before), printed_by_numpy(before)):
        assert JUDGING[command]({"prompt": prompt, "chosen": "Yes.", "rejected": "Never."}) == (
            before,
            "Yes.",
            "Never.",
        )
        [row] = read_rows([{"prompt": prompt, "completion": "Yes."}], "sft").rows
        assert (list(row.prompt), row.reply) == (before, "Yes.")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", "['a', 'b']", "{'a': 1}", '{"role": "user"}', "[{'role': 'user', 'content': 'cut o", "[{}]", "[]",
        '{"role": "user", "content": "Q?"}', '{"model": "m", "messages": [{"role": "user", "content": "Q?"}]}',
        '{"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}',
        '[{"name": "x"}] is JSON', "{'role': open('x')}", "[{'role': 'user', 'content': 'x'}] what is it?",
        "['\\d']", "[" * 2000 + "'", '{"messages": "text"}', '{"question": "Q?", "answer": "A."}',
    ],
)  # fmt: skip
def test_text_that_only_looks_like_a_conversation_stays_text(text: str) -> None:
    assert by_prompts({"prompt": text}) == [{"role": "user", "content": text}]
    [row] = read_rows([{"prompt": text, "completion": text}], "sft").rows
    assert (row.prompt, row.reply) == (text, text)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([{"input": "Q?", "instruction": "I.", "output": "A."}], "has the role None"),
        ([{"question": "Q?", "answer": "A.", "response": "B."}], "has the role None"),
        ([{"input": "Q?"}], "has the role None"),
        ([{"system": "Be brief.", "input": "Q?", "output": "A."}], "has the role None"),
        ([{"question": "Q?", "answer": "A.", "train": True}], "has the role None"),
        ([{"question": "Q?", "answer": "A.", "weight": 0}], "has the role None"),
        ({"role": ["user", "assistant"], "content": ["Q?"]}, "the lists of role, content differ in length"),
        ([["Q?", "A.", "B."]], "turn 1 is of type list"),
        (["Q?", 3], "turn 1 is of type str"),
        ([("role", "user"), ("content", "Q?")], "turn 1 is of type tuple"),  # a map of parquet
        ({"messages": "text"}, "is of type dict, not text or a list of messages"),
        ({"messages": turns(["Q?", "A."]), "tools": [{"type": "function"}]}, "'tools' has a value"),
    ],
)
def test_what_could_be_read_in_two_ways_is_named(value: Any, problem: str) -> None:
    [prompt] = read_prompts([{"conversations": value}])
    assert isinstance(prompt, BadPrompt) and problem in prompt.problem


def test_texts_in_turn_are_no_conversation_elsewhere() -> None:
    for name in ("prompt", "messages", "chosen", "history"):
        [prompt] = read_prompts([{name: ["Q?", "R?"]}])
        assert isinstance(prompt, BadPrompt), name


def test_an_answer_that_is_missing_ends_a_conversation() -> None:
    for last in ({"input": "R?", "output": None}, ["R?", None]):
        first: Any = {"input": "Q?", "output": "A."} if isinstance(last, dict) else ["Q?", "A."]
        assert by_prompts({"conversation": [first, last]}) == turns(["Q?", "A.", "R?"])
        [prompt] = read_prompts([{"conversation": [last, first]}])
        assert isinstance(prompt, BadPrompt) and prompt.problem == "the content of turn 2 is null, not text"


@given(
    st.lists(TEXTS.filter(lambda text: "Human:" not in text), min_size=3, max_size=5).filter(
        lambda texts: len(texts) % 2
    )
)
def test_turns_of_helpsteer_are_turns(texts: list[str]) -> None:
    prompt = texts[0]
    for number, text in enumerate(texts[1:]):
        prompt += f"\n<extra_id_1>{('Assistant', 'User')[number % 2]}\n{text}"
    assert by_prompts({"prompt": prompt}) == turns(texts)
    record = {"prompt": prompt, "response_1": "x", "response_2": "y", "preference_strength": -2}
    for read in JUDGING.values():
        assert read(record) == (turns(texts), "x", "y")
        assert read({"prompt": prompt, "chosen": "x", "rejected": "y"}) == (turns(texts), "x", "y")


# Battles


@pytest.mark.parametrize("rounds", [2, 3])
def test_a_battle_is_judged_up_to_the_turn_that_was_judged(rounds: int) -> None:
    sides = {}
    for side, text in (("conversation_a", "x"), ("conversation_b", "y")):
        texts = [part for number in range(rounds) for part in (f"Q{number}?", f"{text}{number}")]
        sides[side] = turns(texts)
    record = {"model_a": "m", "model_b": "n", "winner": "model_b", **sides, "turn": 1}
    for read in JUDGING.values():
        assert read(record) == (turns(["Q0?"]), "y0", "x0")
    assert by_prompts(record) == turns(["Q0?"])
    assert dict(read_case(record).replies) == {"conversation_a": "x0", "conversation_b": "y0"}
    for turn in (rounds, None, "last", 0, rounds + 1, 1.5):
        [(_, item)] = read_pairs([{**record, "turn": turn}])
        assert isinstance(item, BadPrompt) and item.problem == "the two replies answer different conversations"


@pytest.mark.parametrize("prompt", ["\n\nHuman: Q?\n\nAssistant:", "Human: Q?\n\nAssistant:", "Human: so?"])
def test_a_transcript_is_continued_as_it_stands_by_text_and_not_by_messages(prompt: str) -> None:
    [row] = read_rows([{"prompt": prompt, "completion": " A."}], "sft").rows
    assert (row.prompt, row.reply) == (prompt, " A.")
    [row] = read_rows([{"prompt": prompt, "completion": [{"role": "assistant", "content": "A."}]}], "sft").rows
    assert not row.is_plain and row.reply == "A."


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_lists_of_questions_and_answers_may_be_printed_by_python(write: Any) -> None:
    record = {"prompt": write(["Q0?", "It's?"]), "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
    record |= {"response_a": write(["A.", "x"]), "response_b": write(["A.", "y"])}
    for read in JUDGING.values():
        assert read(record) == (turns(["Q0?", "A.", "It's?"]), "y", "x")


# What no command passes on


@pytest.mark.parametrize("name", ["images", "image", "videos", "video", "audios", "audio"])
def test_records_with_images_or_sounds_are_dropped_by_every_command(name: str) -> None:
    record = {"conversations": share_gpt(turns(["<image>What is it?", "A cat."])), name: ["1.jpg"]}
    [prompt] = read_prompts([record])
    assert isinstance(prompt, BadPrompt) and f"{name!r} has a value" in prompt.problem
    [drop] = read_rows([record], "sft").drops
    assert drop.detail == prompt.problem
    with pytest.raises(BadRecord, match="images or sounds are not supported"):
        read_case(record)
    for nothing in ([], None, "", "[]", float("nan")):
        assert by_sft({**record, name: nothing})[1] == "A cat."


# What belongs to a prompt


@pytest.mark.parametrize("name", ["instruction", "question"])
def test_the_text_that_a_prompt_is_about_is_part_of_it(name: str) -> None:
    record = {name: "Who?", "context": "It was he.", "response": "He."}
    assert by_prompts(record) == turns(["Who?\n\nIt was he."])
    assert by_sft(record) == (turns(["Who?\n\nIt was he."]), "He.")
    for nothing in ("", None, [], float("nan")):
        assert by_prompts({**record, "context": nothing}) == turns(["Who?"])


@pytest.mark.parametrize("value", [{"table": [1, 2]}, ["one passage", "another"], 7, [{"title": "x"}]])
@pytest.mark.parametrize(
    ("name", "about"), [("instruction", "input"), ("instruction", "context"), ("question", "context")]
)
def test_what_a_prompt_is_about_is_not_left_out_if_it_is_no_text(name: str, about: str, value: Any) -> None:
    record = {name: "Who?", about: value, "response": "He."}
    [prompt] = read_prompts([record])
    assert isinstance(prompt, BadPrompt) and prompt.problem.startswith(f"{about!r} beside the prompt is of type")
    [drop] = read_rows([record], "sft").drops
    assert drop.detail == prompt.problem


@pytest.mark.parametrize("role", ["prompter", "user", "Human", "system"])
def test_an_audit_takes_no_message_of_a_user_for_a_reply(role: str) -> None:
    with pytest.raises(BadRecord, match="the record is one message with the role"):
        read_case({"text": "Why?", "role": role, "parent_id": None})
    assert read_case({"text": "So.", "role": "assistant"}).replies == (("reply", "So."),)
