"""Items on their way through workers: read a little ahead of them, and played a few at a time."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from cai.calls.live import Live
from cai.errors import RunError

T = TypeVar("T")
R = TypeVar("R")
FINISH_WITHIN = 60.0  # seconds that calls in flight get to come back once the run has to stop
READ_AHEAD = 128  # items read before anyone wants them; each can be megabytes
# The reader may read so many items more at once: waking its thread for each would cost 0.1 ms a row, most of it because
# SQLite lets go of the interpreter's lock at every statement and then waits for the reader to give it back.
LUMP = 32
GATHER = 0.001  # seconds in which items gather once all are taken: to wake for each costs more than to read it


class Feed(Generic[T]):
    """Reads a blocking iterator in a thread of its own, a little ahead, so that a slow source never holds the loop."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._ready: deque[T] = deque()
        self._taken = 0
        self._room = threading.Semaphore(READ_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()  # another item, the end, or closed
        self._turn = asyncio.Lock()  # one waits for news: to wake all for each item costs more than to read it
        self._end: BaseException | None = None  # what `get` raises once all items are taken
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="cai-source", daemon=True)

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.append(item)
                self._tell()
                self._room.acquire()
                if self._closed:
                    return
            self._end = StopAsyncIteration()
        except BaseException as error:
            self._end = error
        self._tell()

    def _tell(self) -> None:
        if not self._news.is_set():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._news.set)

    async def first(self) -> None:
        """Wait for the first item without taking it; raises what the source raised before it had one."""
        with suppress(StopAsyncIteration):
            self._ready.appendleft(await self.get())

    async def get(self) -> T:
        """The next item; raises StopAsyncIteration at the end or once closed, or what the source raised."""
        if self._reader.ident is None:  # a feed that is never used leaves no thread behind
            self._reader.start()
        while not self._closed:
            end = self._end  # read before `_ready`: the last item comes before the end
            if self._ready:
                self._taken += 1
                if self._taken % LUMP == 0:
                    self._room.release(LUMP)
                return self._ready.popleft()
            if end is not None:
                raise end
            async with self._turn:
                self._news.clear()
                # The reader may have added an item, or ended, before it could see that there is no news; `close`, too.
                if not (self._ready or self._end or self._closed):
                    await self._news.wait()
                    await asyncio.sleep(GATHER)
        raise StopAsyncIteration

    def close(self) -> None:
        """Release the reader and everyone who waits; a reader inside a slow source ends when the source answers."""
        self._closed = True
        self._news.set()
        self._room.release()


class Again(Generic[T]):
    """The items of an iterator for several readers, each from the first; kept until `release`.

    After that there may be one reader. May be read from several threads.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._kept: list[Any] = []
        self._is_released = False
        self._lock = threading.Lock()

    def release(self) -> None:
        """Keep nothing more. Does not wait for a reader, who may be waiting for the next item."""
        self._is_released = True

    def __iter__(self) -> Iterator[T]:
        place = 0
        while place < len(self._kept) or self._read(place):
            item = self._kept[place]
            if self._is_released:
                self._kept[place] = None  # its place, of 8 bytes, stays
            place += 1
            yield item

    def _read(self, place: int) -> bool:
        """Read an item more, unless another reader has done so; whether there is one."""
        with self._lock:
            if place == len(self._kept):
                self._kept += itertools.islice(self._items, 1)
            return place < len(self._kept)


async def play_many(
    feed: Feed[T],
    play: Callable[[T], Awaitable[R]],
    workers: int,
    passes: Callable[[T], bool] = lambda item: False,
    live: Live | None = None,
) -> AsyncGenerator[R, None]:
    """`play` every item of a feed, `workers` at a time, and give back the results as they finish.

    passes: whether there is nothing to play of an item, which then has no result; a run that is opened again may have a
    million of those. A worker takes a new item only when its last one is finished. No item is started while twice as
    many results wait for the consumer as there are workers, nor after an error, which is raised after the results still
    on their way. live: counts the workers.
    """
    done: asyncio.Queue[R | None] = asyncio.Queue()
    room = asyncio.Event()  # not a Semaphore: its `acquire` looks at everyone who waits

    async def work() -> None:
        while True:
            while done.qsize() >= 2 * workers:
                room.clear()
                await room.wait()
            try:
                item = await feed.get()
            except StopAsyncIteration:
                return
            if not passes(item):
                done.put_nowait(await play(item))

    tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
    if live is not None:
        live.count(tasks)
    watcher = asyncio.ensure_future(_finish(feed, tasks))
    watcher.add_done_callback(lambda _: done.put_nowait(None))
    try:
        while (result := await done.get()) is not None:
            if done.qsize() == workers:  # half empty
                room.set()
            yield result
        for task in tasks:
            if not task.cancelled():
                task.result()
    finally:
        feed.close()
        for task in (watcher, *tasks):
            task.cancel()
        await asyncio.gather(watcher, *tasks, return_exceptions=True)


async def _finish(feed: Feed[T], tasks: list[asyncio.Task[None]]) -> None:
    """Wait for all workers; after a first error give calls in flight a while to come back, then cancel."""
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    feed.close()
    # After a RunError no answer could be kept.
    if pending and not any(isinstance(task.exception(), RunError) for task in tasks if task.done()):
        _, pending = await asyncio.wait(pending, timeout=FINISH_WITHIN)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
