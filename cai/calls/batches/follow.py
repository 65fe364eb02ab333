"""One batch on its way: uploaded, created, looked at until it is over, its answers handed out, its files deleted.

Every step is on disk before the next one depends on it, so that a kill between any two leads to no second batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cai.calls.batches.desk import Desk
from cai.calls.batches.service import Instead, Standing
from cai.calls.batches.spool import spool_path
from cai.calls.limits import backoff
from cai.errors import CallRejected, ModelBusy, ModelError, ModelFault, ModelStopped, ServerDown
from cai.folder.journal.batches import CLEARED, COLLECTED, OPEN, Batch
from cai.texts.wording import counted

T = TypeVar("T")
POLL = (1.0, 60.0)  # seconds between two looks at a batch: at first, and once it has taken long
POLL_GROWTH = 1.3
LIST_AGAIN = 60.0  # seconds until a batch that is not listed counts as never created
CROWDED_WAIT = 60.0  # seconds until calls are sent again of which too many were waiting at the provider
PATIENCE = 300.0  # seconds in which the provider does not answer until the run stops
REFUSALS = 5  # times that a batch is refused whose file was uploaded just before, and may not be known everywhere
AT_ONCE = 256  # answers that are read ahead of their flows


@dataclass(slots=True)
class Course:
    """A batch that is followed; keys: of its calls by place. is_new: this session has made it."""

    batch: Batch
    keys: list[bytes]
    is_new: bool
    is_cancelled: bool = False
    is_ending: bool = False  # it is over, and its answers are being taken


class Follower:
    """Follows batches for a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._service = desk.service
        self._under_way: set[int] = set()  # batches that the provider has
        self._one = asyncio.Lock()  # one at a time is sent while too much waits at the provider

    async def follow(self, course: Course) -> None:
        """See a batch through; returns at once if nobody wants what it has left."""
        try:
            await self._follow(course)
        finally:
            self._under_way.discard(course.batch.id)

    async def _follow(self, course: Course) -> None:
        batch = course.batch
        if batch.state == OPEN and batch.name is None:
            await self._launch(course)
        self._under_way.add(batch.id)
        if batch.state == OPEN:
            standing = await self._watch(course)
            if standing.problem:
                await self._refused(course, standing)
            else:
                await self._collect(course, standing)
        if batch.state == COLLECTED:
            course.is_ending = True
            await self._clear(course)

    # Launching

    async def _launch(self, course: Course) -> None:
        """Upload and create a batch, or find what an earlier session did of that."""
        batch = course.batch
        path = spool_path(self._desk.folder, batch.nonce)
        if not batch.file and not path.exists():  # somebody has removed it
            self._give_back(course, Instead.LATER)
            return
        if self._desk.is_crowded:
            await self._room(batch)
        self._under_way.add(batch.id)
        if batch.file is None:
            batch.file = await self._patiently(lambda: self._service.upload(path, batch, again=not course.is_new))
            self._note(batch)
        elif not course.is_new:
            batch.name = await self._find(batch, waits=True)
        if batch.name is None:
            batch.name = await self._create(course, path)
        self._note(batch)
        path.unlink(missing_ok=True)

    async def _create(self, course: Course, path: Path) -> str:
        """Create a batch once: after an answer that was lost it is looked for before it is created again."""
        refusals = 0
        began = time.monotonic()
        while True:
            try:
                return await self._service.create(path, course.batch)
            except ModelBusy as error:
                await self._pause(error, 1, began)
            except ModelFault as error:
                await self._pause(error, 1, began)
                found = await self._find(course.batch, waits=error.reached)
                if found is not None:
                    return found
            except CallRejected as error:
                refusals += 1
                if refusals >= REFUSALS:
                    raise ModelStopped(f"the provider refuses a batch: {error}; leave out --batch") from error
                await asyncio.sleep(backoff(refusals, ModelFault("")))

    async def _find(self, batch: Batch, *, waits: bool) -> str | None:
        """The name of a batch that may have been created; lists may lag behind."""
        found = await self._patiently(lambda: self._service.find(batch))
        if found is None and waits:
            await asyncio.sleep(LIST_AGAIN)
            found = await self._patiently(lambda: self._service.find(batch))
        return found

    async def _room(self, batch: Batch) -> None:
        """Wait until no other batch is under way."""
        async with self._one:
            while self._under_way:
                await asyncio.sleep(POLL[0])
            self._under_way.add(batch.id)

    def _note(self, batch: Batch) -> None:
        self._desk.journal.note(batch)
        self._desk.store.flush()

    # Waiting

    async def _watch(self, course: Course) -> Standing:
        """Look at a batch until it is over; one that takes too long is cancelled, so that no call is paid twice."""
        batch = course.batch
        assert batch.name is not None
        name = batch.name
        deadline = self._desk.deadline(batch)
        pause = POLL[0]
        while True:
            standing = await self._patiently(lambda: self._service.look(name))
            if standing.is_over:
                return standing
            if time.time() >= deadline and not course.is_cancelled:
                course.is_cancelled = True
                with suppress(CallRejected, ModelStopped):  # it goes on, then, until it is over
                    await self._patiently(lambda: self._service.cancel(name))
            self._desk.tally.waiting = (
                f"wave {batch.wave}: batch of {counted(batch.calls, 'call')}, {standing.done:,} done"
            )
            left = deadline - time.time()
            await asyncio.sleep(min(pause, left) if left > 0 else pause)
            pause = min(POLL[1], pause * POLL_GROWTH)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the provider says, once it says something."""
        attempt = 0
        while True:
            try:
                return await ask()
            except (ModelBusy, ModelFault) as error:
                if not attempt:
                    began = time.monotonic()
                attempt += 1
                await self._pause(error, attempt, began)

    async def _pause(self, error: ModelBusy | ModelFault, attempt: int, began: float) -> None:
        """Wait before the provider is asked again; raises ServerDown if it has not answered for long."""
        if time.monotonic() - began > PATIENCE:
            advice = "its batches go on; run the same command again later"
            raise ServerDown(f"{error}; nothing else for {PATIENCE:.0f} s: {advice}") from error
        await asyncio.sleep(backoff(attempt, ModelFault(str(error), error.retry_after)))

    # What comes of it

    async def _refused(self, course: Course, standing: Standing) -> None:
        """A batch of which nothing was asked: too much waits there, or its file is not what the provider wants."""
        desk, batch = self._desk, course.batch
        if not standing.crowded:
            self._settle(course, course.keys)
            raise ModelStopped(
                f"the provider refuses a batch of {counted(batch.calls, 'call')}: {standing.problem}; "
                "fix that, or leave out --batch, and run the same command again"
            )
        others = len(self._under_way) > 1
        outcome = Instead.LATER
        if batch.calls == 1 and not others:
            outcome = Instead.ONLINE
        desk.is_crowded = True
        desk.most = max(1, min(desk.most, (batch.calls + 1) // 2))
        desk.tally.throttled += 1
        if not others:
            await asyncio.sleep(CROWDED_WAIT)
        self._give_back(course, outcome)

    def _give_back(self, course: Course, outcome: Instead) -> None:
        """Have the calls of a batch asked in another way."""
        self._settle(course, course.keys)
        for key in course.keys:
            self._desk.give(key, outcome)

    async def _collect(self, course: Course, standing: Standing) -> None:
        """Hand out the answers, until nobody waits for one."""
        desk, batch = self._desk, course.batch
        course.is_ending = True
        instead = Instead.ONLINE if time.time() >= desk.deadline(batch) else Instead.MISSING
        while True:
            answered: dict[int, bool] = {}  # by place: whether somebody took it
            with desk.live.busy():  # the flows that go on wait for the others, so that all are one wave again
                await self._patiently(partial(self._hand_out, course, standing, answered))
                lost = [key for place, key in enumerate(course.keys) if place not in answered]
                for key in lost:
                    desk.give(key, instead)
                await self._kept()
            taken = [course.keys[place] for place, is_taken in answered.items() if is_taken]
            self._settle(course, [*lost, *taken])
            if not desk.is_wanted(desk.journal.unsettled(batch)):
                return

    async def _hand_out(self, course: Course, standing: Standing, answered: dict[int, bool]) -> None:
        """Read the results; those that were handed out before a download broke off are not handed out again."""
        batch = course.batch
        assert batch.name is not None
        count = 0
        async with aclosing(self._service.items(batch.name, standing)) as results:
            async for name, item in results:
                place = self._service.place(batch.nonce, name)
                if place is None or place >= len(course.keys) or place in answered or item is None:
                    continue
                answered[place] = self._desk.give(course.keys[place], item)
                count += 1
                if count % AT_ONCE == 0:
                    await self._desk.taken(AT_ONCE)

    async def _kept(self) -> None:
        """Returns once every answer that was handed out is on disk."""
        await self._desk.taken()
        await self._desk.store.committed()

    def _settle(self, course: Course, keys: Sequence[bytes]) -> None:
        """Note that a batch has nothing more for some calls; one that has nothing for any is collected."""
        desk, batch = self._desk, course.batch
        desk.journal.fail(batch, keys)
        desk.forget(keys)
        if not desk.journal.unsettled(batch):
            batch.state = COLLECTED
        self._note(batch)

    async def _clear(self, course: Course) -> None:
        """Delete the files at the provider: it keeps what cannot be deleted for a month at most."""
        batch = course.batch
        if batch.name is not None:
            name = batch.name
            with suppress(ModelError):
                await self._service.delete(batch, await self._service.look(name))
        batch.state = CLEARED
        self._note(batch)
