"""One session of a run: plays every item, and keeps what comes out in a run folder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cai.calls.again import journals_of
from cai.calls.batches.crowd import Crowd
from cai.calls.batches.waves import Batches
from cai.calls.earlier import OtherRun
from cai.calls.feed import Again, Feed, play_many
from cai.calls.flow import Driver
from cai.calls.live import Live, play_through
from cai.calls.model import secrets_hidden
from cai.calls.prices import Budget, Tally
from cai.errors import CaiError, RunError, SourceError, Unreadable
from cai.export.export import CUTS, cut_again
from cai.folder.info import INTERRUPTED, seen_from
from cai.folder.run import RunFolder
from cai.records import Place, Values
from cai.runs.batching import FLOWS, close_batches, open_batches
from cai.runs.items import Items
from cai.runs.kind import Row
from cai.runs.resume.follow import follow, is_through
from cai.runs.seating import known_cost, most_in_flight, seated
from cai.texts.wording import none_usable, plural, telling

log = logging.getLogger("cai")


class Session(Items[Row]):
    """What is played and counted; nothing is asked or written before `rows` is read, once.

    cuts: whether training rows are cut at the end. also_cut: called after that. sharing: folders of other runs whose
    cost counts towards the cap. stopped: why the run is not finished. lease: makes the budget from the cap, and what
    was spent before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.command_line: str | None = None  # of items that are in memory
        self.part_of: Path | None = None  # the folder of the command that plays it, if that is another
        self.cuts = self.command in CUTS
        self.also_cut: Callable[[], None] = lambda: None
        self.sharing: Sequence[Path] = ()
        self.lease: Callable[[float, float, Live], Budget] = Budget
        self.tally = Tally()
        self._batches: dict[int, Batches] = {}  # by the ids of their models
        self.budget: Budget | None = None  # once the run has begun, if its cost is capped
        self.info: Values = {}  # of run.json
        self.stopped: str | None = None
        self.resumable = True
        self.asked: list[str] = []
        self.example: Row | None = None  # a row to show
        self._telling: tuple[bool, bool, bool, float] | None = None  # how well it shows what the run does
        self.cut: Any = None  # the ExportSummary of the cut at the end
        self._began = 0.0  # of all sessions together
        self._others: list[OtherRun] = []  # whose answers are used
        self._hidden = 0  # answers of earlier sessions that held a secret
        self._once: Again[Place] | None = None  # the items of a source that can be read only once

    def be_part_of(self, folder: Path, command: str | None) -> None:
        """Say whose part this run is: that of a command which plays several, and of its folder."""
        self.part_of, self.command_line = folder, command

    async def rows(self) -> AsyncGenerator[Row, None]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError if the run cannot continue; what was finished is kept.
        """
        self.tally.waiting = f"reading the {plural(self.unit)}"
        with closing(Feed(self.items())) as first:
            await first.first()  # a source that holds nothing leaves no folder behind
            with self._folder() as folder:
                await follow(self, folder)
                is_read = is_through(self, folder)
                if self._once is not None:
                    self._once.release()
                error: CaiError | None = None
                try:
                    self.tally.waiting = "loading the model"
                    drivers = await self.begin(folder)
                    with self.live.busy():
                        await play_through(partial(self.prepare, drivers), self.live)
                    self.tally.waiting = ""
                    feed: Feed[Place] | None = first
                    if is_read:
                        self.read = self.skipped = self.total or 0
                        feed = self._next(folder, drivers)
                    while feed is not None:
                        async with aclosing(self._played(folder, drivers, feed)) as played:
                            async for rows in played:
                                for row in rows:
                                    yield self._finished(row)
                        feed = self._next(folder, drivers)
                    if not self.finished:
                        drivers[0].roles.check()
                    if self._unusable is not None and not self.may_be_unusable:
                        raise SourceError(none_usable(self.read, self._unusable.line, self._unusable.problem))
                    self.stopped = None
                except CaiError as stop:
                    error = stop
                    self.stopped = str(stop)
                    raise
                finally:
                    await self._end(folder, error)

    def _played(self, folder: RunFolder, drivers: list[Driver], feed: Feed[Place]) -> AsyncGenerator[list[Row], None]:
        """What becomes of the items of a feed."""
        play, passes = partial(self._play, folder, drivers, feed), partial(self._passes, folder)
        if self.settings.batch:
            return Crowd(feed, play, FLOWS, passes, self.live).results()
        at_once: Any = play  # nothing waits for a batch
        return play_many(feed, at_once, most_in_flight(drivers), passes, self.live)

    @contextmanager
    def _folder(self) -> Iterator[RunFolder]:
        """The folder, and the journals of other runs."""
        settings = self.settings
        with (
            journals_of(settings.reused, self.out) as self._others,
            closing(RunFolder(self.out, self.identity, force=settings.force, retried=settings.retried)) as folder,
        ):
            yield folder

    def finish(self) -> None:
        """Play the session to its end; what was finished before an error is kept and cut."""

        async def through() -> None:
            async with aclosing(self.rows()) as rows:
                async for _ in rows:
                    pass

        asyncio.run(through())

    async def begin(self, folder: RunFolder) -> list[Driver]:
        """Start the models; what plays the flows, for each seat. Seats share a limiter if they share a model."""
        self.stopped = INTERRUPTED
        self._began = time.monotonic() - folder.info.get("seconds", 0.0)
        self._hidden = folder.info.get("secrets_hidden", 0)
        self._write_info(folder)
        for model in self.models:
            await model.start()
        self.check_models()
        settings = self.settings
        if settings.max_cost is not None:
            spent = sum(map(known_cost, (folder.path, *self.sharing)))
            self.budget = self.lease(settings.max_cost, spent, self.live)
        self._batches = open_batches(folder, self.models, settings, self.identity, self.live, self.tally)
        common: Values = {"budget": self.budget, "tally": self.tally, "live": self.live, "others": self._others}
        return seated(self, folder, self._batches, common)

    def _next(self, folder: RunFolder, drivers: list[Driver]) -> Feed[Place] | None:
        """The items that failed in an earlier session, once all others are through; then what comes up after that.

        Their failing again does not end a run of which other rows were finished.
        """
        failed, self._failed = self._failed, {}
        self._retries = bool(failed)
        is_lenient = self._retries and folder.counts()["rows"] > 0
        for driver in drivers:
            for seat in driver.seats.values():
                seat.limiter.lenient = is_lenient
            if driver.earlier is not None:
                driver.earlier.anew = self.settings.retried if failed else ()
        return Feed(failed.items()) if failed else self.more()

    def _finished(self, row: Row) -> Row:
        self.finished += 1
        self.show(row)
        return row

    def show(self, row: Row) -> None:
        """Make a row the example, if it shows better than the present one what the run does."""
        rank = telling(*self.texts(row))
        if self._telling is None or rank > self._telling:
            self.example, self._telling = row, rank

    async def _end(self, folder: RunFolder, error: CaiError | None) -> None:
        self.resumable = not isinstance(error, Unreadable | SourceError)
        await close_batches(folder, self._batches)
        for model in self.models:
            await model.close()
        if isinstance(error, RunError):
            self.info = {}  # that of the start, whose counts are no longer true
        else:
            self._write_info(folder)
            if self.cuts and self.stopped != INTERRUPTED:
                self._cut(folder, error)
            if error is not None:
                folder.unmake()

    def _cut(self, folder: RunFolder, error: CaiError | None) -> None:
        """Cut training rows; after an error, those that there are."""
        folder.settle()
        try:
            if error is None or self.info["rows"]:
                self.cut = cut_again(folder, self.cut_options())
                self.also_cut()
        except CaiError as second:
            if error is None:
                raise
            log.warning("training rows were not cut: %s", second)  # why the run stopped matters more
        self.info = folder.info

    def _typed(self, folder: RunFolder) -> Values:
        """The command, and where it was typed: the last one, which may ask for more; None: of Python."""
        if self.command_line is None and "started_in" in folder.info:
            return {name: folder.info.get(name) for name in ("command", "started_in")}
        return {"command": self.command_line, "started_in": seen_from(folder.path, Path())}

    def _write_info(self, folder: RunFolder) -> None:
        usage = folder.store.spent()._asdict()
        cost = usage.pop("cost_usd")
        hidden = self._hidden + secrets_hidden(self.models)
        more: Values = {name: usage.pop(name) for name in ("ended_unknown", "reused")}
        more |= {"secrets_hidden": hidden, "asked": self.asked, "shard": str(self.shard or "")}
        more["part_of"] = "" if self.part_of is None else seen_from(folder.path, self.part_of)
        self.info = folder.write_info(
            stopped=self.stopped,  # why the run is not finished; null when it is
            usage=usage,
            cost_usd=cost,
            seconds=round(time.monotonic() - self._began, 3),
            settings=self.settings.changeable(),
            **self._typed(folder),
            **{name: count for name, count in more.items() if count},
        )
