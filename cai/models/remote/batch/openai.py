"""Batches of OpenAI, Azure and those who imitate them: files of calls, `/files` and `/batches`.

A batch has metadata, by which one is found whose name was never heard.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cai.calls.batches.service import Frame, Item, Standing
from cai.folder.journal.batches import Batch
from cai.models.remote.batch.wire import CLOCKS_APART, Gone, Wire, body_of
from cai.models.remote.envelope import known
from cai.models.remote.openai import OpenAIModel
from cai.records import Values

OVER = ("completed", "failed", "expired", "cancelled")
UNANSWERED = ("batch_expired", "batch_cancelled", "batch_canceled")
CROWDED = "token_limit_exceeded"  # more tokens wait at the provider than this account may have there


class OpenAIBatches(Wire):
    """The batches of a model behind OpenAI's protocol."""

    package, cursor = "openai", "after"
    most_calls = 50_000
    most_bytes = 200 * 10**6
    frame = Frame(b"", b"\n", b"\n")

    def __init__(self, model: OpenAIModel, timeout: float, run: str) -> None:
        super().__init__(model, timeout, run)
        self._version = "" if model.preset.name == "azure" else "/v1"
        self._path_of = model.path

    @property
    def batches(self) -> Any:
        """What the SDK asks about batches."""
        return self.client.batches.with_streaming_response

    def endpoint(self, payload: Values) -> str | None:
        """The path of a call; None for typed questions, which no batch takes."""
        return None if "questions" in payload else self._version + self._path_of(payload)

    def named(self, nonce: str, place: int, endpoint: str, payload: Values) -> Values:
        """A call with its name."""
        return {"custom_id": str(place), "method": "POST", "url": endpoint, "body": payload}

    def place(self, nonce: str, name: str) -> int | None:
        """The place of a call by its name."""
        return int(name) if name.isdecimal() and name.isascii() else None

    async def upload(self, path: Path, batch: Batch, *, again: bool) -> str:
        """Upload a file, or find it."""
        name = f"cai-{batch.nonce}.jsonl"
        if again:
            async for file in self.listed(self.client.files.with_streaming_response, purpose="batch"):
                if file.get("filename") == name:
                    return str(file["id"])
        with open(path, "rb") as content:
            files = self.client.files.with_streaming_response
            # A file that is open is read as it is sent; a path would be read whole.
            sent = files.create(file=(name, content, "application/jsonl"), purpose="batch")
            return str((await self.json(sent))["id"])

    async def create(self, path: Path, batch: Batch) -> str:
        """Create a batch of an uploaded file."""
        created = self.batches.create(
            input_file_id=batch.file,
            endpoint=batch.endpoint,
            completion_window="24h",
            metadata={"cai": batch.nonce, "run": self.run},
        )
        return str((await self.json(created))["id"])

    async def find(self, batch: Batch) -> str | None:
        """The batch with this nonce among those made since."""
        async for listed in self.listed(self.batches):
            if known(listed.get("metadata")).get("cai") == batch.nonce:
                return str(listed["id"])
            if float(listed.get("created_at") or 0) < batch.created_at - CLOCKS_APART:
                break
        return None

    def standing(self, batch: Values) -> Standing:
        """How far a batch is."""
        counts = known(batch.get("request_counts"))
        done = sum(count for count in (counts.get("completed"), counts.get("failed")) if type(count) is int)
        status = batch.get("status")
        problem, is_crowded = "", False
        if status == "failed":
            errors = [known(error) for error in known(batch.get("errors")).get("data") or []]
            is_crowded = any(error.get("code") == CROWDED for error in errors)
            problem = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors[:3]) or "no reason"
        files = [batch.get(key) for key in ("output_file_id", "error_file_id")]
        return Standing(status in OVER, done, problem, is_crowded, tuple(str(file) for file in files if file))

    async def items(self, name: str, standing: Standing) -> AsyncGenerator[tuple[str, Item | None]]:
        """The lines of the file with answers, then of the one with errors."""
        for file in standing.files:
            with suppress(Gone):
                async for line in self.lines(self.client.files.with_streaming_response.content(file)):
                    yield str(line.get("custom_id")), _item(line)

    async def delete(self, batch: Batch, standing: Standing) -> None:
        """Delete what was uploaded, and the results."""
        for file in filter(None, (batch.file, *standing.files)):
            with suppress(Gone):
                await self.json(self.client.files.with_streaming_response.delete(file))


def _item(line: Values) -> Item | None:
    """What a line says of its call; an error without an answer has its code and message."""
    response, error = known(line.get("response")), known(line.get("error"))
    if response:
        status: Any = response.get("status_code")
        return Item(status if type(status) is int else 502, body_of(response.get("body")))
    if not error or error.get("code") in UNANSWERED:
        return None
    return Item(502, body_of({"error": error}))
