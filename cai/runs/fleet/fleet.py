"""Plays a run in several processes: a worker for each shard, some at a time, and at the end their rows are joined."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cai.calls.feed import FINISH_WITHIN
from cai.disk.locks import LOCK, is_in_use, lock_folder, missing_folders, unmake
from cai.errors import BudgetReached
from cai.export.export import cut_again
from cai.folder.info import INTERRUPTED, find_info, read_info
from cai.folder.run import RunFolder
from cai.folder.shards.join import TOTALS, join
from cai.folder.shards.layout import SHARDS, shards_in
from cai.models.serving.shared import is_started_here, lent_servers
from cai.records import Record, Values
from cai.runs.fleet.actors import Actors, environment_of
from cai.runs.fleet.hub import Hub, Standing, standings
from cai.runs.fleet.job import Job, check, marked, settings_of, shares
from cai.runs.fleet.processes import Processes
from cai.runs.run import Run

log = logging.getLogger("cai")
PATIENCE = 20.0  # seconds in which a worker of a killed command must have ended
TICK = 0.1  # seconds between two looks at its folder
TAKEN = 64  # rows whose taking is said at once


class Workers(Protocol):
    """What starts and hears workers."""

    inbox: asyncio.Queue[tuple[int, Values]]  # what workers say, with the numbers of their shards; `died` last

    async def open(self, workers: int | None) -> int:
        """How many workers there are at a time, of so many that are wanted."""

    async def launch(self, number: int, job: Job) -> None:
        """Start the worker of a shard."""

    def post(self, number: int, message: Values) -> None:
        """Send a message to the worker of a shard."""

    async def close(self) -> None:
        """End all workers, and what was started for them."""


class Fleet:
    """The workers of a run while it is played."""

    def __init__(self, run: Run[Any], workers: Workers, shards: list[Standing], size: int, job: Values) -> None:
        self._run, self._workers, self._job = run, workers, job
        self.hub = Hub(run, shards, workers.post)
        self._shares = shares(run, size)
        self._waiting = deque(range(len(shards)))
        self._playing: dict[int, int] = {}  # the place of each shard that is played
        self._taken: dict[int, int] = {}
        self._is_stopping = False

    async def rows(self) -> AsyncGenerator[Record, None]:
        """The rows that workers hand over, until all have ended."""
        while True:
            while self._has_room():
                number = self._waiting.popleft()
                self._playing[number] = min(set(range(len(self._shares))) - set(self._playing.values()))
                self.hub.begin(number)
                await self._launch(number, is_again=False)
            if not self._playing:
                return
            number, message = await self._workers.inbox.get()
            for row in await self._hear(number, message):
                yield row
                self._took(number)

    def _has_room(self) -> bool:
        is_wanted = self._waiting and not self._is_stopping and self.hub.error is None
        return bool(is_wanted) and len(self._playing) < len(self._shares)

    async def _launch(self, number: int, *, is_again: bool) -> None:
        folder = self.hub.shards[number].folder
        until = time.monotonic() + PATIENCE
        while is_in_use(folder) and time.monotonic() < until:  # by a worker whose command was killed
            await asyncio.sleep(TICK)
        share = self._shares[self._playing[number]]
        settings = settings_of(self._run, f"{number}/{len(self.hub.shards)}", share, is_again=is_again)
        await self._workers.launch(number, Job(self._run.make, settings, **self._job))

    async def _hear(self, number: int, message: Values) -> list[Any]:
        """Take what a worker says; the rows that it hands over, or had not yet when it died."""
        rows: list[Any] = []
        if message.keys() & {"died", "reborn"} and self._job["sends_rows"]:
            rows += self.hub.left(number)
        if "reborn" in message and not self.hub.died(number, "Ray has started it again"):
            self._workers.post(number, {"stop": True})
        if "died" in message:
            await self._died(number, message["died"])
        row = self.hub.hear(number, message)
        if row is not None:
            rows.append(row)
        if self.hub.error is not None and not self._is_stopping:
            self._end_soon()
        return rows

    async def _died(self, number: int, how: str) -> None:
        is_over = self.hub.shards[number].is_over or self._is_stopping
        if not is_over and self.hub.died(number, how):
            await self._launch(number, is_again=True)
        else:
            self._playing.pop(number, None)

    def _took(self, number: int) -> None:
        self._taken[number] = self._taken.get(number, 0) + 1
        if self._taken[number] >= TAKEN:
            self._workers.post(number, {"taken": self._taken.pop(number)})

    def _end_soon(self) -> None:
        """Stop all workers after an error of one of them; at the cap they come to it by themselves."""
        if isinstance(self.hub.error, BudgetReached):
            asyncio.get_running_loop().call_later(FINISH_WITHIN, self.stop)
        else:
            self.stop()

    def stop(self) -> None:
        """Have all workers stop as at Ctrl-C."""
        self._is_stopping = True
        for number in self._playing:
            self._workers.post(number, {"stop": True})

    async def end(self) -> None:
        """Wait until all have stopped."""
        if self._playing:
            self.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_WITHIN):
                    async for _ in self.rows():
                        pass


def divide(run: Run[Any], *, sends_rows: bool = False) -> None:
    """Have workers play a run if its settings say so; sends_rows: its rows are wanted here, besides their counts."""
    if not run.settings.is_divided:
        return
    if run.part_of is not None and run.shard is None:
        if shards_in(run.part_of):  # workers have played it with the run whose part it is
            run.crew = _cut_only
        return
    check(run)
    run.crew = partial(play, sends_rows=sends_rows)


async def play(run: Run[Any], *, sends_rows: bool) -> AsyncGenerator[Any, None]:
    """The rows of a run that workers play, as they finish; at the end they are joined and cut.

    Raises what ended a worker; what was finished is kept.
    """
    settings = run.settings
    if settings.workers == 1 and settings.ray is None and not shards_in(run.out):
        run.crew = None
        async with aclosing(run.rows()) as own:
            async for row in own:
                yield row
        return
    began = time.monotonic()
    run.stopped = INTERRUPTED
    run.tally.waiting = "starting the workers"
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(run.out))
        workers: Workers = Processes() if settings.ray is None else Actors(settings.ray)
        stack.push_async_callback(workers.close)
        size = await workers.open(settings.workers)
        stack.enter_context(_terminated_as_interrupted())
        shards = standings(run, size)
        job: Values = {"sends_rows": sends_rows, "level": log.getEffectiveLevel(), "command": run.command_line}
        if settings.ray is None:
            job["servers"] = await stack.enter_async_context(_lent_servers(run))
        else:
            job["mark"] = stack.enter_context(marked(run.out))
            job["environment"] = environment_of(run.models)
        fleet = Fleet(run, workers, shards, min(size, len(shards)), job)
        try:
            async with aclosing(fleet.rows()) as rows:
                async for row in rows:
                    yield row
        finally:
            await fleet.end()
            run.info = _sum(shards, time.monotonic() - began)
    if fleet.hub.error is not None:
        run.stopped = str(fleet.hub.error)
        raise fleet.hub.error
    run.stopped = None
    await asyncio.to_thread(_join, run)
    run.info = {**run.info, "seconds": round(time.monotonic() - began, 3)}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock of the whole run's folder, while its shards are played; a new folder goes again if nothing was asked."""
    made = missing_folders(folder)
    try:
        with lock_folder(folder, lambda: None):
            yield
    finally:
        if made and not shards_in(folder):
            with suppress(OSError):
                (folder / SHARDS).rmdir()
            unmake(made, (LOCK,))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM end this process as Ctrl-C does, so that it waits for its workers."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@asynccontextmanager
async def _lent_servers(run: Run[Any]) -> AsyncIterator[Mapping[str, Values]]:
    """The servers of models that have one of their own, which this process starts for all workers."""
    models = [model for model in run.models if is_started_here(model)]
    if models:
        run.tally.waiting = "loading the model"
    try:
        for model in models:
            await model.start()
        yield lent_servers()
    finally:
        for model in models:
            await model.close()


def _sum(shards: Sequence[Standing], seconds: float) -> Values:
    """What the shards have come to so far, as run.json has it; nothing if none has begun."""
    infos = list(filter(None, (find_info(shard.folder) for shard in shards)))
    if not infos:
        return Values()
    usage, dropped, hidden = Counter[str](), Counter[str](), Counter[str]()
    for info in infos:
        usage.update(info["usage"])
        dropped.update(info["dropped"])
        hidden.update({name: info.get(name, 0) for name in TOTALS})
    costs = [info["cost_usd"] for info in infos]
    cost = None if None in costs else sum(costs)
    rows = sum(info["rows"] for info in infos)
    sums: Values = {"rows": rows, "dropped": dropped, "usage": usage, "cost_usd": cost, "seconds": seconds, **hidden}
    return {**infos[0], **sums}


def _join(run: Run[Any]) -> None:
    """Join the rows of all shards in the run's own folder, and cut them."""
    join(run.out)
    run.info = read_info(run.out, "run the same command again")
    if run.cuts:
        _cut(run)


async def _cut_only(run: Run[Any]) -> AsyncGenerator[Any, None]:
    """Cut the rows of a run that has been joined with that whose part it is."""
    await asyncio.to_thread(_cut, run)
    if False:  # which makes it a generator
        yield


def _cut(run: Run[Any]) -> None:
    with closing(RunFolder(run.out, run.identity)) as folder:
        run.cut = cut_again(folder, run.cut_options())
        run.info = folder.info
    run.stopped = None
    run.also_cut()
