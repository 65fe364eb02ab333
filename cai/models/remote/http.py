"""The lean HTTP client under the hosted models: JSON out, JSON in, and every failure as one of `errors.ModelError`.

Knows transport, status codes and the error bodies of OpenAI, Anthropic and the servers that imitate them. It does not
know prompts or replies, and never retries: one call of `post` is one request.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import responses
from time import time
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from cai.calls.model import Connection
from cai.errors import (
    AuthenticationFailed,
    CallRejected,
    ModelBusy,
    ModelError,
    ModelFault,
    ModelStopped,
    UnknownModel,
    UsageError,
)

# What servers write, in `error.code`, `error.type` or the message, for failures that share HTTP 400 with all others.
TOO_LONG = re.compile(
    r"context[_ ]length|context[_ ](window|size|limit)|maximum (model|input|allowed) length|(prompt|input) is too long"
    r"|request_?too_large|request too large|string_above_max_length|must have less than \d+ tokens"
    r"|inputs` tokens \+ `max_new_tokens`",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content.?filter|content.?(policy|management)|usage policy|invalid_prompt|data_inspection_failed"
    r"|content exists risk|requires moderation|was flagged|has been flagged",
    re.IGNORECASE,
)
# The next three end the run, and messages may quote a prompt: they count in `code` and `type`, or opening a message.
OPENING = r"(\{'error': ['\"])?(error: |/\S+: )?"  # LiteLLM puts both before an upstream's words
NO_CREDIT = re.compile(
    OPENING
    + r"(insufficient_quota|billing_(error|hard_limit|not_active)|spend_limit|(your )?credit balance is too low)",
    re.IGNORECASE,
)
NO_MODEL = re.compile(
    OPENING + r"(model_not_found|invalid_model|invalid model\b|model not exist|unknown model"
    r"|(the )?(model )?\S+ is not a valid model)",
    re.IGNORECASE,
)
# A setting that no call of this run can have; every row would fail alike.
BAD_SETTING = re.compile(
    OPENING + r"(unsupported_(parameter|value)|\S+ is deprecated for this model|\S+ and \S+ cannot both be specified"
    r"|(this model does not support )?assistant message prefill|max_(completion_)?tokens is too large"
    r"|max_tokens: \d+ > \d+, which is the maximum allowed number of output tokens)",
    re.IGNORECASE,
)
SURROGATE = re.compile("[\ud800-\udfff]")
MASKED_KEY = re.compile(r"[^\s*]{0,40}\*{3,}\S{0,40}")  # "sk-ab****yz", as OpenAI quotes a wrong key
READ = 2000  # characters of a server's words; some echo the whole prompt
CONNECT = 30.0  # seconds until a server that does not even accept counts as gone
LARGE = 2**20  # bytes; aiohttp wants larger bodies as a file object, and warns


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that is an error: what the server said about it."""

    status: int
    kind: str  # the error's code and type
    message: str
    retry_after: float | None  # seconds
    spoken: bool = False  # the body is JSON with an `error`: the API's words, not those of a firewall before it

    def means(self, pattern: re.Pattern[str]) -> bool:
        return pattern.search(self.kind) is not None or pattern.match(self.message) is not None


class Client:
    """Posts JSON to one base URL.

    base_url: with its path (".../v1") and, where a gateway wants one, its query, which is sent and never shown.
    source: the option or variable that holds the base URL, for errors, which never quote it.
    key_variable: the environment variable that errors about the key name.
    """

    def __init__(self, base_url: str, source: str, connection: Connection, key_variable: str, model: str) -> None:
        self._base = _parse(base_url, source)
        self.address = str(self._base.with_query(None)).rstrip("/")
        for name, value in connection.headers.items():
            if not (name + value).isprintable():
                raise UsageError(f"the header {_one_line(name)!r} holds a line break or a control character")
        self._connection = connection
        self._key_variable = key_variable
        self._model = model
        self._secrets = MASKED_KEY
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        return self._base.host or ""

    def key(self, required: bool) -> str:
        """The key from the environment, "" where there is none; raises `AuthenticationFailed` when it must be there."""
        key = os.environ.get(self._key_variable, "").strip()
        if not key and required:
            raise AuthenticationFailed(f"{self.address} needs a key: set the environment variable {self._key_variable}")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise AuthenticationFailed(f"{self._key_variable} holds characters that no key has; copy the key again")
        return key

    async def start(self, headers: Mapping[str, str], key: str) -> None:
        """Open the session; `headers` carry the key, and the user's own headers go over them."""
        sent = CIMultiDict({"Content-Type": "application/json", "User-Agent": "cai-toolkit", **headers})
        sent.update(self._connection.headers)
        self._secrets = _secrets(key, [*self._connection.headers.values(), *self._base.query.values()])
        # The context of aiohttp is made at import; this one sees SSL_CERT_FILE and SSL_CERT_DIR as they are now.
        tls = ssl.create_default_context() if self._base.scheme == "https" else True
        self._session = aiohttp.ClientSession(
            # Concurrency is bounded by `limits`; a pool limit here would hide waiting from it.
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            headers=sent,
            # Replies are a few kilobytes: not worth asking for compression.
            skip_auto_headers=("Accept", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._connection.timeout, sock_connect=CONNECT),
            # aiohttp's `trust_env` looks the proxy up for each request, in a thread, and lets ~/.netrc replace the key.
            proxy=_proxy_for(self._base),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send once and return the JSON object of a 200 answer; everything else raises a `ModelError`."""
        assert self._session is not None, "post before start"
        try:
            body = orjson.dumps(payload)
        except orjson.JSONEncodeError as error:  # a lone surrogate in a prompt, an integer over 64 bits in extra_body
            raise CallRejected("model_error", f"the request cannot be written as JSON: {error}") from None
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._base.with_path(self._base.path.rstrip("/") + path, keep_query=True)
        try:
            async with self._session.post(
                url, data=body if len(body) < LARGE else io.BytesIO(body), allow_redirects=False
            ) as response:
                status, headers, raw = response.status, response.headers, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # `from None`: aiohttp's errors hold the request's headers.
            raise ModelFault(self._scrub(f"no answer from {self.address}: {self._reason(error)}")) from None
        if status == 200:
            return self._json(raw)
        if 300 <= status < 400:
            target = URL(headers.get("Location", "")).with_query(None)
            raise ModelStopped(self._scrub(f"{self.address} redirects to {target}: give that place as the base URL"))
        raise self.error(read_error(status, headers, raw))

    def _json(self, raw: bytes) -> dict[str, Any]:
        try:
            reply = _loads(raw)
        except (ValueError, RecursionError):
            what = "HTML" if raw.lstrip()[:1] == b"<" else "an empty body" if not raw.strip() else "no JSON"
            raise self.odd(what) from None
        if not isinstance(reply, dict):
            raise self.odd(f"JSON that is {type(reply).__name__}, not an object")
        return reply

    def odd(self, what: str) -> ModelFault:
        """The fault of a 200 answer that is not the protocol's."""
        return ModelFault(f"{self.address} answered 200 with {what}: does this base URL speak the right protocol?")

    def error(self, answer: Answer) -> ModelError:
        """The error that an answer means, in one line that never holds the key.

        A `CallRejected` does not name the address either: it is written to the run's files.
        """
        status, known = answer.status, f"{answer.kind} {answer.message}"
        message = self._scrub(answer.message)[:300]
        answered = f"answered {status}" + (f": {message}" if message else "")
        said, row_said = f"{self.address} {answered}", f"the server {answered}"
        # A 401, 404 or 429 is decided before the prompt is read, so that its words are the server's own.
        if status == 402 or answer.means(NO_CREDIT) or (status in (401, 404, 429) and NO_CREDIT.search(answer.message)):
            return ModelStopped(f"out of credit: {said}; top up the account and run the same command again")
        if status in (400, 403, 413, 422) and FILTERED.search(known):
            return CallRejected("content_filter", row_said)
        if status == 413 or (status in (400, 422, 429) and TOO_LONG.search(known)):
            return CallRejected("too_long", row_said)
        if status == 407:
            return ModelStopped(f"{said}; the proxy wants a name and a password in HTTP_PROXY or HTTPS_PROXY")
        # A firewall refuses single prompts so; where it refuses all, `flow` ends the run.
        if status == 403 and not answer.spoken:
            return CallRejected("model_error", f"{row_said}; a firewall before the server?")
        if status in (401, 403):
            return AuthenticationFailed(f"{said}; check {self._key_variable}")
        if status in (404, 405) or (status in (400, 422) and answer.means(NO_MODEL)):
            return UnknownModel(f"no model {self._model!r}: {said}; check the model's name and the base URL")
        if status in (429, 529) or (status == 503 and answer.retry_after is not None):
            return ModelBusy(said, answer.retry_after)
        if status >= 500 or status in (408, 409, 425):
            return ModelFault(said, answer.retry_after)
        if answer.means(BAD_SETTING):
            return ModelStopped(f"{said}; change the setting, or take it out with --extra-body '{{\"NAME\": null}}'")
        return CallRejected("model_error", row_said)

    def _scrub(self, text: str) -> str:
        return self._secrets.sub("***", text)

    def _reason(self, error: Exception) -> str:
        """A transport failure in a few words."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"no connection within {min(CONNECT, self._connection.timeout):g} s"
        if isinstance(error, TimeoutError):
            return f"timed out after {self._connection.timeout:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"the host name {error.host!r} is unknown"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = _one_line(str(error.certificate_error))
            return f"its certificate is not trusted: {why}; put a private CA into SSL_CERT_FILE"
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return f"TLS failed: {_one_line(str(error.os_error))}"
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return f"the proxy answered {error.status}; check HTTPS_PROXY"
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return "the proxy cannot be reached; check HTTP_PROXY and HTTPS_PROXY"
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return "the server closed the connection"
        if isinstance(error, aiohttp.ClientPayloadError):
            return "the body broke off half-way"
        if isinstance(error, aiohttp.ClientResponseError):
            return "the answer is not HTTP"
        if isinstance(error, OSError) and error.errno is not None:
            return os.strerror(error.errno).lower()
        return _one_line(str(error)) or type(error).__name__


def read_error(status: int, headers: Mapping[str, str], raw: bytes) -> Answer:
    """What an error answer says, whichever of the known shapes its body has."""
    wait = retry_after(headers)
    try:
        body = _loads(raw)
    except (ValueError, RecursionError):
        text = raw[:READ].decode("utf-8", "replace")
        page = text.lstrip().startswith("<")
        return Answer(status, "", "an HTML page" if page else _one_line(text) or responses.get(status, ""), wait)
    return error_in(status, body, wait)


def error_in(status: int, body: Any, wait: float | None = None) -> Answer:
    """What the parsed body of an error says."""
    # {"error": {…}} OpenAI, Anthropic · {"error": "…"} Ollama · {"message": …} old vLLM · {"detail": …} FastAPI
    error = body.get("error", body) if isinstance(body, dict) else body
    spoken = isinstance(body, dict) and "error" in body
    if not isinstance(error, dict):
        return Answer(status, "", _one_line(str(error)), wait, spoken)
    kind = " ".join(str(error[key]) for key in ("code", "type") if error.get(key) is not None)
    message = error.get("message") or error.get("detail") or ""
    return Answer(status, kind, _one_line(str(message)) or kind or responses.get(status, ""), wait, spoken)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as an HTTP date."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        until = parsedate_to_datetime(headers["Retry-After"]).timestamp()
    except (KeyError, ValueError):
        return None
    try:  # by the server's own clock where it tells it
        now = parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        now = time()
    return max(0.0, until - now)


def _loads(raw: bytes) -> Any:
    """Parse JSON; half a surrogate pair, which orjson refuses and some servers write, becomes U+FFFD.

    Raises ValueError or RecursionError.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return orjson.loads(SURROGATE.sub("\ufffd", json.dumps(json.loads(raw), ensure_ascii=False)))


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[:READ]).split())


def _secrets(key: str, others: list[str]) -> re.Pattern[str]:
    """What must not be shown: the key, also cut or masked by the server, and the user's header and query values.

    Of a value each word, too: a server may echo the key of "Bearer KEY" alone. Shorter than six characters is no secret
    ("EMPTY", "none") and would blot out words.
    """
    parts = {part for value in others for part in (value, *value.split()) if len(part) >= 6}
    hidden = [*(re.escape(part) for part in sorted(parts, key=len, reverse=True)), MASKED_KEY.pattern]
    if len(key) >= 6:
        hidden.insert(0, rf"{re.escape(key[:8])}\S*")
    return re.compile("|".join(hidden))


def _parse(base_url: str, source: str) -> URL:
    try:
        url = URL(base_url.strip())
        (url.host or "").encode("idna")  # what the resolver will do: an empty or overlong label fails here, not later
    except ValueError:
        raise UsageError(f"the base URL in {source} cannot be read; write one like http://localhost:8000/v1") from None
    if url.user or url.password:
        raise UsageError(f"the base URL in {source} holds a user name or password: send it as a header instead")
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(
            f"the base URL in {source} needs http:// or https:// and a host, like http://localhost:8000/v1"
        )
    return url


def _proxy_for(url: URL) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for this URL."""
    if proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = getproxies().get(url.scheme)
    if proxy is not None and not proxy.startswith(("http://", "https://")):
        raise UsageError(f"{url.scheme.upper()}_PROXY must start with http:// or https://; unset it or correct it")
    return proxy
