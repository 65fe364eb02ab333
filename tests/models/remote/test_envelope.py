"""Any field of an answer may be of another type: then it is not known, or the answer is dropped; nothing crashes."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from habits import MODEL, REPLY, chat, continuation, listed, message
from hypothesis import given
from hypothesis import strategies as st

from cai.engine.ask_judge import LISTED
from cai.engine.letters import read_letters
from cai.errors import CallRejected, ModelError, ModelFault
from cai.folder.journal.answers import log_sum
from cai.folder.journal.store import Store, read_calls
from cai.judge.flows import read_choice as read_vote
from cai.models.remote.envelope import finish_of, read_choice, read_message
from cai.models.remote.failures import loads
from cai.records import Completion

Read = Callable[[Any, str, Any], Completion]

LETTERS = listed(("A", -0.2), ("B", -2.5), (" A", -4.0), ("The", -6.0))
TOKENS = {"tokens": ["A"], "token_logprobs": [-0.2], "top_logprobs": [{"A": -0.2, "B": -2.5, "The": -6.0}]}
DETAILS = {"prompt_tokens": 21, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}}
BODIES: dict[str, tuple[Read, dict[str, Any]]] = {
    "chat": (read_choice, chat(message={"refusal": None, "reasoning": "Dry."}, usage=DETAILS)),
    "chat in parts": (read_choice, chat([{"type": "text", "text": REPLY[:9]}, {"type": "text", "text": REPLY[9:]}])),
    "judge": (read_choice, chat("A", choice={"logprobs": LETTERS})),
    "completion": (read_choice, continuation("A", choice={"logprobs": TOKENS})),
    "message": (
        read_message,
        message(usage={"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 8})
        | {"content": [{"type": "thinking", "thinking": "Dry."}, {"type": "text", "text": REPLY}]},
    ),
}
ODD = [
    None, True, False, 0, -3, 12, 2**63, 10**30, 0.5, 11.0, 1e300, math.nan, math.inf, -math.inf, "", " ", "12", "x",
    "\ud83d", "\x00", [], [None], [1], ["x"], [[]], [{}], {}, {"x": 1}, {"text": "y"}, {"id": None},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value inside a body."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(body)
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


def without(body: Any, path: tuple[Any, ...]) -> Any:
    body = copy.deepcopy(body)
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return body


def outcome(read: Read, body: Any) -> Completion | ModelError:
    """What comes of a body that a server writes as JSON."""
    try:
        return read(loads(json.dumps(body).encode()), MODEL, 100)
    except ModelError as error:
        return error


def odd_bodies(name: str) -> Iterator[tuple[tuple[Any, ...], Any]]:
    _, body = BODIES[name]
    for path in places(body):
        yield path, without(body, path)
        for value in ODD:
            yield path, changed(body, path, value)


def is_whole(done: Completion) -> bool:
    """Whether each field has its own type."""
    counts = (done.input_tokens, done.output_tokens, done.cached_tokens, done.cache_write_tokens)
    return (
        isinstance(done.text, str)
        and isinstance(done.model, str)
        and done.finish in ("stop", "length", "content_filter", "unknown")
        and all(count is None or (type(count) is int and 0 <= count <= 2**31) for count in counts)
        and isinstance(done.reasoning, str | None)
        and all(isinstance(value, float) for tokens in done.logprobs or () for value in tokens.values())
    )


@pytest.mark.parametrize("name", BODIES)
def test_an_odd_field_is_not_known_or_costs_the_answer(name: str) -> None:
    read, body = BODIES[name]
    plain = outcome(read, body)
    assert isinstance(plain, Completion)
    text_paths = {"choices", "message", "content", "text", "refusal", "type"}
    for path, odd in odd_bodies(name):
        done = outcome(read, odd)
        if isinstance(done, Completion):
            assert is_whole(done), path
            if not text_paths & set(path):
                assert done.text == plain.text and done.finish in (plain.finish, "unknown", "length"), path
        else:
            assert type(done) is CallRejected and done.reason == "model_error" and "\n" not in str(done), path


@pytest.mark.parametrize("name", BODIES)
def test_an_odd_answer_is_stored_and_read_again_as_it_was_understood(name: str, tmp_path: Path) -> None:
    read, _ = BODIES[name]
    answers = [done for _, odd in odd_bodies(name) if isinstance(done := outcome(read, odd), Completion)]

    async def keep() -> None:
        store = Store(tmp_path)
        for number, done in enumerate(answers):
            store.put(number.to_bytes(16), "openai", MODEL, {"messages": []}, done, None)
        await store.committed()
        store.close()

    asyncio.run(keep())
    stored = [call.completion for call in read_calls(tmp_path)]
    assert repr(stored) == repr(answers)  # NaN is not equal to itself
    for fresh, again in zip(answers, stored, strict=True):
        assert read_letters(again) == read_letters(fresh)
        assert read_vote(again, named=True) == read_vote(fresh, named=True)


def test_not_a_number_anywhere_in_a_body_is_read() -> None:
    for value in (math.nan, math.inf, -math.inf):
        for path in places(chat()):
            if path[:1] != ("choices",):
                assert isinstance(outcome(read_choice, changed(chat(), path, value)), Completion)
    assert loads(b'{"a": [1e999, -Infinity, NaN], "b": ' + b"9" * 5000 + b"}")["a"][0] == math.inf
    assert loads(b'{"n": 12345678901234567890123}')["n"] == pytest.approx(1.2345678901234567e22)


# Counts


@pytest.mark.parametrize(
    ("value", "count"),
    [(12, 12), (8.0, 8), (0, 0), ("12", None), (-1, None), (7.5, None), (2**63, None), (True, None), ([3], None)],
)
def test_a_count_of_tokens_is_a_whole_number_or_not_known(value: Any, count: int | None) -> None:
    done = read_choice(chat(usage={"prompt_tokens": value, "completion_tokens": 1}), MODEL, 100)
    assert done.input_tokens == count and done.output_tokens == 1
    done = read_message(message(usage={"input_tokens": value, "output_tokens": 1}), MODEL, 100)
    assert done.input_tokens == count and done.output_tokens == 1


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"input_tokens": 21, "output_tokens": 8}, (21, 8, None)),
        ({"inputTokens": 21, "outputTokens": 8}, (21, 8, None)),
        ({"promptTokenCount": 21, "candidatesTokenCount": 8, "cachedContentTokenCount": 4}, (21, 8, 4)),
        ({"prompt_tokens": 21, "completion_tokens": 8, "prompt_cache_hit_tokens": 5}, (21, 8, 5)),
        ({"prompt_tokens": 21, "completion_tokens": 8, "cached_tokens": 5}, (21, 8, 5)),
        ({"prompt_tokens": 21, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 5}}, (21, 8, 5)),
        ({"total_tokens": 29}, (None, None, None)),
    ],
)
def test_counts_are_read_under_the_names_of_any_protocol(
    usage: dict[str, Any], counts: tuple[int | None, int | None, int | None]
) -> None:
    done = read_choice(chat(usage=usage), MODEL, 100)
    assert (done.input_tokens, done.output_tokens, done.cached_tokens) == counts


def test_a_sum_with_a_part_that_is_not_known_is_not_known() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": "7", "cache_creation_input_tokens": 2, "output_tokens": 1}
    done = read_message(message(usage=usage), MODEL, 100)
    assert (done.input_tokens, done.cached_tokens, done.cache_write_tokens) == (None, None, 2)


def test_more_cached_tokens_than_there_are_input_tokens_are_not_known() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}}
    assert read_choice(chat(usage=usage), MODEL, 100).cached_tokens is None


# How a reply ended


@pytest.mark.parametrize("reason", [None, "", " ", "finished_well", "OTHER", 1, [], {"type": "stop"}, False])
def test_a_whole_text_without_a_known_reason_is_usable(reason: Any) -> None:
    for done in (read_choice(chat(finish=reason), MODEL, 100), read_message(message(stop=reason), MODEL, 100)):
        assert (done.text, done.finish) == (REPLY, "unknown")
        with pytest.raises(CallRejected, match=r"the server ended the reply with .*no text that can be used"):
            read_choice(chat("", reason), MODEL, 100)


def test_a_text_without_a_reason_that_has_all_its_tokens_was_cut() -> None:
    assert read_choice(chat(finish=None), MODEL, 8).finish == "length"
    assert read_choice(chat(finish=None), MODEL, 9).finish == "unknown"
    assert read_choice(chat(finish="stop"), MODEL, 8).finish == "stop"
    assert read_choice(chat(finish=None, usage=None), MODEL, 8).finish == "unknown"


@pytest.mark.parametrize(
    ("finish", "reasons"),
    [
        ("stop", "STOP Stop FinishReason.STOP FINISH_REASON_STOP stop-sequence endTurn <|eot|> COMPLETE eosFound"),
        ("stop", "stopStringFound end_of_text endoftext stopped_eos eos_token stop_token finished done"),
        ("length", "MAX_TOKENS maxTokens Length max_output_tokens max_new_tokens length_capped"),
        ("length", "contextLengthReached model_length token_limit time_limit not_finished limit stopped_limit"),
        ("length", "incomplete ERROR_LIMIT model_context_window_exceeded maxPredictedTokensReached truncated"),
        ("content_filter", "SAFETY IMAGE_SAFETY content-filter policy_violation input_guardrail_triggered ERROR_TOXIC"),
        ("content_filter", "output_guardrail_triggered hate MODEL_ARMOR toxicity refusal sensitive blocked"),
    ],
)  # fmt: skip
def test_reasons_are_read_whatever_their_spelling(finish: str, reasons: str) -> None:
    for reason in reasons.split():
        for spelling in (reason, reason.upper(), reason.lower()):
            assert finish_of(spelling, REPLY, blocked=False, full=False) == finish
            assert finish_of(spelling, REPLY, blocked=False, full=True) == finish


@pytest.mark.parametrize(
    "reason",
    ["abort", "ABORTED", "error", "network_error", "insufficient_system_resource", "user_stopped", "USER_CANCEL",
     "TIMEOUT", "preempted", "modelUnloaded", "failed", "interrupted"],
)  # fmt: skip
def test_a_reply_that_the_server_gave_up_is_asked_again(reason: str) -> None:
    with pytest.raises(ModelFault, match="gave the reply up"):
        read_choice(chat(finish=reason), MODEL, 100)


@pytest.mark.parametrize(
    "reason",
    ["tool_calls", "TOOL_CALLS", "function_call", "tool_use", "pause_turn", "UNEXPECTED_TOOL_CALL", "compaction",
     "malformed_tool_use", "malformed_model_output"],
)  # fmt: skip
def test_a_reply_that_goes_on_elsewhere_is_no_whole_text(reason: str) -> None:
    with pytest.raises(CallRejected, match="no text that can be used"):
        read_choice(chat(finish=reason), MODEL, 100)


def test_a_reply_that_calls_a_tool_is_no_whole_text_whatever_it_says_of_its_end() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    with pytest.raises(CallRejected, match="no text that can be used"):
        read_choice(chat("Let me look.", message={"tool_calls": [call]}), MODEL, 100)
    assert read_choice(chat(message={"tool_calls": [], "function_call": None, "audio": None}), MODEL, 100).text == REPLY


# Blocked prompts

FILTERED = {"hate": {"filtered": False}, "violence": {"filtered": True, "severity": "high"}}
BLOCKED = {
    "no message": chat(choice={"message": None}),
    "no message, and no reason": chat(choice={"message": None}, finish=None),
    "no choice": chat(choices=[None]),
    "no choices": chat(choices=[]),
    "null for choices": chat(choices=None),
    "a reason with more to it": chat(None, "content_filter: PROHIBITED_CONTENT"),
    "a reason with a dash": chat("", "content-filter"),
    "Gemini's own reason": chat("", "SAFETY"),
    "another of Gemini's": chat(None, "FinishReason.PROHIBITED_CONTENT"),
    "Gemini's feedback": {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 8}},
    "feedback beside choices": chat(choices=[], promptFeedback={"blockReason": "SAFETY"}),
    "Azure's results": chat(None, choice={"content_filter_results": FILTERED}),
    "Azure's results of the prompt": chat(None, prompt_filter_results=[{"content_filter_results": FILTERED}]),
    "Zhipu's reason": chat("", "sensitive"),
    "Bedrock's reason": chat("", "guardrail_intervened"),
    "a text": continuation("", "content_filter"),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_blocked_prompt_is_an_answer_that_the_filter_ended(name: str) -> None:
    done = read_choice(BLOCKED[name], MODEL, 100)
    assert (done.text, done.finish) == ("", "content_filter")


@pytest.mark.parametrize(
    "content",
    [[{"type": "refusal", "refusal": "I can't."}], [{"type": "text", "text": "No."}, {"refusal": "I can't."}]],
)
def test_a_refusal_among_the_parts_is_one(content: Any) -> None:
    done = read_choice(chat(content), MODEL, 100)
    assert (done.text, done.finish) == ("I can't.", "content_filter")


@pytest.mark.parametrize("stop", ["refusal", "content_filter", "SAFETY", "guardrail_intervened", "content_filtered"])
@pytest.mark.parametrize("content", [None, [], [{"type": "text", "text": ""}]])
def test_a_blocked_message_is_an_answer_that_the_filter_ended(stop: str, content: Any) -> None:
    assert read_message(message(stop=stop, content=content), MODEL, 100).finish == "content_filter"


def test_a_thought_that_used_up_all_tokens_is_not_taken_for_a_filter() -> None:
    assert read_choice(chat(None, "length", choice={"message": None}), MODEL, 100).finish == "length"


# Texts


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["Put ", "it away."], "Put it away."),
        ([{"text": "Put "}, {"type": "output_text", "text": "it away."}], "Put it away."),
        ({"type": "text", "text": "Put it away."}, "Put it away."),
        ([{"type": "image_url", "image_url": "x"}, {"type": "text", "text": "See."}], "See."),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Yes."}],
            "Yes.",
        ),
        ([{"thought": True, "text": "Hm."}, {"text": "Yes."}], "Yes."),
        ([{"type": "reasoning_text", "text": "Hm."}, {"type": "output_text", "text": "Yes."}], "Yes."),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Yes."}], "Yes."),
    ],
)
def test_a_text_in_parts_is_put_together(content: Any, text: str) -> None:
    assert read_choice(chat(content), MODEL, 100).text == text
    assert read_message(message(content=content), MODEL, 100).text == text


@pytest.mark.parametrize(
    "thought",
    [
        {"reasoning_content": "Hm."}, {"reasoning": "Hm."}, {"thinking": "Hm."}, 
        {"reasoning_content": [{"text": "Hm."}]},
        {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": REPLY}]},
        {"content": [{"text": "Hm.", "thought": True}, {"text": REPLY}]},
    ],
)  # fmt: skip
def test_thoughts_are_kept_under_any_key_of_a_message(thought: dict[str, Any]) -> None:
    done = read_choice(chat(message=thought), MODEL, 100)
    assert (done.text, done.reasoning) == (REPLY, "Hm.")


def test_the_only_part_of_a_stream_is_a_message() -> None:
    done = read_choice(chat(choice={"message": None, "delta": {"content": REPLY}}), MODEL, 100)
    assert (done.text, done.finish) == (REPLY, "stop")


@pytest.mark.parametrize("text", [None, "", [], 3, "Another text."])
def test_a_text_beside_a_message_is_not_the_reply(text: Any) -> None:
    assert read_choice(chat(choice={"text": text}), MODEL, 100).text == REPLY
    assert read_choice(continuation(choice={"message": None}), MODEL, 100).text == REPLY


@pytest.mark.parametrize("content", [3, True, [3], [None, 3], [{"type": "text"}], [{"type": "text", "text": None}]])
def test_a_text_that_cannot_be_read_drops_the_row(content: Any) -> None:
    for read, body in ((read_choice, chat(content)), (read_message, message(content=content))):
        with pytest.raises(CallRejected, match="the server answered 200 with") as caught:
            read(body, MODEL, 100)
        assert caught.value.reason == "model_error" and caught.value.billed


# Log probabilities


def letters(logprobs: Any, text: str = "A") -> Any:
    return read_letters(read_choice(chat(text, choice={"logprobs": logprobs}), MODEL, 1))


NUMBERS = [None, "-0.2", [], {}, True, math.nan, math.inf, -math.inf, 10**400]


@pytest.mark.parametrize("value", NUMBERS)
def test_a_letter_without_a_number_makes_the_vote_invalid(value: Any) -> None:
    for tokens in ([("A", value), ("B", -0.3), ("C", -5.0)], [("B", -0.3), (" A", value), ("A", -2.0), ("C", -5.0)]):
        reading = letters(listed(*tokens))
        assert reading.problem == "a log probability is not finite" and reading.choice is None


@pytest.mark.parametrize("value", [*NUMBERS, 0.7])
def test_another_token_without_a_number_is_left_out(value: Any) -> None:
    plain = letters(listed(("A", -0.2), ("B", -2.5), ("C", -6.0)))
    assert letters(listed(("A", -0.2), ("B", -2.5), ("C", -6.0), ("D", value))) == plain
    assert letters(listed(("A", -0.2), ("D", value), ("C", -6.0))) == letters(listed(("A", -0.2), ("C", -6.0)))


@pytest.mark.parametrize("token", [None, 3, ["A"], {"text": "A"}])
def test_a_token_without_a_text_is_left_out(token: Any) -> None:
    plain = letters(listed(("A", -0.2), ("B", -2.5), ("C", -6.0)))
    assert letters(listed(("A", -0.2), ("B", -2.5), (token, -1.0), ("C", -6.0))) == plain


def chance(*shares: float) -> float:
    return math.log(sum(shares))


@pytest.mark.parametrize(
    ("tokens", "sampled", "a", "b"),
    [
        ([("B", 0.5), ("A", 0.3), ("A", 0.1), ("C", 0.01)], 0, (0.3, 0.1), (0.5,)),  # two tokens of one text
        ([("A", 0.1), ("B", 0.5), ("A", 0.3), ("C", 0.01)], 1, (0.1, 0.3), (0.5,)),  # in any order
        ([("B", 0.5), ("B", 0.5), ("A", 0.4), ("C", 0.01)], 0, (0.4,), (0.5,)),  # the drawn one, and the list
        ([("A", 0.4), ("B", 0.5), ("C", 0.01), ("A", 0.4)], 0, (0.4,), (0.5,)),  # the list, and the drawn one
        ([("A", 0.4), ("A", 0.4), ("A", 0.05), ("B", 0.1)], 0, (0.4, 0.05), (0.1,)),  # both at once
        ([("A", 0.2), ("A", 0.2), ("B", 0.5), ("C", 0.01)], 2, (0.2, 0.2), (0.5,)),  # equal, and not drawn
        ([(" A", 0.2), ("A", 0.3), (" A", 0.05), ("B", 0.4)], 1, (0.2, 0.3, 0.05), (0.4,)),  # forms of a letter
    ],
)
def test_tokens_of_equal_text_are_added_up_and_the_drawn_one_counts_once(
    tokens: list[tuple[str, float]], sampled: int, a: tuple[float, ...], b: tuple[float, ...]
) -> None:
    entries = [(token, math.log(share)) for token, share in tokens]
    drawn = {"token": entries[sampled][0], "logprob": entries[sampled][1], "bytes": None}
    reading = letters(listed(*entries, sampled=drawn))
    assert (reading.first, reading.second) == (pytest.approx(chance(*a)), pytest.approx(chance(*b)))
    assert reading.mass == pytest.approx(sum((*a, *b)))


def test_tokens_with_different_ids_are_different_ones() -> None:
    entries = [
        {"token": "A", "id": 32, "logprob": math.log(0.3)},
        {"token": "A", "id": 319, "logprob": math.log(0.3)},
        {"token": "B", "id": 33, "logprob": math.log(0.3)},
    ]
    assert letters({"content": [{**entries[0], "top_logprobs": entries}]}).first == pytest.approx(chance(0.3, 0.3))
    entries[1]["id"] = 32
    assert letters({"content": [{**entries[0], "top_logprobs": entries}]}).first == pytest.approx(chance(0.3))


@pytest.mark.parametrize("drawn", [{"bytes": [65]}, {"bytes": None, "id": 32}, {}])
def test_the_drawn_token_counts_once_whatever_else_is_said_of_it(drawn: dict[str, Any]) -> None:
    entries = [("A", math.log(0.3)), ("A", math.log(0.3)), ("B", math.log(0.3)), ("C", math.log(0.05))]
    reading = letters(listed(*entries, sampled={"token": "A", "logprob": math.log(0.3), **drawn}))
    assert reading.first == pytest.approx(math.log(0.3))


def test_a_drawn_token_that_a_list_lacks_counts_unless_it_is_below_the_list() -> None:
    for value in (-0.2, -1.0, -4.9):
        drawn = {"token": "A", "logprob": value}
        reading = letters(listed(("B", -1.5), (" B", -3.0), ("C", -5.0), sampled=drawn))
        assert reading.first == value and not reading.bounded
    below = letters(listed(("B", -0.5), ("C", -5.0), sampled={"token": "A", "logprob": -7.0}))
    assert (below.first, below.bounded) == (-5.0, True)
    rounded = letters(listed(("A", -0.2), ("B", -2.5), ("C", -5.0), sampled={"token": "A", "logprob": -0.20001}))
    assert rounded.first == -0.2


def test_tokens_that_are_too_unlikely_for_a_list_stay_so_when_added_up() -> None:
    reading = letters(listed(("A", -0.1), ("B", -9999.0), ("B", -9999.0), ("C", -3.0)))
    assert reading.bounded and reading.second == -3.0


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": ["A"], "token_logprobs": [-0.2], "top_logprobs": [{"A": -0.2, "B": -2.5, "C": -9.0}]},
        {"content": [{"token": "A", "logprob": -0.2, "top_logprobs": {"A": -0.2, "B": -2.5, "C": -9.0}}]},
        listed(("A", -0.2), ("B", -2.5), ("C", -9.0)),
        {"top_logprobs": [{"A": -0.2, "B": -2.5, "C": -9.0}]},
        {"tokens": ["A"], "token_logprobs": [-0.2], "top_logprobs": {"A": -0.2, "B": -2.5, "C": -9.0}},
    ],
)
def test_either_protocols_shape_of_log_probabilities_is_read(shape: Any) -> None:
    for body in (chat("A", choice={"logprobs": shape}), continuation("A", choice={"logprobs": shape})):
        reading = read_letters(read_choice(body, MODEL, 1))
        assert (reading.first, reading.second, reading.problem) == (-0.2, -2.5, None)


def test_scores_are_read_only_if_there_is_one_for_each_letter() -> None:
    for scores in ((), (-0.1,), (-0.1, -2.0, -3.0), (math.nan, -1.0), (-1.0, math.inf)):
        assert read_letters(Completion("", "stop", "m", scores=scores)).problem is not None
    assert LISTED == 20 and log_sum([-1.0, -1.0]) == pytest.approx(-1 + math.log(2))


# Many odd things at once

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(BODIES)), st.data())
def test_no_answer_of_any_shape_crashes_a_run(name: str, data: st.DataObject) -> None:
    read, body = BODIES[name]
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(sorted(places(body), key=str)))
        body = changed(body, path, data.draw(JSON_VALUES))
        if not list(places(body)):
            break
    done = outcome(read, body)
    if isinstance(done, Completion):
        assert is_whole(done)
        assert read_letters(done).problem is not None or done.logprobs
        read_vote(done, named=False)
    else:
        assert isinstance(done, CallRejected | ModelFault) and str(done).isprintable()


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,0129eE+-.NaInfity ul\\', max_size=60).map(str.encode))
def test_bytes_that_are_no_json_are_told_from_those_that_are(raw: bytes) -> None:
    try:
        value = loads(raw)
    except (ValueError, RecursionError):
        return
    assert loads(json.dumps(value).encode()) == value or "nan" in repr(value)
