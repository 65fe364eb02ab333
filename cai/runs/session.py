"""A job in progress: plays every item of a source against models, and keeps what comes out in a run folder.

What an item is and how it is played is its `task`'s. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Generic, TypeVar

from cai.calls.feed import Feed
from cai.calls.flow import Driver, Seat, play_many
from cai.calls.limits import Limiter, Tally
from cai.calls.prices import Budget
from cai.errors import CaiError, RowDropped, RunError, SourceError, Unreadable
from cai.folder.run import RunFolder
from cai.records import BadPrompt, Drop, Item, Place, Record
from cai.runs.run import Setup

log = logging.getLogger("cai")
Row = TypeVar("Row", bound=Record)


class Job(Generic[Row]):
    """A run in progress: iterate `rows()` once; `tally`, `read`, `finished` and `dropped` tell how it goes."""

    def __init__(self, setup: Setup[Row], folder: Path, *, spent: float = 0.0) -> None:
        self.setup, self.folder = setup, folder
        self.task = setup.task()
        self.tally = Tally()
        self.read = self.skipped = 0  # items read; those that an earlier session had finished
        self.finished = 0
        self.dropped: dict[str, int] = {}
        self._first_bad: BadPrompt | None = None
        self._bad_read = 0  # records that are none
        self.info: dict[str, Any] = {}
        self.stopped: str | None = None  # why the run ended early
        self.can_go_on = True  # by the same command
        self.began = time.monotonic()
        self._spent = spent  # USD that count towards the cap and went before this run
        self._seconds_before = 0.0
        self.example: Row | None = None  # a row to show
        self.cut: Any = None  # what the cut at its end came to, an export.ExportSummary

    async def rows(self) -> AsyncGenerator[Row, None]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError where the run cannot go on; what was finished is kept.
        """
        feed = Feed(self.task.places())
        try:
            await feed.first()  # a source that holds nothing leaves no folder behind
            force = self.setup.settings.force
            run = RunFolder(self.folder, self.setup.identity, self.task.rows_file, force=force)
            async with aclosing(self._rows(run, feed)) as rows:
                async for row in rows:
                    yield row
        finally:
            feed.close()

    async def _rows(self, run: RunFolder, feed: Feed[Place]) -> AsyncGenerator[Row, None]:
        models = self.setup.models
        writable = True
        self.stopped = "interrupted"
        self._seconds_before = run.info.get("seconds", 0.0)
        try:
            self._write_info(run)
            for model in models:
                await model.start()
            self.setup.check_models()
            drivers = self._drivers(run)
            self.task.open(run)
            async with aclosing(self._played(run, drivers, feed)) as rows:
                async for row in rows:
                    yield row
            self._check_usable()
            self.stopped = None
        except CaiError as error:
            self.stopped = str(error)
            self.can_go_on = not isinstance(error, Unreadable | SourceError)
            writable = not isinstance(error, RunError)
            raise
        finally:
            try:
                for model in models:
                    await model.close()
                if writable:
                    self._write_info(run)
            finally:
                run.close()

    def _check_usable(self) -> None:
        """Raises SourceError where nothing that was read could be used."""
        if self._first_bad is not None and self.read == self._bad_read:
            what = f"none of {self.read:,} records can be used" if self.read > 1 else "its one record cannot be used"
            raise SourceError(f"{what}; line {self._first_bad.line}: {self._first_bad.problem}")

    async def _played(self, run: RunFolder, drivers: list[Driver], feed: Feed[Place]) -> AsyncGenerator[Row, None]:
        """The rows of a feed, and of those that come up after it."""
        workers = max(seat.limiter.concurrency for driver in drivers for seat in driver.seats.values())

        async def play(place: Place) -> list[Row]:
            if self.task.enough(place[0]):
                now.close()
                return []
            return await self._play(run, drivers, *place)

        now = feed
        while True:
            async with aclosing(play_many(now, play, workers)) as played:
                async for made in played:
                    for row in made:
                        self.finished += 1
                        self.example = self.better_example(row)
                        yield row
            further = self.task.more(run)
            if further is None:
                return
            now = Feed(further)

    def better_example(self, row: Row) -> Row:
        """Which of the example so far and a new row shows better what the run does."""
        if self.example is None or telling(*self.task.texts(row)) > telling(*self.task.texts(self.example)):
            return row
        return self.example

    def _drivers(self, run: RunFolder) -> list[Driver]:
        """One for each way to fill the roles; seats share a limiter where they share a model."""
        settings, limiters = self.setup.settings, dict[int, Limiter]()
        spent = run.store.spent().cost_usd
        budget = None
        if settings.max_cost is not None:
            if spent is None:
                raise RunError(f"--max-cost cannot hold: {self.folder} has calls of no known price; name another --out")
            budget = Budget(settings.max_cost, spent=spent + self._spent)
        for model in self.setup.models:
            concurrency = settings.concurrency or model.concurrency
            limiters[id(model)] = Limiter(concurrency, settings.rpm, settings.tpm, self.tally)
        drivers = []
        for number, seats in enumerate(self.setup.seats):
            sampling, seed = self.setup.sampling_of(number)
            taken = {
                role: Seat(model, limiters[id(model)], sampling, self.setup.price_of(model))
                for role, model in seats.items()
            }
            drivers.append(Driver(taken, run.store, seed=seed, budget=budget, tally=self.tally))
        return drivers

    async def _play(self, run: RunFolder, drivers: list[Driver], position: int, item: Item) -> list[Row]:
        """One item to its row, or to its place among the dropped."""
        self.read += 1
        pending: Drop | bool
        if isinstance(item, BadPrompt):
            pending = run.pending_bad(position) and bad_input(item, position)
            self._first_bad = self._first_bad or item
            self._bad_read += 1
        else:
            pending = run.pending(item, position)
        if isinstance(pending, Drop):
            await self._drop(run, pending)
        elif not pending:
            self.skipped += 1
        elif not isinstance(item, BadPrompt):
            try:
                row = await self.task.play(drivers, item, position)
            except RowDropped as error:
                await self._drop(run, run.dropped(item, position, error.stage, error.reason, error.detail))
            else:
                await run.keep(row, position, item)
                self.task.kept(row)
                return [row]
        return []

    async def _drop(self, run: RunFolder, drop: Drop) -> None:
        self.dropped[drop.reason] = self.dropped.get(drop.reason, 0) + 1
        await run.drop(drop)
        log.debug("dropped %s (%s): %s", drop.id, drop.reason, drop.detail)

    def _write_info(self, run: RunFolder) -> None:
        usage = run.store.spent()._asdict()
        cost = usage.pop("cost_usd")
        self.info = run.write_info(
            stopped=self.stopped,  # why the run is not finished; null when it is
            usage=usage,
            cost_usd=cost,
            seconds=round(self._seconds_before + time.monotonic() - self.began, 3),
            settings=self.setup.settings.changeable(),
        )


SHOWN = 600  # characters; the longest text that makes a good example to show


def telling(before: str, after: str) -> tuple[bool, bool, float]:
    """How well a row with these texts shows what a job does: they differ, are short, and share many words."""
    changed, short = before != after, len(before) + len(after) <= 2 * SHOWN
    if not (changed and short):
        return changed, short, 0.0
    old, new = set(before.split()), set(after.split())
    return changed, short, len(old & new) / len(old | new)


def bad_input(item: BadPrompt, position: int) -> Drop:
    """The record of an input that holds nothing to play."""
    return Drop(id=None, position=position, stage="source", reason=item.reason, detail=item.problem, line=item.line)
