"""What the batches of all providers share: JSON about batches, files in lines, and their failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from cai.calls.batches.service import Item
from cai.errors import CallRejected
from cai.models.remote.anthropic import AnthropicModel
from cai.models.remote.bodies import read_body
from cai.models.remote.failures import loads, read_error
from cai.models.remote.openai import OpenAIModel
from cai.models.remote.transport import CONNECT
from cai.records import Completion, Values

CLOCKS_APART = 300.0  # seconds by which a provider's clock may be behind ours
LONGEST_LINE = 64 * 2**20  # bytes; a line of results is one answer
READ = 2**16  # bytes at once


class Gone(CallRejected):
    """What was asked about is not there."""


class Wire:
    """Asks about batches through the session of a model; run: what names the run at the provider."""

    def __init__(self, model: OpenAIModel | AnthropicModel, timeout: float, run: str) -> None:
        self.model, self.run = model, run
        # A file may take long, but not fall silent.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=timeout)

    async def json(self, method: str, path: str, **sent: Any) -> Values:
        """The JSON object of an answer; everything else raises a ModelError."""
        async with self.model.exchange(method, path, timeout=self._timeout, **sent) as response:
            raw, _ = await read_body(response)
            self._check(response, raw)
        try:
            found = loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.model.odd("something else than a JSON object")
        return found

    async def lines(self, path: str) -> AsyncIterator[Values]:
        """The JSON objects in the lines of a file; lines that are none are left out."""
        async with self.model.exchange("GET", path, timeout=self._timeout) as response:
            if response.status != 200:
                raw, _ = await read_body(response)
                self._check(response, raw)
            rest = b""
            async for part in response.content.iter_chunked(READ):
                *whole, rest = (rest + part).split(b"\n")
                for line in filter(None, map(_object, whole)):
                    yield line
                if len(rest) > LONGEST_LINE:
                    raise self.model.odd("a line that does not end")
        last = _object(rest)
        if last:
            yield last

    def _check(self, response: aiohttp.ClientResponse, raw: bytes) -> None:
        if response.status == 404:
            failure = read_error(404, response.headers, raw)
            raise Gone("model_error", f"the server answered 404: {failure.message[:300]}")
        if not 200 <= response.status < 300:
            raise self.model.error(read_error(response.status, response.headers, raw), {})

    def read(self, payload: Values, item: Item) -> Completion:
        """The answer to a call, or the error that it is."""
        return self.model.answer_in(item.status, item.body, payload, self.model.reader(payload))


def _object(line: bytes) -> Values:
    """The object that a line holds; empty if it holds none."""
    try:
        found = loads(line) if line.strip() else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def body_of(value: Any) -> bytes:
    """The bytes of a body that came inside a line."""
    return orjson.dumps(value)
