"""Plays very many flows at once, nearly all of which wait for a batch: one that waits has no task until it resumes.

Where a task and its coroutines take 2 KB, and what a flow has said many more, this takes about 1 KB for an item.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from cai.calls.feed import FINISH_WITHIN, Feed
from cai.calls.live import Live, Pause
from cai.errors import RunError

T = TypeVar("T")
R = TypeVar("R")
ACTIVE = 256  # flows that do something until no new one is begun


async def play_crowd(
    feed: Feed[T],
    play: Callable[[T], Coroutine[Any, Any, R | Pause[R]]],
    flows: int,
    passes: Callable[[T], bool],
    live: Live,
) -> AsyncGenerator[R, None]:
    """`play` every item of a feed, up to `flows` at a time, and give back the results as they finish.

    passes: whether there is nothing to play of an item. An error is raised after the results still on their way; what
    waits for a batch then is left alone.
    """
    crowd = _Crowd(feed, play, flows, passes, live)
    playing = asyncio.ensure_future(crowd.play_all())
    try:
        while (result := await crowd.results.get()) is not None:
            crowd.news.set()
            yield result
        await playing
    finally:
        feed.close()
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


class _Crowd(Generic[T, R]):
    def __init__(
        self,
        feed: Feed[T],
        play: Callable[[T], Coroutine[Any, Any, R | Pause[R]]],
        flows: int,
        passes: Callable[[T], bool],
        live: Live,
    ) -> None:
        self._feed, self._play, self._flows, self._passes, self._live = feed, play, flows, passes, live
        self.results: asyncio.Queue[R | None] = asyncio.Queue()
        self.news = asyncio.Event()  # something has ended, or is read
        self._active: set[asyncio.Future[R | Pause[R]]] = set()
        self._parked = 0
        self._error: BaseException | None = None  # the first

    async def play_all(self) -> None:
        """See all items through; raises the first error."""
        try:
            with self._live.busy():
                await self._begin_all()
            while (self._active or self._parked) and self._error is None:
                await self._change()
            if self._error is not None:
                await self._finish()
                raise self._error
        finally:
            left = list(self._active)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self.results.put_nowait(None)

    async def _begin_all(self) -> None:
        while self._error is None:
            while not self._has_room():
                with self._live.waiting():
                    await self._change()
            try:
                item = await self._feed.get()
            except StopAsyncIteration:
                return
            if not self._passes(item):
                self._begin(self._play(item))

    def _has_room(self) -> bool:
        if self._error is not None:
            return True
        is_full = len(self._active) >= ACTIVE or len(self._active) + self._parked >= self._flows
        return not is_full and self.results.qsize() < 2 * ACTIVE

    async def _change(self) -> None:
        self.news.clear()
        await self.news.wait()

    async def _finish(self) -> None:
        """After an error give calls in flight a while to come back; after a RunError no answer could be kept."""
        self._feed.close()
        if self._active and not isinstance(self._error, RunError):
            await asyncio.wait(self._active, timeout=FINISH_WITHIN)

    def _begin(self, playing: Awaitable[R | Pause[R]]) -> None:
        task = asyncio.ensure_future(playing)
        self._active.add(task)
        self._live.add(1)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[R | Pause[R]]) -> None:
        self._active.discard(task)
        self._live.add(-1)
        self.news.set()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._error = self._error or error
            return
        result = task.result()
        if isinstance(result, Pause):
            self._parked += 1
            result.arrival.add_done_callback(partial(self._arrived, result.resume))
        else:
            self.results.put_nowait(result)

    def _arrived(self, resume: Callable[[], Awaitable[R | Pause[R]]], arrival: asyncio.Future[None]) -> None:
        self._parked -= 1
        self.news.set()
        error = arrival.exception()
        if self._error is None and error is None:
            self._begin(resume())
        else:
            self._error = self._error or error
