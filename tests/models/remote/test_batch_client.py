"""What goes through the SDKs of providers: what they send, what they are never told, and what their errors mean."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from batched import SDKS
from loopback import certificate
from stub import http, scripted

from cai.calls.model import Connection
from cai.errors import AuthenticationFailed, CallRejected, ModelBusy, ModelError, ModelFault, ModelStopped, UsageError
from cai.folder.journal.batches import Batch
from cai.models import open_model, provider_of

KEY = "sk-proj-Zq8vW2mT4xR7"
LISTED = http(200, {"data": [], "has_more": False})
BATCH = Batch(1, "0123456789abcdef", "m", "/v1/chat/completions", 1, 1, 0.0)
pytestmark = pytest.mark.parametrize("provider", SDKS)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)


async def ask(provider: str, url: str, timeout: float = 10.0, **more: Any) -> None:
    """Ask a server for its batches, as an orphan is looked for."""
    model = open_model(f"{provider}:m", Connection(url, **more))
    offer = provider_of(model).batches
    assert offer is not None
    await model.start()
    service = offer.open(model, timeout, "run")
    try:
        await service.find(BATCH)
    finally:
        await service.close()
        await model.close()


def head(provider: str, end: str = "", **more: Any) -> str:
    """The head of what is sent to a base URL with this end."""

    async def play() -> str:
        async with scripted(LISTED) as server:
            await ask(provider, f"{server.url}/v1{end}", **more)
            return server.requests[0][0]

    return asyncio.run(play())


def outcome(provider: str, answer: bytes, **more: Any) -> ModelError:
    """The error that a server's bytes lead to."""

    async def play() -> None:
        async with scripted(answer, close="timeout" not in more) as server:
            await ask(provider, server.url + "/v1", **more)

    with pytest.raises(ModelError) as caught:
        asyncio.run(play())
    return caught.value


# What is sent


def test_requests_carry_key_headers_and_query_of_the_model_and_nothing_from_the_sdks_own_variables(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-elsewhere")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Elsewhere: org-elsewhere")
    sent = head(provider, "/?version=3&a=b%2Bc", headers={"X-Team": "red", "user-agent": "mine"})
    path = "/v1/batches" if provider == "openai" else "/v1/messages/batches"
    assert sent.startswith(f"GET {path}?version=3&a=b%2Bc&limit=100 HTTP/1.1\r\n")
    lines = sent.lower().split("\r\n")
    assert (f"authorization: bearer {KEY}" if provider == "openai" else f"x-api-key: {KEY}").lower() in lines
    assert "x-team: red" in lines and "user-agent: mine" in lines and "elsewhere" not in sent
    assert sum(line.startswith(("authorization:", "x-api-key:")) for line in lines) == 1


def test_a_header_of_the_users_own_replaces_the_key(provider: str) -> None:
    name = "authorization" if provider == "openai" else "X-API-Key"
    lines = head(provider, headers={name: "another"}).lower().split("\r\n")
    assert f"{name.lower()}: another" in lines and KEY.lower() not in "".join(lines)


def test_nothing_that_an_sdk_logs_or_raises_holds_a_secret(provider: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        head(provider, "/?code=hush-hush-1", headers={"X-Secret": "hush-hush-2"})
        errors = [outcome(provider, http(status, {"error": {"message": f"wrong key {KEY}"}})) for status in (401, 404)]
    assert isinstance(errors[0], AuthenticationFailed)
    for error in errors:
        assert "***" in str(error) and KEY not in str(error) and error.__cause__ is None
    said = caplog.text
    assert "batches" in said and KEY not in said and "hush-hush" not in said


def test_the_proxy_of_the_environment_is_used(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> str:
        async with scripted(LISTED) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:hunter22@"))
            await ask(provider, "http://models.invalid/v1")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with scripted(LISTED) as server:
                await ask(provider, server.url + "/v1")
            return proxy.requests[0][0]

    sent = asyncio.run(play())
    assert sent.startswith("GET http://models.invalid/v1/") and "Proxy-Authorization: Basic" in sent
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(UsageError, match="HTTP_PROXY must start with"):
        asyncio.run(ask(provider, "http://models.invalid/v1"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with the openssl command")
def test_a_private_ca_is_trusted_when_ssl_cert_file_names_it(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)

    async def play() -> None:
        async with scripted(LISTED, tls=tls) as server:
            with pytest.raises(
                ModelFault, match=r"its certificate is not trusted: .*put a private CA into SSL_CERT_FILE"
            ):
                await ask(provider, server.url + "/v1")
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            await ask(provider, server.url + "/v1")

    asyncio.run(play())


# What errors mean


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (http(400, {"error": {"message": "bad field"}}), CallRejected, "the server answered 400: bad field"),
        (http(404, {"error": {"message": "no such batch"}}), CallRejected, "the server answered 404: no such batch"),
        (http(429, {"error": {"message": "slow"}}, Retry_After="7"), ModelBusy, "answered 429: slow"),
        (http(503, b"<html>down</html>"), ModelFault, "answered 503"),
        (http(307, b"", Location="http://elsewhere.invalid/v2"), ModelStopped, "redirects to http://elsewhere.invalid/v2"),
        (http(200, b"<html>Welcome</html>"), ModelFault, "200 with something else than a JSON object"),
        (http(200, b"[1]"), ModelFault, "200 with something else than a JSON object"),
        (http(200, b'{"a": 1}', Content_Length="100"), ModelFault, "the server closed the connection"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", ModelFault, "the server closed the connection"),
        (b"", ModelFault, "the server closed the connection"),
    ],
)  # fmt: skip
def test_an_error_has_one_meaning(provider: str, answer: bytes, kind: type[ModelError], says: str) -> None:
    error = outcome(provider, answer)
    assert isinstance(error, kind) and says in str(error) and "\n" not in str(error)
    if isinstance(error, ModelBusy):
        assert error.retry_after == 7


def test_a_server_that_falls_silent_is_a_passing_fault(provider: str) -> None:
    error = outcome(provider, http(200, b"{", Content_Length="2"), timeout=0.2)
    assert isinstance(error, ModelFault) and error.reached and str(error).endswith("timed out after 0.2 s")


def test_a_server_that_cannot_be_reached_has_read_nothing(provider: str) -> None:
    for address, says in (("127.0.0.1:1", "connection refused"), ("nowhere.invalid", "the host name is unknown")):
        with pytest.raises(ModelFault, match=f"no answer from .*: {says}$") as caught:
            asyncio.run(ask(provider, f"http://{address}/v1"))
        assert not caught.value.reached
