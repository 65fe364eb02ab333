from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from loopback import certificate
from stub import http, scripted

from cai.calls.model import Connection
from cai.errors import (
    AuthenticationFailed,
    CallRejected,
    FieldRefused,
    ModelBusy,
    ModelError,
    ModelFault,
    ModelStopped,
    UnknownModel,
    UsageError,
)
from cai.models.remote.failures import read_error, retry_after
from cai.models.remote.http import HostedModel
from cai.models.remote.presets import Preset

KEY = "sk-proj-Zq8vW2mT4xR7"
OK = http(200, {"fine": True})
SOME = Preset("some", "https://some.invalid/v1", "https://some.invalid/docs", "some-model")


class Some(HostedModel):
    """A backend of a vendor."""

    replies = "choices"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)


def client(url: str, **connection: Any) -> Some:
    """A model at `url`, as if SOME_BASE_URL held it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_BASE_URL", url)
        return Some("some-model", Connection(**connection), SOME)


async def ask(url: str, payload: dict[str, Any] | None = None, **connection: Any) -> dict[str, Any]:
    asked = client(url, **connection)
    await asked.start()
    try:
        return await asked.post("/chat/completions", payload or {"model": "some-model"})
    finally:
        await asked.close()


def outcome(answer: bytes, **connection: Any) -> ModelError:
    """The error that a server's bytes lead to."""

    async def play() -> None:
        async with scripted(answer) as server:
            await ask(server.url + "/v1", **connection)

    with pytest.raises(ModelError) as caught:
        asyncio.run(play())
    return caught.value


def openai_error(message: str = "", code: str | None = None, type: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "type": type, "param": None}}


def claude_error(type: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type, "message": message}}


PAYLOAD = {"model": "some-model", "messages": [], "max_tokens": 9, "temperature": 1.0, "seed": 7, "stop": ["\n"]}
LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (400, openai_error("no", "context_length_exceeded"), CallRejected, "too_long"),
        (400, {"object": "error", "message": LONG, "type": "BadRequestError", "code": 400}, CallRejected, "too_long"),
        (
            400,
            claude_error("invalid_request_error", "prompt is too long: 9 tokens > 5 maximum"),
            CallRejected,
            "too_long",
        ),
        (
            400,
            openai_error("request (9 tokens) exceeds the available context size (5 tokens)"),
            CallRejected,
            "too_long",
        ),
        (413, claude_error("request_too_large", "Request exceeds the maximum size"), CallRejected, "too_long"),
        (413, b"<html>413</html>", CallRejected, "too_long"),
        (
            429,
            openai_error("Request too large for gpt-x on tokens per min: Limit 3, Requested 4"),
            CallRejected,
            "too_long",
        ),
        (400, openai_error("filtered", "content_filter"), CallRejected, "content_filter"),
        (400, openai_error("no", "content_policy_violation"), CallRejected, "content_filter"),
        (
            400,
            claude_error("invalid_request_error", "Output blocked by content filtering policy"),
            CallRejected,
            "content_filter",
        ),
        (403, openai_error("x requires moderation on y. Your input was flagged for z"), CallRejected, "content_filter"),
        (
            403,
            {"code": "denied", "error": "Content violates usage guidelines. Team: t"},
            CallRejected,
            "content_filter",
        ),
        (403, {"code": "x", "error": "Failed check: SAFETY_CHECK_TYPE_CYBER"}, CallRejected, "content_filter"),
        (400, openai_error("rejected as a result of our safety system"), CallRejected, "content_filter"),
        (400, openai_error("The request was rejected: considered high risk"), CallRejected, "content_filter"),
        (400, openai_error("", "SensitiveContentDetected"), CallRejected, "content_filter"),
        (
            422,
            {"error": {"status": "PROHIBITED_CONTENT", "message": "Prohibited content."}},
            CallRejected,
            "content_filter",
        ),
        (400, openai_error("`temperture` is no field of ours"), CallRejected, "model_error"),
        (422, {"detail": [{"msg": "field required"}]}, CallRejected, "model_error"),
        (401, openai_error("wrong key", "invalid_api_key"), AuthenticationFailed, None),
        (403, claude_error("permission_error", "not yours"), AuthenticationFailed, None),
        (403, b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>", CallRejected, "model_error"),
        (403, {"message": "Forbidden"}, CallRejected, "model_error"),
        (403, b"", CallRejected, "model_error"),
        (403, {"error": "no access to this model"}, AuthenticationFailed, None),
        (404, openai_error("The model does not exist", "model_not_found"), UnknownModel, None),
        (404, {"detail": "Not Found"}, UnknownModel, None),
        (405, {"detail": "Method Not Allowed"}, UnknownModel, None),
        (400, openai_error("foo/bar is not a valid model ID"), UnknownModel, None),
        (400, openai_error("Invalid model name passed in model=x"), UnknownModel, None),
        (400, openai_error("{'error': '/chat/completions: Invalid model name passed in model=x"), UnknownModel, None),
        (402, openai_error("pay"), ModelStopped, None),
        (429, openai_error("You are over: your credit balance is too low"), ModelStopped, None),
        (400, openai_error("no", "billing_hard_limit_reached"), ModelStopped, None),
        (
            400,
            claude_error("invalid_request_error", "This model does not support assistant message prefill. End with"),
            FieldRefused,
            None,
        ),
        (
            400,
            claude_error("invalid_request_error", "`temperature` and `top_p` cannot both be specified for this model"),
            FieldRefused,
            None,
        ),
        (
            400,
            claude_error(
                "invalid_request_error", "max_tokens: 9 > 8, which is the maximum allowed number of output tokens"
            ),
            FieldRefused,
            None,
        ),
        (400, openai_error("max_tokens is too large: 9"), FieldRefused, None),
        (429, openai_error("You exceeded your quota", "insufficient_quota"), ModelStopped, None),
        (400, claude_error("invalid_request_error", "Your credit balance is too low to go on"), ModelStopped, None),
        (400, openai_error("'stop' is not supported with this model.", "unsupported_parameter"), FieldRefused, None),
        (400, claude_error("invalid_request_error", "`temperature` is deprecated for this model."), FieldRefused, None),
        (407, b"", ModelStopped, None),
        (429, openai_error("slow down", "rate_limit_exceeded"), ModelBusy, None),
        (529, claude_error("overloaded_error", "Overloaded"), ModelBusy, None),
        (408, b"", ModelFault, None),
        (409, b"", ModelFault, None),
        (500, openai_error("The server had an error"), ModelFault, None),
        (502, b"<html>Bad Gateway</html>", ModelFault, None),
        (503, b"", ModelFault, None),
        (500, {"error": "the model runner stopped"}, ModelFault, None),
    ],
)
def test_an_error_answer_has_one_meaning(
    status: int, body: bytes | dict[str, Any], kind: type[ModelError], reason: str | None
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = client("http://127.0.0.1:1/v1").error(read_error(status, {}, raw), PAYLOAD)
    assert type(error) is kind
    assert getattr(error, "reason", None) == reason
    assert str(status) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "prompt",
    [
        "Your credit balance is too low",
        "error insufficient_quota",
        "Why do I get model_not_found?",
        "That is an unknown model",
        "foo is not a valid model ID",
        "`x` is deprecated for this model",
        "unsupported_parameter",
        "max_tokens is too large",
    ],
)
def test_words_of_a_quoted_prompt_do_not_end_the_run(prompt: str) -> None:
    error = outcome(http(400, openai_error(f"cannot parse messages[0].content: '{prompt}'", type="BadRequestError")))
    assert isinstance(error, CallRejected) and error.reason == "model_error"


def test_what_is_written_of_a_rejected_call_does_not_name_the_server() -> None:
    page = b"<html>no</html>"
    for answer in (http(400, openai_error("no", "content_filter")), http(413, b""), http(403, page), http(400, b"")):
        error = outcome(answer)
        assert isinstance(error, CallRejected)
        assert str(error).startswith("the server answered 4") and "127.0.0.1" not in str(error)
    assert str(outcome(http(403, page))) == "the server answered 403: an HTML page; a firewall before the server?"


def test_half_a_surrogate_pair_in_an_answer_becomes_a_replacement_character() -> None:
    async def play(raw: bytes) -> dict[str, Any]:
        async with scripted(http(200, raw)) as server:
            return await ask(server.url)

    raw = rb'{"\udc00": ["a\ud83d", {"b": "\ud83d\ude00 \\ud83d"}], "n": 1.5}'
    assert asyncio.run(play(raw)) == {"\ufffd": ["a\ufffd", {"b": "\U0001f600 \\ud83d"}], "n": 1.5}
    error = outcome(http(400, rb'{"error": {"code": "content_filter", "message": "in \ud83d"}}'))
    assert isinstance(error, CallRejected) and str(error) == "the server answered 400: in \ufffd"


def test_the_servers_words_are_quoted_in_one_line_and_cut() -> None:
    error = outcome(http(400, openai_error("bad\nthing\x1b[31m " + "x" * 5000)))
    assert "answered 400: bad thing\\x1b[31m xxx" in str(error)
    assert len(str(error)) < 400


def test_an_error_without_words_gets_the_standard_ones() -> None:
    assert "answered 502: Bad Gateway" in str(outcome(http(502, b"")))
    assert "answered 502: an HTML page" in str(outcome(http(502, b"\n<!DOCTYPE html><title>oh")))


def test_a_busy_server_says_when_to_come_back() -> None:
    for status in (429, 503, 529):
        error = outcome(http(status, b"", Retry_After="7"))
        assert isinstance(error, ModelBusy) and error.retry_after == 7.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "2", "retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT", "Date": "Fri, 20 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"Retry-After": "Fri, 20 Nov 2026 10:00:00 GMT", "Date": "Fri, 20 Nov 2026 10:00:30 GMT"}, 0.0),
        ({"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    "echo",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Authorization: Bearer {KEY}",
        f"Incorrect API key provided: {KEY[:8]}******{KEY[-4:]}.",
        f"bad key {KEY[:12]}…",
        "x" * 290 + f" {KEY}",  # cut after the key's first letters
    ],
)
def test_a_key_that_the_server_echoes_is_not_shown(echo: str) -> None:
    error = outcome(http(401, openai_error(echo)))
    assert isinstance(error, AuthenticationFailed)
    assert "SOME_API_KEY" in str(error) and "***" in str(error)
    assert KEY not in str(error) and KEY[-4:] not in str(error) and KEY[5:12] not in str(error)


def test_values_of_headers_and_of_the_query_are_not_shown() -> None:
    async def play(echo: str) -> None:
        async with scripted(http(400, openai_error(echo))) as server:
            await ask(server.url + "/v1?token=whisper-2", headers={"X-Gateway": "hush-hush-1"})

    with pytest.raises(CallRejected, match=r"^the server answered 400: got \*\*\* and \*\*\*$"):
        asyncio.run(play("got hush-hush-1 and whisper-2"))
    with pytest.raises(CallRejected, match=r"x{292}\*\*\*$"):
        asyncio.run(play("x" * 292 + "hush-hush-1"))  # 300 characters are shown


def test_a_key_in_a_header_is_not_shown_without_its_scheme_either() -> None:
    async def play(echo: str) -> None:
        async with scripted(http(400, openai_error(echo))) as server:
            await ask(server.url, headers={"Authorization": "Bearer hush-hush-1"})

    for echo, shown in (("bad token hush-hush-1.", "bad token ***."), ("bad 'Bearer hush-hush-1'", "bad '***'")):
        with pytest.raises(CallRejected) as caught:
            asyncio.run(play(echo))
        assert str(caught.value) == f"the server answered 400: {shown}"


def test_a_redirect_is_not_followed_so_that_the_key_stays_here() -> None:
    async def play() -> list[tuple[str, bytes]]:
        async with scripted(OK) as elsewhere, scripted(http(307, b"", Location=elsewhere.url + "/v2?a=b")) as server:
            with pytest.raises(
                ModelStopped, match=f"redirects to {elsewhere.url}/v2: give that address as the base URL"
            ):
                await ask(server.url)
            return elsewhere.requests

    assert asyncio.run(play()) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http(200, b"<html>Welcome</html>"), "200 with HTML: does this base URL speak the right protocol?"),
        (http(200, b""), "200 with an empty body"),
        (http(200, b"hello"), "200 with no JSON"),
        (http(200, b'{"a": "\\ud83d'), "200 with no JSON"),
        (http(200, b"[" * 200_000), "200 with no JSON"),
        (http(200, b"[1]"), "200 with JSON that is list, not an object"),
        (http(200, b'{"a": 1}', Content_Length="100"), "the body broke off half-way"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":", "the body broke off half-way"),
        (b"HTTP/1.1 200 OK\r\nContent-", "the server closed the connection"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "the answer is not HTTP"),
        (b"", "the server closed the connection"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_passing_fault(answer: bytes, says: str) -> None:
    error = outcome(answer)
    assert type(error) is ModelFault
    assert says in str(error) and "\n" not in str(error)


def test_a_refused_connection_and_an_unknown_host_are_passing_faults() -> None:
    with pytest.raises(ModelFault, match=r"no answer from http://127.0.0.1:1/v1: connection refused$"):
        asyncio.run(ask("http://127.0.0.1:1/v1"))
    with pytest.raises(ModelFault, match=r"the host name 'nowhere.invalid' is unknown$"):
        asyncio.run(ask("http://nowhere.invalid/v1"))


def test_a_server_that_does_not_finish_in_time_is_a_passing_fault() -> None:
    async def play() -> None:
        async with scripted(http(200, b"{", Content_Length="2"), close=False) as server:
            await ask(server.url, timeout=0.2)

    with pytest.raises(ModelFault, match=r"timed out after 0.2 s$"):
        asyncio.run(play())


def test_chunked_and_compressed_answers_are_read() -> None:
    packed = gzip.compress(b'{"fine": true}')
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n'

    async def play() -> None:
        async with scripted(http(200, packed, Content_Encoding="gzip")) as server:
            assert await ask(server.url) == {"fine": True}
        async with scripted(chunked) as server:
            assert await ask(server.url) == {"a": 1}

    asyncio.run(play())


def test_calls_one_after_the_other_share_a_connection() -> None:
    async def play() -> int:
        async with scripted(OK, close=False) as server:
            asked = client(server.url)
            await asked.start()
            for _ in range(5):
                await asked.post("/x", {})
            await asked.close()
            await asked.close()
            return server.connections

    assert asyncio.run(play()) == 1


def test_what_is_sent_carries_key_headers_and_query() -> None:
    async def play() -> tuple[str, bytes]:
        async with scripted(OK) as server:
            await ask(server.url + "/v1/?version=3", {"text": "grüße"}, headers={"X-Team": "red", "user-agent": "mine"})
            return server.requests[0]

    head, body = asyncio.run(play())
    assert head.startswith("POST /v1/chat/completions?version=3 HTTP/1.1\r\n")
    lines = head.lower().split("\r\n")
    assert f"authorization: bearer {KEY.lower()}" in lines
    assert "x-team: red" in lines and "user-agent: mine" in lines and "content-type: application/json" in lines
    assert json.loads(body) == {"text": "grüße"}


def test_a_body_of_megabytes_is_sent_without_a_warning() -> None:
    async def play() -> int:
        async with scripted(OK) as server:
            await ask(server.url, {"text": "x" * 3_000_000})
            return len(server.requests[0][1])

    assert asyncio.run(play()) == len(b'{"text":""}') + 3_000_000


def test_text_that_is_no_unicode_is_rejected_before_it_is_sent() -> None:
    with pytest.raises(CallRejected, match="cannot be written as JSON") as caught:
        asyncio.run(ask("http://127.0.0.1:1/v1", {"text": "\ud800"}))
    assert caught.value.reason == "model_error"


def test_the_proxy_of_the_environment_is_used_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> str:
        async with scripted(OK) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:hunter22@"))
            assert await ask("http://models.invalid/v1") == {"fine": True}
            monkeypatch.setenv("http_proxy", "http://me:hunter22@127.0.0.1:1")
            with pytest.raises(ModelFault, match=r"the proxy cannot be reached; check HTTP_PROXY") as caught:
                await ask("http://models.invalid/v1")
            assert "hunter22" not in str(caught.value)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with scripted(OK) as server:
                assert await ask(server.url) == {"fine": True}
            return proxy.requests[0][0]

    head = asyncio.run(play())
    assert head.startswith("POST http://models.invalid/v1/chat/completions HTTP/1.1")
    assert f"Authorization: Bearer {KEY}" in head and "Proxy-Authorization: Basic" in head


def test_a_proxy_that_is_no_http_proxy_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:hunter22@127.0.0.1:1")
    with pytest.raises(UsageError, match=r"^HTTP_PROXY must start with http:// or https://; unset it or correct it$"):
        asyncio.run(ask("http://models.invalid/v1"))


def test_netrc_does_not_replace_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter22\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    async def play() -> str:
        async with scripted(OK) as server:
            await ask(server.url)
            return server.requests[0][0]

    assert f"Authorization: Bearer {KEY}" in asyncio.run(play())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
def test_a_private_ca_is_trusted_when_ssl_cert_file_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async def play() -> None:
        async with scripted(OK, tls=tls) as server:
            with pytest.raises(
                ModelFault, match=r"its certificate is not trusted: .*put a private CA into SSL_CERT_FILE"
            ):
                await ask(server.url)
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            assert await ask(server.url) == {"fine": True}

    asyncio.run(play())


@pytest.mark.parametrize(
    "url", [" ", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1/v1", "http://a..b/v1"]
)
def test_a_base_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"the base URL in SOME_BASE_URL .*http://localhost:8000/v1$"):
        client(url)


@pytest.mark.parametrize(
    "url", ["me:hunter22@host/v1", "host:8000/v1?key=hunter22", "ftp://host/v1?key=hunter22", "http://[::1/hunter22"]
)
def test_a_base_url_that_cannot_be_used_is_not_shown(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        client(url)
    assert "hunter22" not in str(caught.value)


def test_a_password_in_the_base_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="send it as a header") as caught:
        client("http://me:hunter22@host/v1")
    assert "hunter22" not in str(caught.value)


def test_a_header_with_a_line_break_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'X-A' holds a line break") as caught:
        client("http://host/v1", headers={"X-A": "hush\r\nHost: evil"})
    assert "hush" not in str(caught.value)


def test_a_key_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(asked: Some) -> str | None:
        await asked.start()
        assert asked._session is not None
        key = asked._session.headers.get("Authorization")
        await asked.close()
        return key

    monkeypatch.delenv("SOME_API_KEY")
    asked = client(SOME.url)
    assert asyncio.run(start(client("http://host/v1"))) is None
    with pytest.raises(AuthenticationFailed, match="set the environment variable SOME_API_KEY"):
        asyncio.run(asked.start())
    monkeypatch.setenv("SOME_API_KEY", f" {KEY}\n")
    assert asyncio.run(start(asked)) == f"Bearer {KEY}"
    monkeypatch.setenv("SOME_API_KEY", "sk-with a space")
    with pytest.raises(AuthenticationFailed, match="SOME_API_KEY holds characters that no key has") as caught:
        asyncio.run(asked.start())
    assert "space" not in str(caught.value)


@pytest.mark.parametrize("query", ["", "?sig=abc/", "?sig=/v1", "?sig=a/v1/&b"])
@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2/", ""])
@pytest.mark.parametrize("version", ["", "/v1"])
def test_only_the_path_of_a_base_url_loses_its_slash_and_version(
    path: str, query: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Some, "version", version)
    asked = client(f"http://host{path}{query}")
    assert asked._base.query_string == query.removeprefix("?")
    assert asked.endpoint == "http://host" + path.removesuffix("/").removesuffix(version)


def test_the_address_shows_neither_query_nor_slash_at_the_end() -> None:
    assert client("http://[::1]:8000/v1/?key=hush").endpoint == "http://[::1]:8000/v1"
    assert client(" https://api.openai.com/v1 ").endpoint == "https://api.openai.com/v1"
