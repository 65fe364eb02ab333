"""Flows that wait for a batch: they are given up, and played again from the journal once something has come for them.

So a flow that waits takes its item and a key, whatever has been said in it: 50,000 take 0.1 GB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cai.calls.live import Live
from cai.calls.model import Batching
from cai.errors import RowDropped

T = TypeVar("T")


class Parked(Exception):
    """A flow cannot go on before there is an answer; waits: to which calls, and which batches may have them."""

    def __init__(self, waits: Sequence[tuple[Batching, bytes]]) -> None:
        super().__init__("waits for a batch")
        self.waits = waits

    def arrival(self) -> asyncio.Future[None]:
        """Done as soon as there is an answer to one of the calls, or why there will be none.

        Await it outside of the `except`: the error holds all that the flow was made of.
        """
        arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for batches, key in self.waits:
            batches.tell(key, arrival)
        return arrival


@dataclass(frozen=True, slots=True)
class Pause(Generic[T]):
    """What is left of a flow that waits: when it can go on, and how it is played again."""

    arrival: asyncio.Future[None]
    resume: Callable[[], Coroutine[Any, Any, T | Pause[T]]]


def foremost(errors: Sequence[BaseException]) -> BaseException:
    """The error that counts of those of one flow: first what ends the run, then a wait, at last what drops the row."""
    error = min(errors, key=lambda error: 2 * isinstance(error, RowDropped) + isinstance(error, Parked))
    if isinstance(error, Parked):
        return Parked([wait for each in errors if isinstance(each, Parked) for wait in each.waits])
    return error


async def play_through(play: Callable[[], Awaitable[T]], live: Live) -> T:
    """Play until there is nothing to wait for."""
    while True:
        try:
            return await play()
        except Parked as parked:
            arrival = parked.arrival()
        with live.waiting():
            await arrival
