"""What the models of servers share: JSON out, JSON in, and every failure as one of `errors.ModelError`.

It never retries: one call of `post` is one request.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

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
from cai.models.remote.addresses import Access, base_of, key_variables, path_advice, proxy_for, redirect_target
from cai.models.remote.bodies import as_sent, form_of, read_body, too_large
from cai.models.remote.envelope import error_instead, is_answer, known
from cai.models.remote.failures import Failure, error_inside, loads, read_error, shown
from cai.models.remote.fields import way_out
from cai.models.remote.meanings import meaning_of
from cai.models.remote.presets import Preset
from cai.models.remote.secrets import Secrets, secrets_of
from cai.models.remote.transport import CONNECT, UNREACHED, open_session, transport_words
from cai.records import Completion, Values

LOOK = 10.0  # seconds for a question that can go unanswered


class HostedModel:
    """A model behind one base URL, which its preset, the connection or the environment says.

    The URL has its path (".../v1") and, if a gateway wants one, its query, which is sent and never shown. A backend
    adds its `payload` and `send`.
    """

    version = ""  # the end of a base URL's path with which the posts' own paths begin
    replies: str  # the key of an answer that holds them
    headers: ClassVar[Mapping[str, str]] = {}  # beside the key's
    context: int | None = None

    def __init__(self, name: str, connection: Connection, preset: Preset) -> None:
        self.name, self.preset, self.provider = name, preset, preset.name
        self.concurrency = preset.concurrency
        self._base = base_of(preset, connection, self.version)
        self.endpoint = str(self._base.with_query(None)).rstrip("/")
        host = (self._base.host or "").rstrip(".")
        self.is_official = host == URL(preset.url).host or host.endswith(preset.hosts)
        for header, value in connection.headers.items():
            if not (header + value).isprintable():
                raise UsageError(f"the header {shown(header)!r} holds a line break or a control character")
        self._connection = connection
        self.key_variables = key_variables(preset, connection, self._base)
        self._key_advice = f"check {self.key_variables[0]}"  # once a key is known, that variable
        self._secrets = Secrets()
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}  # by path
        self.access: Access | None = None  # since the start

    @property
    def price_names(self) -> tuple[str | None, str] | None:
        """What tables of prices call the provider and the model; None for the models of a user's own server.

        Hugging Face's router has another provider's name at the end; Ollama's own cloud is asked through a server, too.
        """
        name = self.name.removeprefix("models/")
        is_cloud = name.endswith("cloud") or (self._base.host or "").endswith("ollama.com")
        if not self.preset.needs_key and not is_cloud:
            return None
        if not (self.preset.prices and self.is_official):
            return None, self.name
        model, colon, behind = name.rpartition(":")
        if self.preset.name == "huggingface" and colon:
            return f"huggingface_{behind}", model
        return self.preset.prices, name

    def _key(self) -> str:
        """The key from the environment, "" if there is none and none is required."""
        keys = ((name, os.environ.get(name, "").strip()) for name in self.key_variables)
        variable, key = next(filter(lambda each: each[1], keys), ("", ""))
        sent = {header.lower() for header in self._connection.headers}
        needs = self.preset.needs_key and self.is_official
        if not key and needs and not sent & {"authorization", "api-key", self.preset.key_header.lower()}:
            hint = " (.env is not read: set -a; . ./.env; set +a)" if os.path.exists(".env") else ""
            raise AuthenticationFailed(
                f"{self.spec}: {self.endpoint} needs a key: set the environment variable "
                f"{' or '.join(self.key_variables)}{self._unsent()}{hint}"
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise AuthenticationFailed(f"{variable} holds characters that no key has; copy the key again")
        self._key_advice = f"check {variable}" if key else f"set {' or '.join(self.key_variables)}{self._unsent()}"
        return key

    def _unsent(self) -> str:
        """What to say of a key that is set, and not sent to an address of a spec's own; "" if there is none."""
        unsent = [name for name in self.preset.key_variables if os.environ.get(name)]
        if self._connection.own_url is None or not unsent:
            return ""
        return f" ({unsent[0]} is not sent to an @URL)"

    async def start(self) -> None:
        """Open the session, with the user's own headers over ours; AuthenticationFailed without a key that it needs."""
        key = self._key()
        headers = CIMultiDict({"Content-Type": "application/json", "User-Agent": "cai-toolkit", **self.headers})
        if key:
            headers[self.preset.key_header] = self.preset.key_scheme + key
        headers.update(self._connection.headers)
        proxy = self._proxy()
        self._secrets = secrets_of(key, self._connection.headers, self._base, proxy)
        # The context of aiohttp is made at import; this one sees SSL_CERT_FILE and SSL_CERT_DIR as they are now.
        tls = ssl.create_default_context() if self._base.scheme == "https" else True
        self.access = Access(self._base, headers, tls, proxy)
        self._session = open_session(headers, tls, proxy, self._connection.timeout)

    def _proxy(self) -> str | None:
        """The proxy on the way to the server."""
        return proxy_for(self._base)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(
        self, path: str, payload: Values, read: Callable[[Values], Completion], replies: str | None = None
    ) -> Completion:
        """Send once and `read` the answer, if it holds a reply or says that there is none.

        replies: the key that holds them, if it is another than that of replies in words.
        """
        replies = replies or self.replies
        return self._completion(await self.post(path, payload, replies), read, replies)

    def answer_in(self, status: int, raw: bytes, payload: Values, read: Callable[[Values], Completion]) -> Completion:
        """The answer to a payload that came in a batch, as `read` takes it; raises as `send` does."""
        if not 200 <= status < 300:
            raise self.error(read_error(status, {}, raw), payload)
        return self._completion(self._answer(raw, payload, self.replies), read, self.replies)

    def _completion(self, body: Values, read: Callable[[Values], Completion], replies: str) -> Completion:
        if not is_answer(body, replies):
            held = shown(", ".join(list(body)[:8])) or "nothing"
            raise self.odd(f"JSON that holds no reply, but {held}")
        try:
            return read(body)
        except ModelError as error:  # with words of the server's
            error.args = (self._secrets.message(str(error)),)
            raise

    async def post(self, path: str, payload: Values, replies: str | None = None) -> Values:
        """Send once and return the JSON object of a 200 answer; everything else raises a `ModelError`."""
        assert self._session is not None, "post before start"
        try:
            body = orjson.dumps(payload)
        except orjson.JSONEncodeError as error:  # a lone surrogate in a prompt, an integer over 64 bits in extra_body
            raise CallRejected("model_error", f"the request cannot be written as JSON: {error}") from None
        url = self._url(path)
        try:
            async with self._session.post(url, data=as_sent(body), allow_redirects=False) as response:
                status, headers = response.status, response.headers
                raw, whole = await read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # `from None`: it holds the request's headers
            words = transport_words(error, self._connection.timeout, CONNECT)
            raise self.unheard(words, reached=not isinstance(error, UNREACHED)) from None
        if 200 <= status < 300:
            if not whole:
                raise too_large()
            return self._answer(raw, payload, replies or self.replies)
        if 300 <= status < 400:
            raise self.redirected(url, headers, path)
        raise self.error(read_error(status, headers, raw), payload)

    def _url(self, path: str) -> URL:
        """A path behind the base URL, as one object: it remembers its parts as they are sent."""
        if path not in self._urls:
            self._urls[path] = self._base.with_path(self._base.path.rstrip("/") + path, keep_query=True)
        return self._urls[path]

    def redirected(self, url: URL, headers: Mapping[str, str], path: str) -> ModelStopped:
        """The error of a redirect, which is not followed; path: what was asked for behind the base URL."""
        target = self._secrets.message(redirect_target(url, headers.get("Location", ""))).removesuffix(path)
        return ModelStopped(f"{self.endpoint} redirects to {target}: give that address as the base URL")

    def unheard(self, words: str, *, reached: bool) -> ModelFault:
        """The fault of a server that has not answered, or not to the end."""
        return ModelFault(self._secrets.message(f"no answer from {self.endpoint}: {words}"), reached=reached)

    def _answer(self, raw: bytes, payload: Values, replies: str) -> Values:
        """The object that a 200 answer is, without secrets; raises the error that it holds instead."""
        reply = self._json(raw)
        error = error_instead(reply, replies)
        if error is not None:
            raise self.error(error_inside(error), payload)
        cleaned = self._secrets.clean(raw)
        return reply if cleaned is raw else self._json(cleaned)

    async def look(self, method: str, path: str, payload: Values | None = None) -> Values:
        """What the server says at another path than the protocol's, above its version; empty if it does not say it."""
        assert self._session is not None, "look before start"
        root = self._base.path.rstrip("/").removesuffix("/v1")
        url = self._base.with_path(root + path, keep_query=True)
        try:
            timeout = aiohttp.ClientTimeout(total=min(LOOK, self._connection.timeout))
            request = self._session.request(method, url, json=payload, allow_redirects=False, timeout=timeout)
            async with request as response:
                raw, _ = await read_body(response)
                found = loads(self._secrets.clean(raw)) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
            return {}
        return known(found)

    def _json(self, raw: bytes) -> Values:
        try:
            reply = loads(raw)
        except (ValueError, RecursionError):
            kind = form_of(raw)
            if kind == "a stream":
                problem = f"{self.endpoint} answers with a stream, which is not read: ask for whole replies with"
                raise ModelStopped(f"{problem} --extra-body '{{\"stream\": false}}'") from None
            raise self.odd(kind) from None
        if not isinstance(reply, dict):
            raise self.odd(f"JSON that is {type(reply).__name__}, not an object")
        return reply

    def odd(self, what: str) -> ModelFault:
        """The fault of a 200 answer that does not follow the protocol."""
        advice = path_advice(self._base, self.version)
        problem = f"{self.endpoint} answered 200 with {what}: does this base URL speak the right protocol? {advice}"
        return ModelFault(problem, reached=what != "HTML")

    def error(self, answer: Failure, payload: Values) -> ModelError:
        """The error that an answer means, in one line that never holds the key.

        A `CallRejected` does not name the address either: it is written to the run's files.
        """
        answer = self.cleaned(answer)
        answered = "answered 200 with an error" if answer.inside else f"answered {answer.status}"
        if answer.message:
            answered += f": {answer.message[:300]}"
        there, row = f"{self.endpoint} {answered}", f"the server {answered}"
        match meaning_of(answer, payload):
            case "filtered":
                return CallRejected("content_filter", row)
            case "too_long":
                return CallRejected("too_long", row)
            case "firewall":  # it refuses single prompts like this; if it refuses all, the driver ends the run
                return CallRejected("model_error", f"{row}; a firewall before the server?")
            case "refused":
                return CallRejected("model_error", row)
            case "busy" | "loading" as meaning:
                return ModelBusy(there, answer.retry_after, loading=meaning == "loading")
            case "fault":
                return ModelFault(there, answer.retry_after, reached=True)
            case "key":
                return AuthenticationFailed(f"{self.spec}: {there}; {self._key_advice}")
            case "model":
                problem = f"{self.spec}: no model {self.name!r}: {there}; check the model's name"
                return UnknownModel(f"{problem}, or {path_advice(self._base, self.version)}")
            case "path":
                return UnknownModel(f"{self.spec}: {there}; {path_advice(self._base, self.version)}")
            case "credit":
                problem = f"{self.spec}: out of credit: {there}"
                return ModelStopped(f"{problem}; top up the account and run the same command again")
            case "proxy":
                return ModelStopped(f"{there}; the proxy wants a name and a password in HTTP_PROXY or HTTPS_PROXY")
            case "setting":
                return FieldRefused(f"{self.spec}: {there}; {way_out(answer, payload)}")

    def cleaned(self, answer: Failure) -> Failure:
        """An error without secrets."""
        return replace(answer, said=tuple(map(self._secrets.message, answer.said)))

    @property
    def spec(self) -> str:
        """As people name it."""
        return f"{self.provider}:{self.name}"

    @property
    def hidden(self) -> int:
        """Answers of this session that held a secret of the connection, which was left out."""
        return self._secrets.found
