"""What the batches of all providers share: JSON about batches, files in lines, and their failures, through an SDK."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, ClassVar

import orjson
from yarl import URL

from cai.calls.batches.service import Item, Standing
from cai.errors import CallRejected, ModelError
from cai.models.remote.anthropic import AnthropicModel
from cai.models.remote.batch.sdk import open_client
from cai.models.remote.failures import loads, read_error
from cai.models.remote.openai import OpenAIModel
from cai.models.remote.transport import CONNECT, is_unreached, sdk_words
from cai.records import Completion, Values

CLOCKS_APART = 7500.0  # seconds by which a provider's clock may be behind ours: an hour that is wrong, and then some
LONGEST_LINE = 64 * 2**20  # bytes; a line of results is one answer
READ = 2**16  # bytes at once
PAGE = 100
Response = AbstractAsyncContextManager[Any]  # of an SDK, whose body is not read yet


class Gone(CallRejected):
    """What was asked about is not there."""


class Wire:
    """Asks about batches as a model that was started would; run: what names the run at the provider."""

    package: ClassVar[str]  # the SDK
    cursor: ClassVar[str]  # with what a page of a list is asked for: the last entry before it
    batches: Any  # what the SDK asks about batches
    named: Callable[[str, int, str, Values], Values]  # a call with its name
    standing: Callable[[Values], Standing]  # how far a batch is

    def __init__(self, model: OpenAIModel | AnthropicModel, timeout: float, run: str) -> None:
        self.model, self.run = model, run
        self._timeout = timeout
        self._opened: tuple[Any, Any] | None = None

    @property
    def client(self) -> Any:
        """The client of the SDK."""
        return self._open()[0]

    def _open(self) -> tuple[Any, Any]:
        if self._opened is None:
            assert self.model.access is not None, "batches before the start of their model"
            self._opened = open_client(self.package, self.model.access, self._timeout)
        return self._opened

    async def close(self) -> None:
        """Close the connections."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened[0].close()

    def line(self, nonce: str, place: int, endpoint: str, payload: Values) -> bytes:
        """A call as a line of a file."""
        try:
            return orjson.dumps(self.named(nonce, place, endpoint, payload))
        except orjson.JSONEncodeError as error:
            raise CallRejected("model_error", f"the request cannot be written as JSON: {error}") from None

    async def look(self, name: str) -> Standing:
        """How far a batch is."""
        try:
            return self.standing(await self.json(self.batches.retrieve(name)))
        except Gone:
            return Standing(is_over=True)

    async def cancel(self, name: str) -> bool:
        """Have a batch end early; False: it was over already. Raises ModelError if the provider refuses."""
        try:
            await self.json(self.batches.cancel(name))
        except CallRejected:
            if not (await self.look(name)).is_over:
                raise
            return False
        return True

    async def listed(self, kind: Any, **query: str) -> AsyncIterator[Values]:
        """What a list holds, the newest first, page by page."""
        while True:
            page = await self.json(kind.list(limit=PAGE, **query))
            entries = [entry for entry in page.get("data") or [] if isinstance(entry, dict) and "id" in entry]
            for entry in entries:
                yield entry
            if not entries or not page.get("has_more"):
                return
            query[self.cursor] = str(entries[-1]["id"])

    async def json(self, request: Response) -> Values:
        """The JSON object of an answer; everything else raises a ModelError."""
        with self._failures():
            async with request as response:
                raw = await response.read()
        found = _object(raw)
        if not found:
            raise self.model.odd("something else than a JSON object")
        return found

    async def lines(self, request: Response) -> AsyncIterator[Values]:
        """The JSON objects in the lines of a file; lines that are none are left out.

        The SDK's own lines would also end at U+2028 and the like, which JSON may hold.
        """
        rest = b""
        with self._failures():
            async with request as response:
                async for part in response.iter_bytes(READ):
                    *whole, rest = (rest + part).split(b"\n")
                    for line in filter(None, map(_object, whole)):
                        yield line
                    if len(rest) > LONGEST_LINE:
                        raise self.model.odd("a line that does not end")
        last = _object(rest)
        if last:
            yield last

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """See what the errors of the SDK mean; `from None`, since they hold what was sent."""
        _, http = self._open()
        sdk: Any = importlib.import_module(self.package)
        try:
            yield
        except sdk.APIStatusError as error:
            raise self._refusal(error.response) from None
        except sdk.APIConnectionError as error:
            raise self._unheard(error.__cause__ or error) from None
        except (http.HTTPError, http.StreamError) as error:  # while the body was read
            raise self._unheard(error) from None

    def _refusal(self, response: Any) -> ModelError:
        if 300 <= response.status_code < 400:
            url = URL(str(response.request.url))
            path = url.path.removeprefix(URL(self.model.endpoint).path)
            return self.model.redirected(url, response.headers, path)
        failure = read_error(response.status_code, response.headers, response.content)
        if response.status_code == 404:
            return Gone("model_error", f"the server answered 404: {self.model.cleaned(failure).message[:300]}")
        return self.model.error(failure, {})

    def _unheard(self, error: BaseException) -> ModelError:
        return self.model.unheard(sdk_words(error, self._timeout, CONNECT), reached=not is_unreached(error))

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
