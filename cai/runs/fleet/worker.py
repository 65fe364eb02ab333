"""Plays one shard of a run for a process that started this one, and says how it goes.

What it says are JSON objects of one key: `begin` and `lease`, about money, `status`, `log`, `row` and, last, `end`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import fields
from typing import Any

from cai.calls.leases.budget import LeasedBudget
from cai.calls.live import Live
from cai.calls.prices import Tally
from cai.errors import CaiError
from cai.records import Object, Record, Values
from cai.runs.fleet.job import Job
from cai.runs.run import Run

log = logging.getLogger("cai")
TICK = 0.25  # seconds between two reports
AHEAD = 256  # rows that are sent before one is taken
STOPPED = "stopped"  # stands for the class of the error that ended it
FIGURES = [each.name for each in fields(Tally) if each.name != "waiting"]


class _Notes(logging.Handler):
    """Sends log messages to who started the worker."""

    def __init__(self, say: Callable[[Values], object]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say({"log": [record.levelno, record.getMessage()]})


class Worker:
    """One shard that is played; say: sends a message, from any thread. Lives on one event loop."""

    def __init__(self, job: Job, say: Callable[[Values], object]) -> None:
        self._job, self._say = job, say
        self._budget: LeasedBudget | None = None
        self._untaken = 0  # rows
        self._taken = asyncio.Event()
        self._playing: asyncio.Task[Any] | None = None
        self._is_stopped = False
        self._parts: list[Run[Any]] = []  # that have begun; the first is the run itself

    async def play(self) -> None:
        """Play the shard to its end, or until it is stopped; says how it ended."""
        self._playing = asyncio.current_task()
        notes = _Notes(self._say)
        log.setLevel(self._job.level)
        log.propagate = False
        log.addHandler(notes)
        try:
            self._say({"end": await self._end()})
        finally:
            log.removeHandler(notes)

    async def _end(self) -> Values:
        """Play; how it ended."""
        end: Values = {"error": None, "example": None}
        try:
            await self._through()
        except CaiError as error:
            end["error"] = [type(error).__name__, str(error)]
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
            end["error"] = [STOPPED, ""]
        if self._parts:
            self._tell()
            example = self._parts[0].example
            end["example"] = None if example is None else example.model_dump_json()
        return end

    async def _through(self) -> None:
        """Play all that the shard's run takes."""
        run = self._job.run()
        ticking = asyncio.create_task(self._report())
        try:
            for part in run.sessions():
                self._parts.append(part)
                part.lease = self._lease
                async with aclosing(part.rows()) as rows:
                    async for row in rows:
                        if part is run:
                            await self._send(row)
                self._close_budget()
        finally:
            ticking.cancel()
            self._close_budget()

    def _close_budget(self) -> None:
        if self._budget is not None:
            self._budget.close()
            self._budget = None

    def hear(self, message: Object) -> None:
        """Take what is said to the worker."""
        if "stop" in message:
            self.stop()
        elif "taken" in message:
            self._untaken -= message["taken"]
            self._taken.set()
        elif self._budget is not None:
            self._budget.hear(message["lease"])

    def stop(self) -> None:
        """Stop as at Ctrl-C: what was finished is kept."""
        if self._playing is not None and not self._is_stopped:
            self._is_stopped = True
            self._playing.cancel()

    def _lease(self, cap: float, spent: float, live: Live) -> LeasedBudget:
        self._say({"begin": spent})
        self._budget = LeasedBudget(cap, lambda message: self._say({"lease": message}), live)
        return self._budget

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            if self._parts:
                self._tell()

    def _tell(self) -> None:
        """Say how far the run is, and what its parts took together."""
        if self._budget is not None:
            self._budget.report()
        run = self._parts[0]
        tally = Counter[str]()
        for part in self._parts:
            tally.update({name: getattr(part.tally, name) for name in FIGURES})
        counts = {"read": run.read, "skipped": run.skipped, "finished": run.finished, "dropped": run.dropped}
        self._say({"status": {**counts, "tally": tally, "waiting": self._parts[-1].tally.waiting}})

    async def _send(self, row: Record) -> None:
        """Hand over a row; waits while too many are not taken."""
        if not self._job.sends_rows:
            return
        self._untaken += 1
        self._say({"row": row.model_dump_json()})
        while self._untaken >= AHEAD:
            self._taken.clear()
            await self._taken.wait()
