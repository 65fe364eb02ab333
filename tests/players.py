"""Models for tests of whole runs: answers by a function of what was asked, in an order that is not that of asking."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from cai.calls.model import Call
from cai.records import Abilities, Completion


def digits(*parts: object) -> int:
    """A number that depends on these alone."""
    return int(hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12], 16)


class Player:
    """A model that answers by `answer`, sooner or later; `asked` counts what it was sent."""

    provider = "recorded"  # costs nothing
    context: int | None = None
    concurrency = 8

    def __init__(
        self, answer: Callable[[dict[str, Any]], Completion], name: str = "player", *, seeds: bool = False, **can: Any
    ) -> None:
        self.answer, self.name, self.endpoint = answer, name, name
        self.can, self.seeds = Abilities(**can), seeds
        self.asked: Counter[str] = Counter()

    def payload(self, call: Call) -> dict[str, Any]:
        """All that was asked; of the seed and the number of the sample only what such a model would be sent."""
        request = call.request
        asked: dict[str, Any] = {
            "messages": list(request.messages), "text": request.text, "prefill": request.prefill,
            "score": list(request.score), "top_logprobs": request.top_logprobs,
            "max_tokens": request.max_tokens or call.sampling.max_tokens,
            "temperature": call.sampling.temperature if request.temperature is None else request.temperature,
        }  # fmt: skip
        return asked | ({"seed": call.seed} if self.seeds else {})

    async def start(self) -> None:
        """Nothing to load."""

    async def send(self, payload: dict[str, Any]) -> Completion:
        """The answer, after a few turns of the loop."""
        self.asked[repr(payload)] += 1
        for _ in range(digits(payload) % 7):
            await asyncio.sleep(0)
        return self.answer(payload)

    async def close(self) -> None:
        """Nothing to let go."""
