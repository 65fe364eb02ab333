"""Whether every flow that is played waits for somebody else: then what they wait for can be sent as one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
        self.again: set[int] = set()  # ages of the flows that are played again after a wait

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
