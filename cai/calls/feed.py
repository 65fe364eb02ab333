"""Brings the items of a blocking iterator into an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

READ_AHEAD = 64  # items read before anyone wants them; each can be megabytes
# The reader may read so many items more at once: waking its thread for each would cost 0.1 ms a row, most of it because
# SQLite lets go of the interpreter's lock at every statement and then waits for the reader to give it back.
LUMP = 32


class Feed(Generic[T]):
    """Reads a blocking iterator in a thread of its own, a little ahead, so that a slow source never holds the loop."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._ready: deque[T] = deque()
        self._taken = 0
        self._room = threading.Semaphore(READ_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()  # another item, the end, or closed
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
        """Wait for the first item and leave it there; raises what the source raised before it had one."""
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
            self._news.clear()
            # The reader may have added an item, or ended, before it could see that there is no news.
            if not self._ready and self._end is None:
                await self._news.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        """Let the reader and everyone who waits go; a reader that is inside a slow source goes when that answers."""
        self._closed = True
        self._news.set()
        self._room.release()
