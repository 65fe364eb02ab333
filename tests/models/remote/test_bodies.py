"""An answer is read up to a limit, however it is sent; what a redirect names is shown, however it is written."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from habits import JSON, REPLY, Answer, Mode, answer, chat, message, serving

from cai.calls.model import Call, Connection
from cai.errors import AuthenticationFailed, CallRejected, ModelBusy, ModelError, ModelFault, ModelStopped
from cai.models.remote import bodies
from cai.models.remote.anthropic import AnthropicModel
from cai.models.remote.openai import OpenAIModel
from cai.records import Completion, Request, Sampling

MEGABYTE = 2**20
QUESTION = Call(Request("assistant", ({"role": "user", "content": "Hello."},)), "row", 0, 7, Sampling())


def outcomes(mode: Mode) -> list[Completion | ModelError]:
    """What becomes of a server's answer, in the protocols of OpenAI and Anthropic."""

    async def ask(kind: type[Any], url: str) -> Completion | ModelError:
        model = kind("claude-haiku-4-5", Connection(base_url=url, timeout=60))
        await model.start()
        try:
            done: Completion = await model.send(model.payload(QUESTION))
        except ModelError as error:
            return error
        finally:
            await model.close()
        return done

    with serving({"mode": mode}) as server:
        return [asyncio.run(ask(kind, server.url("mode"))) for kind in (OpenAIModel, AnthropicModel)]


def repeated(part: bytes, times: int | None = None) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.repeat(part) if times is None else itertools.repeat(part, times)


def packed(kind: str, megabytes: int) -> bytes:
    """So many megabytes of spaces, as the server sends them."""
    wbits = {"gzip": 31, "deflate": 15, "raw deflate": -15}[kind]
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return b"".join(packer.compress(b" " * MEGABYTE) for _ in range(megabytes)) + packer.flush()


def encoded(kind: str, body: bytes, status: int = 200) -> Answer:
    return Answer(body, status, {**JSON, "Content-Encoding": kind.removeprefix("raw ")})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST", MEGABYTE)


LONG = {
    "without an end": Answer(repeated(b" " * 65536)),
    "a megabyte and a byte": Answer(b" " * (MEGABYTE + 1)),
    "one long string": Answer(b'{"choices": "' + b"x" * 2 * MEGABYTE + b'"}'),
    "gzip": encoded("gzip", packed("gzip", 40)),
    "deflate": encoded("deflate", packed("deflate", 40)),
    "raw deflate": encoded("raw deflate", packed("raw deflate", 40)),
    "gzip of gzip's members": encoded("gzip", packed("gzip", 2) * 20),
}


@pytest.mark.parametrize("name", LONG)
def test_an_answer_over_the_limit_drops_the_row(name: str, small: None) -> None:
    for error in outcomes(Mode(LONG[name])):
        assert isinstance(error, CallRejected) and error.reason == "model_error" and error.billed
        assert str(error) == "the server's answer is over 1 MB, the most that is read of one"


def test_an_answer_up_to_the_limit_is_read(small: None) -> None:
    for body in (json.dumps(chat()).encode(), json.dumps(message()).encode()):
        padded = body.ljust(MEGABYTE)
        for sent in (Answer(padded), encoded("gzip", gzip.compress(padded)), encoded("deflate", zlib.compress(padded))):
            assert REPLY in [done.text for done in outcomes(Mode(sent)) if isinstance(done, Completion)]


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_without_an_end_is_read_up_to_the_limit(status: int, small: None) -> None:
    for sent in (Answer(repeated(b"no " * 20000), status), encoded("gzip", packed("gzip", 40), status)):
        for error in outcomes(Mode(sent)):
            assert isinstance(error, ModelError) and f"answered {status}" in str(error) and len(str(error)) < 500


def test_what_is_read_of_a_long_answer_is_all_that_it_costs() -> None:
    """The limit itself, with a body that compresses a thousandfold: 300 MB are sent as 300 kB."""
    assert bodies.MOST == 64 * MEGABYTE
    bomb = Mode(encoded("gzip", packed("gzip", 300)))
    tracemalloc.start()
    try:
        for error in outcomes(bomb):
            assert isinstance(error, CallRejected) and "over 64 MB" in str(error)
        assert tracemalloc.get_traced_memory()[1] < 3 * bodies.MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Long": "x" * 200_000},
        {f"X-{number}": "x" * 1000 for number in range(1000)},
        {"Content-Type": "application/json; charset=nothing-known"},
        {"Retry-After": "9" * 500},
        {"Set-Cookie": "a" * 3000},
    ],
)
def test_headers_of_any_size_are_read_or_a_passing_fault(headers: dict[str, str]) -> None:
    sent = Answer(json.dumps(chat() | message()).encode(), 200, {**JSON, **headers})
    for done in outcomes(Mode(sent)):
        assert isinstance(done, Completion | ModelFault)


@pytest.mark.parametrize("kind", ["gzip", "deflate", "br", "zstd", "rot13", "gzip, gzip"])
def test_an_encoding_that_cannot_be_undone_is_a_passing_fault(kind: str) -> None:
    for error in outcomes(Mode(encoded(kind, b"\xff\xfe not packed"))):
        assert type(error) is ModelFault and "\n" not in str(error)


# Redirects

ELSEWHERE = [
    "http://[::1",
    "http://host:99999999/v1",
    "//",
    "http://a..b/",
    "/v2",
    "",
    "x\xe9y",
    "javascript:alert(1)",
    "?",
]


@pytest.mark.parametrize("location", [*ELSEWHERE, "http://host/v1?token=hush", "http://[::1?token=hush", "\t ", "%zz"])
@pytest.mark.parametrize("status", [300, 301, 304, 308, 399])
def test_a_redirect_anywhere_ends_the_run_and_says_where_it_leads(location: str, status: int) -> None:
    for error in outcomes(Mode(Answer(b"", status, {"Location": location}))):
        assert type(error) is ModelStopped and "redirects to" in str(error)
        assert "hush" not in str(error) and str(error).isprintable()


def test_a_redirect_within_the_server_is_shown_as_a_whole_address() -> None:
    [error, _] = outcomes(Mode(answer({}, 307, Location="/v2/chat")))
    assert "/v2/chat: give that address as the base URL" in str(error) and "http://127.0.0.1" in str(error)


def test_an_answer_of_the_other_protocol_is_a_passing_fault_and_no_blocked_prompt() -> None:
    openai, anthropic = outcomes(Mode(answer(message())))
    assert isinstance(openai, ModelFault) and isinstance(anthropic, Completion)
    openai, anthropic = outcomes(Mode(answer(chat())))
    assert isinstance(anthropic, ModelFault) and isinstance(openai, Completion)


@pytest.mark.parametrize("status", [200, 201, 203, 206, 299])
def test_any_status_of_success_brings_an_answer(status: int) -> None:
    [done, _] = outcomes(Mode(answer(chat(), status)))
    assert isinstance(done, Completion) and done.text == REPLY


# What is not the JSON of a reply

STREAMS = {
    "events": b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n',
    "a comment first": b": PROCESSING\n\ndata: {}\n\n",
    "a name first": b'event: message_start\ndata: {"type": "message_start"}\n\n',
    "a whole reply as an event": b"data: " + json.dumps(chat()).encode() + b"\n\n",
    "an id first": b"id: 1\ndata: {}\n\n",
    "JSON in lines": b'{"message": {"content": "Hi"}, "done": false}\n{"message": {"content": ""}, "done": true}\n',
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_was_not_asked_for_ends_the_run_and_says_how_to_ask_for_whole_replies(name: str) -> None:
    for error in outcomes(Mode(Answer(STREAMS[name], headers={"Content-Type": "text/event-stream"}))):
        assert type(error) is ModelStopped and "--extra-body '{\"stream\": false}'" in str(error)


@pytest.mark.parametrize(
    "charset", ["iso-8859-1", "windows-1252", "utf-16", "utf-16-le", "UTF-8", "gb18030", "shift_jis"]
)
def test_a_body_is_read_in_the_charset_that_its_header_names(charset: str) -> None:
    text = "もう一つ" if charset in ("gb18030", "shift_jis") else "naïve, schön"
    raw = json.dumps(chat(text), ensure_ascii=False).encode(charset)
    [done, _] = outcomes(Mode(Answer(raw, headers={"Content-Type": f"application/json; charset={charset}"})))
    assert isinstance(done, Completion) and done.text == text


@pytest.mark.parametrize("charset", ["unheard-of", "zip", "ascii", ""])
def test_a_charset_that_does_not_fit_is_a_passing_fault(charset: str) -> None:
    raw = json.dumps(chat("schön"), ensure_ascii=False).encode("latin-1")
    for error in outcomes(Mode(Answer(raw, headers={"Content-Type": f"application/json; charset={charset}"}))):
        assert type(error) is ModelFault and "200 with no JSON" in str(error)


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        ({"model": "m", "message": {"content": "Hi"}, "done": True}, "model, message, done"),
        ({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}, "candidates"),
        ({"object": "response", "output": [], "error": None}, "object, output, error"),
        ({"code": 0, "msg": "success", "data": chat()}, "code, msg, data"),
        ({"result": {"response": "Hi"}, "success": True, "errors": []}, "result, success, errors"),
        ({}, "nothing"),
    ],
)
def test_an_answer_of_another_protocol_is_told_by_its_keys(body: dict[str, Any], keys: str) -> None:
    for error in outcomes(Mode(answer(body))):
        assert type(error) is ModelFault and f"JSON that holds no reply, but {keys}: does this" in str(error)


def test_a_redirect_of_a_call_leads_to_the_base_url_of_another_server() -> None:
    there = "https://other.example/v1"
    [error, _] = outcomes(Mode(answer({}, 308, Location=f"{there}/chat/completions?token=hush")))
    assert f"redirects to {there}: give that address as the base URL" in str(error)


# An error in place of a reply

FAILED = {"error": {"code": 502, "message": "the worker died"}}
INSTEAD = [
    (chat(choices=None, base_resp={"status_code": 1008, "status_msg": "insufficient balance"}), ModelStopped, None),
    (chat(choices=None, base_resp={"status_code": 1004, "status_msg": "login fail"}), AuthenticationFailed, None),
    (chat(choices=[], base_resp={"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}), ModelBusy, None),
    (chat(choices=[]) | {"message": "The prompt was blocked by our content filter."}, CallRejected, "content_filter"),
    (
        chat(choices=None, base_resp={"status_code": 1026, "status_msg": "new_sensitive"}),
        CallRejected,
        "content_filter",
    ),
    ({"error_code": 336103, "error_msg": "Prompt tokens too long, max tokens is 2000"}, CallRejected, "too_long"),
    ({"error_code": 18, "error_msg": "Open api qps request limit reached"}, ModelBusy, None),
    ({"Response": {"Error": {"Code": "AuthFailure", "Message": "the id is not known"}}}, AuthenticationFailed, None),
    ({"choices": [], "message": "upstream has no free worker"}, ModelFault, None),
    ({"choices": None, "code": 500, "msg": "model gave up"}, ModelFault, None),
    ({"choices": [None], "detail": "no capacity"}, ModelBusy, None),
    ({"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, AuthenticationFailed, None),
    (chat("", None, **FAILED), ModelFault, None),
    (chat(None, "error", choice=FAILED), ModelFault, None),
    (chat("", choice={"error": {"code": 429, "message": "wait"}}), ModelBusy, None),
]


@pytest.mark.parametrize(("body", "kind", "reason"), INSTEAD)
def test_an_error_in_place_of_a_reply_means_what_its_words_say(
    body: dict[str, Any], kind: type[ModelError], reason: str | None
) -> None:
    [error, _] = outcomes(Mode(answer(body)))
    assert type(error) is kind and getattr(error, "reason", None) == reason and "answered" in str(error)


def test_words_beside_a_reply_are_no_error() -> None:
    for more in ({"error": None}, {"error": {}}, {"message": "success"}, {"msg": "ok", "code": 0}, FAILED):
        [done, _] = outcomes(Mode(answer(chat() | more)))
        assert isinstance(done, Completion) and done.text == REPLY


KEY = "sk-proj-Zq8vW2mT4xR7"
ECHOES = [
    chat(finish=f"tool_calls for {KEY}", text=""),
    chat(choices=f"none for {KEY}"),
    chat(choices=[KEY]),
    chat({"type": "text", "text": [KEY]}),
]


@pytest.mark.parametrize("body", ECHOES)
def test_a_key_in_an_answer_that_cannot_be_used_is_not_shown(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    [error, _] = outcomes(Mode(answer(body)))
    assert isinstance(error, CallRejected) and "***" in str(error) and KEY[8:] not in str(error)
