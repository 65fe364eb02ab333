"""The log-probabilities that a model of ours gives to replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cai.calls.model import Call
from cai.models import open_model
from cai.records import Message, Request, Sampling

USERS = ["Where is the old mill?", "Add 12345 and 678, please.\n\nThanks!", "Wie heißt der Fluß? 日本"]
REPLIES = (" A", "B", "Past the river, at no. 42.", "I'm sorry, I can't help with that.")


def scores(
    spec: str, users: Sequence[str] = USERS, replies: tuple[str, ...] = REPLIES, *, system: str | None = None
) -> Any:
    """The log-probabilities that a model of ours gives these replies to each user."""
    import torch

    async def play() -> list[Any]:
        model = open_model(spec)
        await model.start()
        try:
            before: tuple[Message, ...] = ({"role": "system", "content": system},) if system is not None else ()
            messages: list[Message] = [{"role": "user", "content": text} for text in users]
            calls = [Call(Request("judge", (*before, one), score=replies), "r", 0, 0, Sampling()) for one in messages]
            return [(await model.send(model.payload(call))).scores for call in calls]
        finally:
            await model.close()

    return torch.tensor(asyncio.run(play()))
