"""Flows that wait for somebody else: whether all do, and what is left of one that waits for a batch.

Such a flow is given up, and played again from the journal once something has come for it. So it takes its item and a
key, whatever has been said in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cai.errors import RowDropped

T = TypeVar("T")

# Turns of the event loop in which nothing changes until all count as waiting: a flow whose answer is there wakes one to
# three turns later.
QUIET_TURNS = 5


class Live:
    """Counts those who can ask something more before another answer comes, and says when there are none.

    A worker counts until it ends, so that a source which is still read counts, too.
    """

    def __init__(self) -> None:
        self._busy = 0
        self._turns = 0  # without a change
        self._is_watched = False
        self._calls: list[Callable[[], object]] = []

    def on_quiet(self, call: Callable[[], object]) -> None:
        """Have `call` called whenever all have come to wait."""
        self._calls.append(call)

    def add(self, count: int) -> None:
        """Count so many more, or fewer."""
        self._busy += count
        self._turns = 0
        if self._busy <= 0 and self._calls and not self._is_watched:
            self._is_watched = True
            asyncio.get_running_loop().call_soon(self._watch)

    def _watch(self) -> None:
        self._turns += 1
        if self._busy > 0:
            self._is_watched = False
        elif self._turns < QUIET_TURNS:
            asyncio.get_running_loop().call_soon(self._watch)
        else:
            self._is_watched = False
            for call in self._calls:
                call()

    def count(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        """Count tasks, each until it is done."""
        self.add(len(tasks))
        for task in tasks:
            task.add_done_callback(lambda _: self.add(-1))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count one for a while."""
        self.add(1)
        try:
            yield
        finally:
            self.add(-1)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Do not count one for a while, which waits for what others do."""
        self.add(-1)
        try:
            yield
        finally:
            self.add(1)

    @contextmanager
    def apart(self, tasks: Sequence[asyncio.Future[Any]]) -> Iterator[None]:
        """Count tasks in place of the one that awaits them."""
        self.count(tasks)
        with self.waiting():
            yield


class Parked(Exception):
    """A flow cannot go on before there is an answer; waits: batches, and the keys of the calls that they answer."""

    def __init__(self, waits: Sequence[tuple[Any, bytes]]) -> None:
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
