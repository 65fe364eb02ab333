from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from stub import http, scripted, stub

from cai.calls.model import Call, Connection
from cai.errors import AuthenticationFailed, CallRejected, ModelBusy, ModelFault, UsageError
from cai.models.remote.anthropic import AnthropicModel, generation
from cai.records import Completion, Message, Request, Sampling

TALK: tuple[Message, ...] = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "user", "content": "How do bees fly?"},
    {"role": "assistant", "content": "With wings."},
    {"role": "user", "content": "And how fast?"},
)
KEY = "sk-ant-api03-Zq8vW2mT4xR7"
OLD, NEW = "claude-haiku-4-5", "claude-opus-4-8"


def model(name: str = OLD, url: str = "http://127.0.0.1:1") -> AnthropicModel:
    return AnthropicModel(name, Connection(base_url=url, timeout=60))


def call(request: Request | None = None, **sampling: Any) -> Call:
    return Call(request or Request("assistant", TALK), "row-1", 0, 7, Sampling(**sampling))


async def ask(asked: AnthropicModel) -> Completion:
    await asked.start()
    try:
        return await asked.send(asked.payload(call()))
    finally:
        await asked.close()


def answered(body: dict[str, Any], status: int = 200) -> Completion:
    """What becomes of a server's answer."""

    async def play() -> Completion:
        async with scripted(http(status, body)) as server:
            return await ask(model(url=server.url))

    return asyncio.run(play())


def message(*blocks: dict[str, Any], stop: str | None = "end_turn", **rest: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(blocks), "stop_reason": stop, **rest}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_the_payload_of_a_chain_is_complete_and_asks_for_caching() -> None:
    assert model().payload(call(Request("critic", TALK, stop=("END",)), max_tokens=64, temperature=0.5)) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 64,
        "messages": [
            {"role": "user", "content": "Hello.\n\nHow do bees fly?"},
            {"role": "assistant", "content": "With wings."},
            {"role": "user", "content": "And how fast?"},
        ],
        "system": "Be brief.",
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "cache_control": {"type": "ephemeral"},
    }


def test_the_payload_of_a_judge_starts_the_reply_and_caches_nothing() -> None:
    request = Request("judge", TALK[1:2], prefill="The better reply is ", max_tokens=1, temperature=0.0)
    assert model().payload(call(request)) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "The better reply is"}],
        "temperature": 0.0,
    }


def test_each_turn_of_a_chain_starts_with_the_same_bytes_as_the_one_before() -> None:
    first = model().payload(call(Request("assistant", TALK[:3])))
    second = model().payload(call(Request("critic", TALK)))
    assert second["system"] == first["system"]
    assert second["messages"][: len(first["messages"])] == first["messages"]


def test_the_messages_of_a_request_are_left_as_they_are() -> None:
    before = json.dumps(TALK)
    model().payload(call(Request("judge", TALK[1:3], prefill="A")))
    assert json.dumps(TALK) == before


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("claude-3-5-sonnet-20241022", (3, 5)),
        ("claude-3-opus-latest", (3, 0)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-haiku-4-5-20251001", (4, 5)),
        ("anthropic.claude-opus-4-6-v1", (4, 6)),
        ("claude-sonnet-5", (5, 0)),
        ("anthropic/claude-opus-4.7", (4, 7)),
        ("claude-opus-4-10", (4, 10)),
        ("claude-fable-5-2", (5, 2)),
        ("claude-mythos-preview", None),
        ("my-gateway-name", None),
    ],
)
def test_a_models_generation_is_read_from_its_name(name: str, version: tuple[int, int] | None) -> None:
    assert generation(name) == version


def test_newer_models_get_neither_temperature_nor_a_started_reply() -> None:
    assert "temperature" not in model(NEW).payload(call())
    assert model(OLD).can.prefill and not model("claude-sonnet-4-6").can.prefill
    with pytest.raises(UsageError, match="anthropic:claude-opus-4-8 does not continue a started reply"):
        model(NEW).payload(call(Request("judge", TALK, prefill="A")))


def test_what_the_protocol_lacks_is_a_usage_error() -> None:
    for request in (Request("critic", text="Once"), replace(Request("judge", TALK), top_logprobs=5)):
        with pytest.raises(UsageError, match="anthropic:claude-haiku-4-5 only chats"):
            model().payload(call(request))
    with pytest.raises(UsageError, match=r"temperature 1.5 is outside what anthropic:claude-haiku-4-5 takes: 0 to 1"):
        model().payload(call(temperature=1.5))


def test_extra_body_is_merged_last_and_null_takes_a_key_out() -> None:
    body = model().payload(call(extra_body={"top_k": 5, "cache_control": None}))
    assert body["top_k"] == 5 and "cache_control" not in body


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}])
def test_what_cannot_be_sent_beside_thinking_is_left_out_or_refused(thinking: dict[str, Any]) -> None:
    extra = {"thinking": thinking}
    body = model().payload(call(temperature=1, max_tokens=2048, extra_body=extra))
    assert body["thinking"] == thinking and "temperature" not in body
    verdict = Request("judge", TALK, temperature=0.0)  # no temperature of the user
    assert "temperature" not in model().payload(call(verdict, max_tokens=2048, extra_body=extra))
    with pytest.raises(UsageError, match="thinks at the temperature 1 alone: name --temperature 1"):
        model().payload(call(temperature=0.7, max_tokens=2048, extra_body=extra))
    begun = model().payload(call(replace(verdict, prefill="Answer:", max_tokens=8), extra_body=extra))
    assert "thinking" not in begun and begun["temperature"] == 0 and begun["messages"][-1]["content"] == "Answer:"
    off = model().payload(call(temperature=0.7, extra_body={"thinking": {"type": "disabled"}}))
    assert off["thinking"] == {"type": "disabled"} and off["temperature"] == 0.7


def test_a_question_without_room_for_thinking_is_asked_without_it() -> None:
    budget = {"type": "enabled", "budget_tokens": 1024}
    short = Request("judge", TALK, temperature=0.0, max_tokens=256)
    assert "thinking" not in model().payload(call(short, max_tokens=4096, extra_body={"thinking": budget}))
    newer = model(NEW).payload(call(max_tokens=2048, extra_body={"thinking": budget}))
    assert newer["thinking"] == budget and "temperature" not in newer
    for odd in ({"thinking": budget | {"budget_tokens": "many"}}, {"thinking": budget, "max_tokens": None}):
        body = model().payload(call(short, temperature=1, extra_body=odd))
        assert ("thinking" in body) == (budget != odd["thinking"])  # what is no number is for the server to refuse


def test_the_base_url_is_the_users_then_the_environments_then_anthropics(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AnthropicModel("m", Connection()).endpoint == "https://api.anthropic.com"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:8000/")
    assert AnthropicModel("m", Connection()).endpoint == "http://127.0.0.1:8000"
    assert AnthropicModel("m", Connection(base_url="http://127.0.0.1:9/v1/")).endpoint == "http://127.0.0.1:9"


def test_a_base_url_that_cannot_be_used_is_named_by_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the base URL in --base-url needs http"):
        AnthropicModel("m", Connection(base_url="localhost:8000/v1"))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "localhost:8000/v1")
    with pytest.raises(UsageError, match="the base URL in ANTHROPIC_BASE_URL needs http"):
        AnthropicModel("m", Connection())


def test_anthropics_own_server_needs_a_key_before_the_first_call() -> None:
    with pytest.raises(AuthenticationFailed, match=r"api.anthropic.com needs a key: .* ANTHROPIC_API_KEY$"):
        asyncio.run(AnthropicModel(OLD, Connection()).start())


def test_a_chat_is_answered_and_the_key_travels_in_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    async def play() -> tuple[str, bytes]:
        async with scripted(http(200, message(text("Fast.")))) as server:
            assert (await ask(model(url=server.url))).text == "Fast."
            return server.requests[0]

    head, body = asyncio.run(play())
    assert head.startswith("POST /v1/messages HTTP/1.1\r\n")
    assert f"x-api-key: {KEY}\r\n" in head and "anthropic-version: 2023-06-01\r\n" in head
    assert json.loads(body) == model().payload(call())


def test_usage_counts_what_was_read_from_and_written_to_the_cache() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 25, "output_tokens": 3}
    body = message(text("Fast."), model="claude-haiku-4-5-20251001", usage=usage)
    done = answered(body)
    assert (done.input_tokens, done.output_tokens, done.cached_tokens, done.cache_write_tokens) == (100, 3, 70, 25)


def test_thoughts_are_kept_apart_from_the_reply() -> None:
    body = message(
        {"type": "thinking", "thinking": "Bees…", "signature": "x"},
        {"type": "redacted_thinking", "data": "…"},
        text("About "),
        text("25 km/h."),
    )
    assert answered(body) == Completion("About 25 km/h.", "stop", OLD, reasoning="Bees…")


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_every_end_of_a_text_has_a_meaning(stop: str, finish: str) -> None:
    assert answered(message(stop=stop)) == Completion("", finish, OLD)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["tool_use", "pause_turn", "unheard_of", None])
def test_an_end_that_is_no_text_rejects_the_call(stop: str | None) -> None:
    with pytest.raises(CallRejected, match=f"^the server ended the reply with {stop!r}") as caught:
        answered(message(stop=stop))
    assert caught.value.reason == "model_error"


@pytest.mark.parametrize("body", [{}, {"type": "message", "role": "assistant"}, {"completion": "Bees …"}])
def test_json_of_another_protocol_is_a_passing_fault(body: dict[str, Any]) -> None:
    with pytest.raises(ModelFault, match=r"200 with JSON that holds no reply, but .*: does this base URL speak"):
        answered(body)


def test_an_overloaded_server_is_busy() -> None:
    with pytest.raises(ModelBusy, match="answered 529: Overloaded"):
        answered({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)


@pytest.mark.parametrize(("mode", "finish"), [("ok", "stop"), ("filtered", "content_filter"), ("length", "length")])
def test_the_stub_server_speaks_the_protocol(mode: str, finish: str) -> None:
    with stub("--mode", mode, "--words", "9") as server:
        reply = asyncio.run(ask(model(url=server.url)))
    assert reply.finish == finish and len(reply.text.split()) == (0 if mode == "filtered" else 9)
