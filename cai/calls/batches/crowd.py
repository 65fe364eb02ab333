"""Plays very many flows at once, nearly all of which wait for a batch: one that waits has no task until it resumes.

Where a task and its coroutines take 2 KB, and what a flow has said many more, this takes about 1 KB for an item.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from cai.calls.feed import FINISH_WITHIN, Feed
from cai.calls.live import Live, Pause
from cai.errors import RunError

R = TypeVar("R")
ACTIVE = 256  # flows that do something until no new one is begun


@dataclass
class Crowd(Generic[R]):
    """`play` for every item of a feed, up to `flows` at a time; passes: whether there is nothing to play of an item."""

    feed: Feed[Any]
    play: Callable[[Any], Awaitable[R | Pause[R]]]
    flows: int
    passes: Callable[[Any], bool]
    live: Live

    def __post_init__(self) -> None:
        self._results: asyncio.Queue[R | None] = asyncio.Queue()
        self._news = asyncio.Event()  # something has ended, or is to go on
        self._active: set[asyncio.Future[Any]] = set()
        self._parked = 0
        self._error: BaseException | None = None  # the first

    async def results(self) -> AsyncGenerator[R, None]:
        """What the items come to, as they finish.

        An error is raised after the results that are on their way; what waits for a batch then is left alone.
        """
        playing = asyncio.ensure_future(self._play_all())
        try:
            while (result := await self._results.get()) is not None:
                yield result
            await playing
        finally:
            self.feed.close()
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    async def _play_all(self) -> None:
        try:
            with self.live.busy():
                await self._begin_all()
            while self._error is None and (self._active or self._parked):
                await self._change()
            if self._error is not None:
                await self._finish()
                raise self._error
        finally:
            left = list(self._active)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._results.put_nowait(None)

    async def _begin_all(self) -> None:
        while self._error is None:
            if len(self._active) >= ACTIVE or len(self._active) + self._parked >= self.flows:
                with self.live.waiting():
                    await self._change()
                continue
            try:
                item = await self.feed.get()
            except StopAsyncIteration:
                return
            if not self.passes(item):
                self._begin(self.play(item))
                await asyncio.sleep(0)  # it takes its names before a later item of another shard does

    async def _change(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _finish(self) -> None:
        """After an error give calls in flight a while to come back; after a RunError no answer could be kept."""
        self.feed.close()
        if self._active and not isinstance(self._error, RunError):
            await asyncio.wait(self._active, timeout=FINISH_WITHIN)

    def _begin(self, playing: Awaitable[R | Pause[R]]) -> None:
        task = asyncio.ensure_future(playing)
        self._active.add(task)
        self.live.count([task])
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._active.discard(task)
        self._news.set()
        if task.cancelled():
            return
        self._error = self._error or task.exception()
        if task.exception() is not None:
            return
        result = task.result()
        if isinstance(result, Pause):
            self._parked += 1
            result.arrival.add_done_callback(partial(self._resume, result.resume))
        else:
            self._results.put_nowait(result)

    def _resume(self, resume: Callable[[], Awaitable[R | Pause[R]]], arrival: asyncio.Future[None]) -> None:
        self._parked -= 1
        self._news.set()
        if self._error is None:
            self._begin(resume())
