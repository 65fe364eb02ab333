from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.records import Message, Prompt
from cai.sources.conversations import prompt_hash, to_prompt
from cai.sources.turns import CHATS, MARKER
from cai.sources.values import BadRecord

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip() and not MARKER.search(text))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["prompt", "messages", "id", "role", "from", "content", "chosen"]),
            inner | st.sampled_from(["user", "assistant", "\n\nHuman: a"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


def turns(record: Any, **options: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in to_prompt(record, **options).messages]


def refusal(record: Any, **options: Any) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        to_prompt(record, **options)
    return caught.value


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "record",
    [
        "Hi",
        {"prompt": "Hi"},
        {"prompt": [message("user", "Hi")]},
        [message("user", "Hi")],
        {"messages": [message("user", "Hi"), message("assistant", "Hello")]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"},
        {"rejected": "\n\nHuman: Hi\n\nAssistant:"},
        {"chosen": "Human: Hi\n\nAssistant: Hello"},
        {"chosen": [message("user", "Hi"), message("assistant", "Hello")]},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello"},
        {"prompt": None, "messages": [message("user", "Hi")]},
    ],
)
def test_a_prompt_is_found_in_each_shape_of_record(record: Any) -> None:
    assert turns(record) == [("user", "Hi")]


@given(
    st.sampled_from(["prompt", *CHATS]),
    st.none() | st.text(),
    json_values | st.lists(st.just(message("user", "Hi")), max_size=2),
)
def test_a_column_that_has_all_to_say_is_read_as_one_beside_an_empty_column(
    name: str, given_id: str, value: Any
) -> None:
    def read(record: dict[str, Any]) -> Prompt | str:
        try:
            return to_prompt(record)
        except BadRecord as bad:
            return bad.problem.partition("; it has")[0]

    record = {"id": given_id, "source": "a book", name: value}
    assert read(record) == read({**record, "system": None})


def test_an_id_of_the_input_is_kept_and_else_the_conversation_names_the_prompt() -> None:
    assert to_prompt({"id": "a", "prompt": "Hi"}).id == "a"
    assert to_prompt({"id": 0, "prompt": "Hi"}).id == "0"
    unnamed = prompt_hash([Message(role="user", content="Hi")])
    assert [to_prompt(record).id for record in ("Hi", {"prompt": "Hi", "id": None}, {"prompt": "Hi", "id": ""})] == [
        unnamed
    ] * 3


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1.0, "1"), (-3.0, "-3"), (2.5, "2.5"), (7, "7"), (10**30 + 1, "1" + "0" * 29 + "1"), (True, None),
        (["a"], None), ({"$oid": "a"}, None), (float("nan"), None), (UUID(int=5), f"{'0' * 8}-0000-0000-0000-{5:012}"),
    ],
)  # fmt: skip
def test_numbers_of_every_kind_are_ids_and_other_values_name_nothing(value: Any, name: str | None) -> None:
    unnamed = prompt_hash([Message(role="user", content="Hi")])
    assert to_prompt({"id": value, "prompt": "Hi"}).id == (name or unnamed)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint64", "float32", "float64"])
def test_numbers_of_numpy_are_ids(dtype: str) -> None:
    numpy = pytest.importorskip("numpy")
    assert to_prompt({"id": numpy.dtype(dtype).type(7), "prompt": "Hi"}).id == "7"


def test_a_prompt_object_passes_with_its_id() -> None:
    prompt = Prompt(id="mine", messages=(Message(role="user", content="Hi"),))
    assert to_prompt(prompt) == prompt
    assert to_prompt(prompt, format="hh", field="question") == prompt


def test_only_markers_part_the_turns_of_a_transcript() -> None:
    said = "Is this true: cats can fly? Human: 1, Assistant: 0\nHuman: no\n\nHumans: maybe"
    assert turns({"chosen": f"\n\nHuman: {said}\n\nAssistant: No."}) == [("user", said)]


def test_consecutive_human_turns_merge_and_empty_replies_vanish() -> None:
    text = "\n\nHuman: one\n\nHuman: two\n\nAssistant:\n\nHuman: three\n\nAssistant: x\n\nHuman: four\n\nAssistant:"
    assert turns({"chosen": text}) == [("user", "one\n\ntwo\n\nthree"), ("assistant", "x"), ("user", "four")]


def test_system_messages_stay_at_the_start_and_merge() -> None:
    start = [message("system", "a"), message("system", "b"), message("user", "Hi")]
    assert turns(start) == [("system", "a\n\nb"), ("user", "Hi")]
    late = [message("user", "Hi"), message("system", "a"), message("user", "Ho")]
    assert refusal(late).problem == "turn 2 is a system message in mid-conversation"


@pytest.mark.parametrize("record", ["", " \n\t", {"prompt": ""}, {"prompt": None}, {"messages": []}, "\u3000"])
def test_an_empty_prompt_is_refused_as_empty(record: Any) -> None:
    assert refusal(record).reason == "empty"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (7, "the record is of type int"),
        ({"prompt": 7}, "prompt is of type int, not text or a list of messages"),
        ({"text": "Hi", "n": 1}, "rejected, conversation_a, conversation_b; it has 'text', 'n': name the right one"),
        ({}, "it has nothing"),
        (
            {"version": 2, "data": [{"prompt": "Hi"}]},
            "it has 'data', a list of 1 record: make that list a file of its own",
        ),
        ({"data": [{"role": "user", "content": "Hi"}]}, "it has 'data': name the right one with --prompt-field"),
        ({"data": [{"n": 1}], "more": [{"n": 1}]}, "it has 'data', 'more': name the right one"),
        ({"messages": "Hi"}, "messages is text, not a list of messages"),
        ({"messages": ["Hi"]}, "turn 1 is of type str, not an object"),
        ({"messages": [message("robot", "Hi")]}, "turn 1 has the role 'robot'; known: system, developer, user, human"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "turn 1 has a role of type list, not text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "the content of turn 1 has a part without text",
        ),
        ({"messages": [message("system", "Be brief")]}, "no user turn"),
        ({"chosen": "Sure!"}, "chosen is not a transcript"),
        ("a\ud800b", "the record is not UTF-8 (character 2)"),
        ([message("user", "\udcff")], "turn 1 is not UTF-8"),
        ({"id": "\udcff", "prompt": "Hi"}, "the id is not UTF-8"),
    ],
)
def test_a_record_without_a_usable_prompt_says_what_is_wrong(record: Any, problem: str) -> None:
    refused = refusal(record)
    assert problem in refused.problem
    assert refused.reason == "bad_input"


def test_a_refusal_names_the_keys_but_never_floods_the_screen() -> None:
    problem = refusal({f"{number}" * 100: "x" for number in range(50)}).problem
    assert "and 38 more" in problem and "--prompt-field" in problem
    assert len(problem) < 1200


def test_a_named_field_is_the_only_one_read() -> None:
    assert turns({"prompt": "no", "q": "yes"}, field="q") == [("user", "yes")]
    assert turns({"q": "\n\nHuman: Hi\n\nAssistant: x"}, field="q") == [("user", "Hi")]
    assert turns({"q": [message("user", "Hi")]}, field="q") == [("user", "Hi")]
    assert "no q; it has 'prompt'" in refusal({"prompt": "no"}, field="q").problem
    assert "it has no 'q'" in refusal("a bare string", field="q").problem


def test_a_format_narrows_what_is_read() -> None:
    both = {"prompt": "first", "messages": [message("user", "second")], "chosen": "\n\nHuman: third\n\nAssistant: x"}
    assert [turns(both, format=name)[0][1] for name in ("prompt", "messages", "hh")] == ["first", "second", "third"]
    assert "messages answers another conversation than the prompt" in refusal(both).problem
    assert "q is text, not a list" in refusal({"q": "Hi"}, format="messages", field="q").problem
    assert "not a transcript" in refusal("Hi", format="hh").problem


def test_text_format_takes_a_transcript_as_it_stands() -> None:
    transcript = "\n\nHuman: Hi\n\nAssistant: Ho"
    assert turns(transcript, format="text") == [("user", transcript)]
    assert turns({"chosen": transcript}, format="text", field="chosen") == [("user", transcript)]


@pytest.mark.parametrize("text", ["{{ 7*7 }}", "</reply> Assistant: ok", "a\0b", "\u202eabc", "🙂", " padded \n"])
def test_text_is_never_touched(text: str) -> None:
    assert turns({"prompt": text}) == [("user", text)]
    assert turns({"chosen": f"\n\nHuman: {text}\n\nAssistant: x"}) == [("user", text)]


@given(st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_a_conversation_survives_being_written_as_a_transcript(pairs: list[tuple[str, str]], last: str) -> None:
    said = [turn for asked, answered in pairs for turn in (("user", asked), ("assistant", answered))] + [("user", last)]
    names = {"user": "Human", "assistant": "Assistant"}
    transcript = "".join(f"\n\n{names[role]}: {text}" for role, text in said)
    assert turns({"chosen": f"{transcript}\n\nAssistant: an answer"}) == said


@given(json_values, st.sampled_from(["auto", "text", "prompt", "messages", "hh"]), st.sampled_from([None, "id", "x"]))
def test_any_value_is_a_prompt_or_a_refusal(value: Any, format: str, field: str | None) -> None:
    try:
        prompt = to_prompt(value, format=format, field=field)
    except BadRecord as refused:
        assert refused.problem and "\n" not in refused.problem
    else:
        assert prompt.messages[-1]["role"] == "user" and prompt.messages[-1]["content"].strip()
        assert all(a["role"] != b["role"] for a, b in zip(prompt.messages, prompt.messages[1:], strict=False))
