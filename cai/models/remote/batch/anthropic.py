"""Batches of Anthropic's `/v1/messages/batches`, which hold their calls and need no file.

They have no metadata: a batch whose name was never heard is known by the names of its calls, which show once it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from cai.calls.batches.service import Frame, Item, Standing
from cai.folder.journal.batches import Batch
from cai.models.remote.batch.wire import CLOCKS_APART, READ, Gone, Wire, body_of
from cai.models.remote.envelope import known
from cai.records import Values

PATH = "/v1/messages/batches"
RAW = "X-Stainless-Raw-Response"  # asks the SDK for an answer whose body is not read yet
LOOK_AGAIN = 10.0  # seconds between two looks at a batch that may be ours
STATUSES = {  # of HTTP, by the type of an error
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "overloaded_error": 529,
}  # fmt: skip


class AnthropicBatches(Wire):
    """The batches of a Claude model."""

    package, cursor = "anthropic", "after_id"
    most_calls = 100_000
    most_bytes = 256 * 10**6
    frame = Frame(b'{"requests":[', b",", b"]}")

    @property
    def batches(self) -> Any:
        """What the SDK asks about batches."""
        return self.client.messages.batches.with_streaming_response

    def endpoint(self, payload: Values) -> str | None:
        """The path of a call."""
        return "/v1/messages"

    def named(self, nonce: str, place: int, endpoint: str, payload: Values) -> Values:
        """A call with its name."""
        return {"custom_id": f"{nonce[:8]}-{place}", "params": payload}

    def place(self, nonce: str, name: str) -> int | None:
        """The place of a call by its name."""
        ours, _, place = name.partition("-")
        return int(place) if ours == nonce[:8] and place.isdecimal() and place.isascii() else None

    async def upload(self, path: Path, batch: Batch, *, again: bool) -> str:
        """Nothing is uploaded beforehand."""
        return ""

    async def create(self, path: Path, batch: Batch) -> str:
        """Create a batch with all of its calls, which are read as they are sent: the SDK's own way holds them all."""
        headers = {"Content-Type": "application/json", "Content-Length": str(path.stat().st_size)}
        with open(path, "rb") as file:
            sent = self._asked("post", PATH, headers, content=_parts(file))
            return str((await self.json(sent))["id"])

    @asynccontextmanager
    async def _asked(self, method: str, path: str, headers: dict[str, str], **sent: Any) -> AsyncIterator[Any]:
        """A request to a path; its answer is not read yet."""
        options = {"headers": {RAW: "stream", **headers}}
        response = await getattr(self.client, method)(path, cast_to=object, options=options, **sent)
        try:
            yield response
        finally:
            await response.close()

    async def find(self, batch: Batch) -> str | None:
        """The batch with our calls among those of the same size made since; one that goes on is waited for."""
        for name in [name async for name in self._candidates(batch)]:
            while not (standing := await self.look(name)).is_over:
                await asyncio.sleep(LOOK_AGAIN)
            async with aclosing(self.items(name, standing)) as results:
                async for first, _ in results:
                    if self.place(batch.nonce, first) is not None:
                        return name
                    break
        return None

    async def _candidates(self, batch: Batch) -> AsyncIterator[str]:
        async for listed in self.listed(self.batches):
            if _time(listed.get("created_at")) < batch.created_at - CLOCKS_APART:
                return
            if _total(listed) == batch.calls:
                yield str(listed["id"])

    def standing(self, batch: Values) -> Standing:
        """How far a batch is."""
        counts = known(batch.get("request_counts"))
        waiting = counts.get("processing")
        done = _total(batch) - (waiting if type(waiting) is int else 0)
        is_over = batch.get("processing_status") == "ended"
        return Standing(is_over, done, files=("results",) if is_over else ())

    async def items(self, name: str, standing: Standing) -> AsyncGenerator[tuple[str, Item | None]]:
        """The results, asked for at the model's own address: `results_url` may name a host whose key this is not."""
        if standing.files:
            with suppress(Gone):
                async for line in self.lines(self._asked("get", f"{PATH}/{name}/results", {})):
                    yield str(line.get("custom_id")), _item(known(line.get("result")))

    async def delete(self, batch: Batch, standing: Standing) -> None:
        """Delete a batch with its results, which are kept for 29 days otherwise."""
        with suppress(Gone):
            await self.json(self.batches.delete(batch.name))


async def _parts(file: IO[bytes]) -> AsyncIterator[bytes]:
    """What a file holds, as it is read."""
    while part := file.read(READ):
        yield part


def _item(result: Values) -> Item | None:
    """What a result says of its call."""
    if result.get("type") == "succeeded":
        return Item(200, body_of(result.get("message")))
    if result.get("type") != "errored":
        return None
    outer = known(result.get("error"))
    inner = known(outer.get("error")) or outer
    return Item(STATUSES.get(str(inner.get("type")), 500), body_of({"type": "error", "error": inner}))


def _total(batch: Values) -> int:
    """How many calls a batch has."""
    return sum(count for count in known(batch.get("request_counts")).values() if type(count) is int)


def _time(text: object) -> float:
    """A time as unix time; 0 if it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
