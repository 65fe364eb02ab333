"""Between blocking iterators and an event loop: `Feed` brings items into one, `in_thread` brings rows out of one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

READ_AHEAD = 64  # items read before anyone wants them; each can be megabytes
# The reader is let on for so many items at once: waking its thread for each would cost 0.1 ms a row, most of it because
# SQLite lets go of the interpreter's lock at every statement and then waits for the reader to give it back.
LUMP = 32


class Feed(Generic[T]):
    """Reads a blocking iterator in a thread of its own, a little ahead, so that a slow source never holds the loop."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._ready: deque[T] = deque()
        self._room = threading.Semaphore(READ_AHEAD)
        self._taken = 0  # items taken since the reader was let on
        self._loop = asyncio.get_running_loop()
        self._hungry: list[asyncio.Future[None]] = []
        self._over = False
        self._closed = False
        self._error: BaseException | None = None
        # Started by the first `get`: a feed that is never used leaves no thread behind.
        self._reader: threading.Thread | None = None

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.append(item)
                self._tell()
                self._room.acquire()
                if self._closed:
                    return
        except BaseException as error:
            self._error = error
        self._over = True
        self._tell()

    def _tell(self) -> None:
        if self._hungry:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for future in self._hungry:
            if not future.done():
                future.set_result(None)
        self._hungry.clear()

    async def first(self) -> None:
        """Wait for the first item and leave it there; raises what the source raised before it had one."""
        with suppress(StopAsyncIteration):
            self._ready.appendleft(await self.get())

    async def get(self) -> T:
        """The next item; raises StopAsyncIteration at the end or once closed, or what the source raised."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="cai-source", daemon=True)
            self._reader.start()
        while not self._closed:
            over = self._over  # looked at before `_ready`: the last item comes before the end
            if self._ready:
                self._taken += 1
                if self._taken == LUMP:
                    self._taken = 0
                    self._room.release(LUMP)
                return self._ready.popleft()
            if over:
                if self._error is not None:
                    raise self._error
                break
            future = self._loop.create_future()
            self._hungry.append(future)
            # The reader may have added an item, or ended, before it could see this future.
            if not (self._ready or self._over):
                await future
        raise StopAsyncIteration

    def close(self) -> None:
        """Let the reader and everyone who waits go; a reader that is inside a slow source goes when that answers."""
        self._closed = True
        self._wake()
        self._room.release()


def in_thread(make: Callable[[], AsyncGenerator[R, None]]) -> Generator[R, None, None]:
    """An async generator as a plain one, played by a loop in a thread of its own; rows wait in a short queue."""
    rows: queue.Queue[tuple[R | None, BaseException | None]] = queue.Queue(64)
    stopped = threading.Event()
    playing: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def put(row: R | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return rows.put_nowait((row, error))
            except queue.Full:  # the consumer takes its time
                await asyncio.sleep(0.01)

    async def play() -> None:
        task = asyncio.current_task()
        assert task is not None
        playing.append((asyncio.get_running_loop(), task))
        try:
            if not stopped.is_set():
                async with aclosing(make()) as source:
                    async for row in source:
                        await put(row, None)
        except BaseException as raised:
            await put(None, raised)
        else:
            await put(None, None)

    thread = threading.Thread(target=lambda: asyncio.run(play()), name="cai-run", daemon=True)
    thread.start()
    try:
        while True:
            row, error = rows.get()
            if row is None:
                if error is not None:
                    raise error
                return
            yield row
    finally:
        stopped.set()
        for loop, task in playing:
            with suppress(RuntimeError):  # the loop is closed: it has ended by itself
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
