from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stub import Stub, http, scripted, stub

from cai.calls.model import Call, Connection
from cai.errors import (
    AuthenticationFailed,
    CallRejected,
    ModelBusy,
    ModelError,
    ModelFault,
    UnknownModel,
    UsageError,
)
from cai.models import open_model
from cai.models.remote.openai import OpenAIModel
from cai.records import Completion, Request, Sampling
from cai.texts.thoughts import split_thoughts

QUESTION = Request("assistant", ({"role": "user", "content": "How do bees fly?"},))
KEY = "sk-proj-Zq8vW2mT4xR7"


def model(url: str = "http://127.0.0.1:1/v1", name: str = "tiny") -> OpenAIModel:
    return OpenAIModel(name, Connection(base_url=url, timeout=60))


def call(request: Request = QUESTION, **sampling: Any) -> Call:
    return Call(request, "row-1", 0, 7, Sampling(**sampling))


async def ask(asked: OpenAIModel, *calls: Call) -> list[Completion | ModelError]:
    """The outcome of each call, all asked at once."""

    async def one(call: Call) -> Completion | ModelError:
        try:
            return await asked.send(asked.payload(call))
        except ModelError as error:
            return error

    await asked.start()
    try:
        return await asyncio.gather(*map(one, calls))
    finally:
        await asked.close()


def answered(body: bytes | dict[str, Any], request: Request = QUESTION, status: int = 200) -> Completion:
    """What becomes of a server's answer."""

    async def play() -> Completion:
        async with scripted(http(status, body)) as server:
            [outcome] = await ask(model(server.url), call(request))
        if isinstance(outcome, ModelError):
            raise outcome
        return outcome

    return asyncio.run(play())


def chat(finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with stub("--words", "12") as running:
        yield running


def test_the_payload_of_a_chat_is_complete() -> None:
    assert model().payload(call(max_tokens=64, temperature=0.5)) == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How do bees fly?"}],
        "max_tokens": 64,
        "temperature": 0.5,
        "seed": 7,
    }


def test_the_payload_of_a_judge_starts_the_reply_and_asks_for_logprobs() -> None:
    request = replace(QUESTION, prefill="Reply", top_logprobs=20, max_tokens=1, temperature=0.0, stop=("\n",))
    assert model().payload(call(request)) == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "How do bees fly?"}, {"role": "assistant", "content": "Reply"}],
        "max_tokens": 1,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "logprobs": True,
        "top_logprobs": 20,
        "temperature": 0.0,
        "stop": ["\n"],
        "seed": 7,
    }


def test_the_payload_of_a_base_model_is_its_text() -> None:
    request = Request("critic", text="Human: hi\n\nAssistant:", stop=("\n\nHuman:",), prefill=" I", top_logprobs=5)
    assert model().payload(call(request)) == {
        "model": "tiny",
        "prompt": "Human: hi\n\nAssistant: I",
        "max_tokens": 512,
        "logprobs": 5,
        "temperature": 1.0,
        "stop": ["\n\nHuman:"],
        "seed": 7,
    }


def test_openais_own_server_gets_its_own_name_for_the_limit() -> None:
    body = model("https://api.openai.com/v1", "gpt-4.1-mini").payload(call(max_tokens=64))
    assert body["max_completion_tokens"] == 64 and "max_tokens" not in body
    assert body["temperature"] == 1.0


@pytest.mark.parametrize("name", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5.2-mini"])
def test_openais_reasoning_models_get_no_setting_that_they_refuse(name: str) -> None:
    asked = model("https://api.openai.com/v1", name)
    body = asked.payload(call(replace(QUESTION, temperature=0.0)))
    assert sorted(body) == ["max_completion_tokens", "messages", "model", "seed"]
    assert asked.can.logprobs == 0


OPENAIS = [
    "https://api.openai.com/v1", "https://eu.api.openai.com/v1", "https://us.api.openai.com:443/v1",
    "https://API.OpenAI.com./v1", "https://mine.openai.azure.com/openai/v1", "https://a-b.cognitiveservices.azure.com/x",
    "https://hub.services.ai.azure.com/openai/v1", "https://mine.openai.azure.com/openai/deployments/d?api-version=1",
]  # fmt: skip
OTHERS = [
    "http://127.0.0.1:8000/v1", "https://api.openai.com.evil.org/v1", "https://fakeapi.openai.com/v1",
    "https://openai.azure.com.evil.org/v1", "https://myopenai.azure.com/v1", "https://evil.org/api.openai.com/v1",
    "https://openrouter.ai/api/v1", "https://api.openai.community/v1",
]  # fmt: skip


@pytest.mark.parametrize("url", OPENAIS)
def test_every_host_of_openai_and_azure_gets_openais_fields(url: str) -> None:
    asked = model(url, "gpt-4.1-mini")
    assert "max_completion_tokens" in asked.payload(call()) and not asked.can.prefill
    assert sorted(model(url, "o4-mini").payload(call())) == ["max_completion_tokens", "messages", "model", "seed"]
    with pytest.raises(AuthenticationFailed, match="OPENAI_API_KEY"):
        asyncio.run(asked.start())


@pytest.mark.parametrize("url", OTHERS)
def test_a_host_that_only_looks_like_openais_does_not(url: str) -> None:
    asked = model(url, "o4-mini")
    assert asked.payload(call())["max_tokens"] == 512 and asked.can.logprobs == 20


@pytest.mark.parametrize(("header", "is_key"), [("api-key", True), ("X-Team", False)])
def test_a_key_in_a_header_is_a_key(header: str, is_key: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    refused = []

    async def start() -> None:
        asked = OpenAIModel("d", Connection(base_url=OPENAIS[-1], headers={header: "hush-hush-1"}))
        try:
            await asked.start()
        except AuthenticationFailed as error:
            refused.append(error)
        finally:
            await asked.close()

    asyncio.run(start())
    assert bool(refused) == (not is_key)


@pytest.mark.parametrize(
    ("name", "at_openai", "expected"),
    [
        ("ft:o4-mini-2025-04-16:org::abc", True, True),
        ("ft:gpt-5-nano:org:chat-helper:abc", True, True),
        ("ft:gpt-4.1-mini:o3-labs::abc", True, False),
        ("O3-Mini", True, True),
        ("gpt-5.2-pro", True, True),
        ("gpt-12", True, True),
        ("gpt-5.1-chat-latest", True, False),
        ("gpt-oss-120b", True, False),
        ("omni-moderation-latest", True, False),
        ("o3", False, False),
        ("gpt-5", False, False),
        ("openai/o3", False, True),
        ("openai/o4-mini-high:online", False, True),
        ("azure/gpt-5-mini", False, True),
        ("openai/gpt-oss-20b", False, False),
        ("openai/gpt-4o", False, False),
        ("openai/gpt-5-chat", False, False),
        ("marco/o1", False, False),
    ],
)
def test_reasoning_models_of_openai_are_known_by_name(name: str, at_openai: bool, expected: bool) -> None:
    asked = model(OPENAIS[0] if at_openai else "http://127.0.0.1:1/v1", name)
    assert (asked.can.logprobs == 0) == expected
    assert ("temperature" not in asked.payload(call())) == expected
    assert ("max_completion_tokens" in asked.payload(call())) == at_openai


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4.1", "gpt-5-chat-latest", "omni-moderation"])
def test_other_models_of_openai_keep_their_settings(name: str) -> None:
    asked = model("https://api.openai.com/v1", name)
    assert "temperature" in asked.payload(call()) and asked.can.logprobs == 20


def test_extra_body_is_merged_last_and_null_takes_a_key_out() -> None:
    body = model().payload(call(extra_body={"temperature": 0.1, "top_p": 0.9, "seed": None}))
    assert body["temperature"] == 0.1 and body["top_p"] == 0.9 and "seed" not in body


def test_what_the_protocol_lacks_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="openai:tiny cannot score given text"):
        model().payload(call(replace(QUESTION, score=("A",))))
    with pytest.raises(UsageError, match="openai:tiny lists 20 logprobs, not 21"):
        model().payload(call(replace(QUESTION, top_logprobs=21)))
    with pytest.raises(UsageError, match=r"openai:gpt-4o does not continue a started reply: api.openai.com"):
        model("https://api.openai.com/v1", "gpt-4o").payload(call(replace(QUESTION, prefill="A")))


def test_the_base_url_is_the_users_then_the_environments_then_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAIModel("m", Connection()).endpoint == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1/")
    assert OpenAIModel("m", Connection()).endpoint == "http://127.0.0.1:8000/v1"
    assert OpenAIModel("m", Connection(base_url="http://127.0.0.1:9/x")).endpoint == "http://127.0.0.1:9/x"
    assert open_model("openai:org/name").name == "org/name"


def test_a_base_url_that_cannot_be_used_is_named_by_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the base URL in --base-url needs http"):
        OpenAIModel("m", Connection(base_url="localhost:8000/v1"))
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000/v1")
    with pytest.raises(UsageError, match="the base URL in OPENAI_BASE_URL needs http"):
        OpenAIModel("m", Connection())


def test_openais_own_server_needs_a_key_before_the_first_call() -> None:
    with pytest.raises(AuthenticationFailed, match=r"api.openai.com/v1 needs a key: .* OPENAI_API_KEY$"):
        asyncio.run(OpenAIModel("gpt-4o", Connection()).start())


@pytest.mark.parametrize(
    ("spec", "variable"),
    [
        ("openai:gpt-4o@https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("groq:llama-3.3-70b-versatile@https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    ],
)
def test_a_key_of_the_provider_that_an_address_of_its_own_is_not_sent_is_named(
    spec: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(AuthenticationFailed, match=r"CAI_KEY_API_\w+_COM_443$"):
        asyncio.run(open_model(spec).start())
    monkeypatch.setenv(variable, "sk-of-no-worth")
    with pytest.raises(AuthenticationFailed, match=rf"CAI_KEY_API_\w+_COM_443 \({variable} is not sent to an @URL\)$"):
        asyncio.run(open_model(spec).start())


def test_a_chat_is_answered(server: Stub) -> None:
    [reply] = asyncio.run(ask(model(server.url + "/v1"), call()))
    assert isinstance(reply, Completion)
    assert len(reply.text.split()) == 12 and reply.finish == "stop" and reply.model == "tiny"
    assert reply.output_tokens == 12 and reply.input_tokens and reply.logprobs is None


def test_a_text_is_continued(server: Stub) -> None:
    [reply] = asyncio.run(ask(model(server.url + "/v1"), call(Request("critic", text="Once"), max_tokens=5)))
    assert isinstance(reply, Completion)
    assert len(reply.text.split()) == 5 and reply.finish == "length"


def test_logprobs_come_per_token_for_chats_and_texts(server: Stub) -> None:
    judge = replace(QUESTION, top_logprobs=2, max_tokens=1)
    replies = asyncio.run(
        ask(model(server.url + "/v1"), call(judge), call(Request("judge", text="A or B?", top_logprobs=2)))
    )
    for reply in replies:
        assert isinstance(reply, Completion) and reply.logprobs is not None
        [first] = reply.logprobs
        assert set(first) == {"A", "B"} and first[reply.text] == max(first.values())


def test_equal_payloads_get_equal_replies_and_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    with stub("--log", str(log), "--latency", "0.05") as server:
        asked = [call(replace(QUESTION, stop=(str(i % 4),))) for i in range(8)]
        replies = asyncio.run(ask(model(server.url + "/v1"), *asked))
        stats = server.stats()
    assert replies[:4] == replies[4:] and len({str(reply) for reply in replies}) == 4
    assert {name: stats[name] for name in ("requests", "unique", "duplicates", "max_in_flight")} == {
        "requests": 8, "unique": 4, "duplicates": 4, "max_in_flight": 8,
    }  # fmt: skip
    assert stats["statuses"] == {"200": 8}
    assert len(log.read_text().split()) == 8 and len(set(log.read_text().split())) == 4


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("500", ModelFault, "answered 500"),
        ("503", ModelFault, "answered 503"),
        ("cut", ModelFault, "the body broke off half-way"),
        ("html", ModelFault, "200 with HTML"),
        ("404", UnknownModel, "no model 'tiny'"),
        ("401", AuthenticationFailed, "check OPENAI_API_KEY"),
        ("400", CallRejected, "answered 400"),
    ],
)
def test_a_server_that_fails(mode: str, kind: type[ModelError], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with stub("--mode", mode, "--marker", "bees") as server:
        [outcome] = asyncio.run(ask(model(server.url + "/v1"), call()))
    assert type(outcome) is kind and says in str(outcome) and KEY not in str(outcome)


@pytest.mark.parametrize("window", ["fixed", "bucket"])
def test_a_rate_limit_lets_so_many_through(window: str) -> None:
    with stub("--mode", "429", "--rate", "3", "--window", window) as server:
        outcomes = asyncio.run(ask(model(server.url + "/v1"), *[call()] * 5))
    busy = [outcome for outcome in outcomes if isinstance(outcome, ModelBusy)]
    assert len(busy) == 2 and {error.retry_after for error in busy} == {1.0}


def test_a_reply_that_is_empty_filtered_or_cut_is_an_answer() -> None:
    for mode, finish in (("empty", "stop"), ("filtered", "content_filter"), ("length", "length")):
        with stub("--mode", mode) as server:
            [reply] = asyncio.run(ask(model(server.url + "/v1"), call()))
        assert isinstance(reply, Completion)
        assert reply.finish == finish and bool(reply.text) == (mode == "length")


def test_usage_and_the_servers_name_of_the_model_are_read() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    assert answered(chat(content="Hi.") | {"model": "tiny-2026", "usage": usage}) == Completion(
        "Hi.", "stop", "tiny-2026", input_tokens=9, output_tokens=2, cached_tokens=4
    )
    assert answered(chat(content="Hi.") | {"usage": None}) == Completion("Hi.", "stop", "tiny")


def test_thoughts_are_kept_apart_from_the_reply() -> None:
    for message in (
        {"content": "Hi.", "reasoning_content": "Be brief."},
        {"content": "Hi.", "reasoning": "Be brief."},
        {"content": "<think>\nBe brief.\n</think>\n\nHi."},
        {"content": "Be brief.\n</think>\n\nHi."},
    ):
        assert answered(chat(**message)) == Completion("Hi.", "stop", "tiny", reasoning="Be brief.")
    cut = answered(chat("length", content=None, reasoning_content="Let me"))
    assert (cut.text, cut.finish, cut.reasoning) == ("", "length", "Let me")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ("plain", None)),
        ("<think>cut while", ("", "cut while")),
        ("<think></think>Hi", ("Hi", "")),
        ("The tag <think>x</think> is HTML.", ("The tag <think>x</think> is HTML.", None)),
        ("<think>a</think>b</think>", ("b</think>", "a")),
    ],
)
def test_only_thoughts_at_the_start_are_split_off(text: str, parts: tuple[str, str | None]) -> None:
    assert split_thoughts(text) == parts


def test_a_base_models_text_keeps_its_tags() -> None:
    body = {"choices": [{"text": "<think>x</think> y", "finish_reason": "stop"}]}
    assert answered(body, Request("critic", text="Write:")).text == "<think>x</think> y"


def test_a_reply_in_parts_is_put_together() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi "}, {"type": "text", "text": "you."}]
    assert answered(chat(content=parts)).text == "Hi you."


def test_a_refusal_is_filtered_content() -> None:
    assert answered(chat(content=None, refusal="I can't.")) == Completion("I can't.", "content_filter", "tiny")


@pytest.mark.parametrize("finish", ["tool_calls", "function_call", "unheard_of", None])
def test_a_finish_that_is_no_text_rejects_the_call(finish: str | None) -> None:
    with pytest.raises(CallRejected, match=f"^the server ended the reply with {finish!r}") as caught:
        answered(chat(finish, content=None))
    assert caught.value.reason == "model_error"


def test_a_server_that_gives_up_on_a_reply_is_asked_again() -> None:
    with pytest.raises(ModelFault, match="gave the reply up: finish reason 'abort'"):
        answered(chat("abort", content="Bee"))


@pytest.mark.parametrize("body", [{}, {"object": "list", "data": []}, {"status": "ok"}])
def test_json_of_another_protocol_is_a_passing_fault(body: dict[str, Any]) -> None:
    with pytest.raises(ModelFault, match=r"200 with JSON that holds no reply, but .*: does this base URL speak"):
        answered(body)


def test_a_failure_inside_a_200_is_read_like_any_other() -> None:
    with pytest.raises(ModelBusy, match="upstream is busy"):
        answered({"error": {"code": 429, "message": "upstream is busy"}})
    with pytest.raises(ModelFault, match="upstream is gone"):
        answered({"error": {"code": "oops", "message": "upstream is gone"}, "choices": []})
    with pytest.raises(ModelFault, match="it broke"):
        answered({"error": "it broke"})


def test_logprobs_without_a_list_of_others_are_those_of_the_text() -> None:
    listed = {"content": [{"token": "A", "logprob": -0.5, "top_logprobs": []}]}
    body = chat(content="A")
    body["choices"][0]["logprobs"] = listed
    assert answered(body).logprobs == ({"A": -0.5},)
    body["choices"][0]["logprobs"] = {"content": None}
    assert answered(body).logprobs is None
    plain = {"tokens": ["A", "B"], "token_logprobs": [-0.5, -1.0], "top_logprobs": None}
    text = {"choices": [{"text": "AB", "finish_reason": "stop", "logprobs": plain}]}
    assert answered(text, Request("judge", text="?")).logprobs == ({"A": -0.5}, {"B": -1.0})


def test_the_key_travels_in_its_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> tuple[str, bytes]:
        async with scripted(http(200, chat(content="Hi."))) as server:
            await ask(model(server.url + "/v1"), call())
            return server.requests[0]

    head, _ = asyncio.run(play())
    assert "authorization" not in head.lower()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    head, body = asyncio.run(play())
    assert f"Authorization: Bearer {KEY}\r\n" in head and KEY.encode() not in body
    assert json.loads(body) == model().payload(call())


def test_a_cancelled_call_leaves_the_connection_usable() -> None:
    async def play() -> Completion:
        asked = model(server.url + "/v1")
        await asked.start()
        waiting = asyncio.create_task(asked.send(asked.payload(call(max_tokens=3))))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        reply = await asked.send(asked.payload(call(max_tokens=5)))
        await asked.close()
        return reply

    with stub("--latency", "0.2") as server:
        assert len(asyncio.run(play()).text.split()) == 5
