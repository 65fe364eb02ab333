"""Whole jobs as iterators of rows: what the command line and Python both call.

Binds the method to models, a source and a run folder. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from cai.ask import Ask
from cai.constitution import Constitution
from cai.errors import CaiError, RowDropped, RunError
from cai.export import export_run
from cai.feed import Feed, in_thread
from cai.flow import Driver, Played, Seat, play_many
from cai.limits import Budget, Limiter, Tally
from cai.records import BadPrompt, Drop, Prompt, Revision, Role, Sampling
from cai.revise import Chain, draw_principles, revise
from cai.run import RunFolder
from cai.settings import Prompts, Setup, check_ability, make_settings, resolve

log = logging.getLogger("cai")
SHOWN = 600  # characters; the longest revision that makes a good example to show


class Job:
    """A run in progress: iterate `rows()` once; `tally`, `read`, `finished` and `dropped` tell how it goes.

    start is called with the folder before the first call.
    """

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.tally = Tally()
        self.read = self.skipped = 0  # prompts read; those that an earlier session had finished
        self.finished = 0
        self.dropped: dict[str, int] = {}
        self.info: dict[str, Any] = {}
        self.stopped: str | None = None  # why the run ended early
        self.began = time.monotonic()
        self._seconds_before = 0.0
        self.example: Revision | None = None  # a short row that changed, to show
        self._ask = Ask(setup.templates, setup.constitution, system=setup.settings.system, gate=setup.gate)
        self._principles = setup.constitution.principles_for("revise")
        self._law = setup.constitution.ref

    async def rows(self) -> AsyncGenerator[Revision, None]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError where the run cannot go on; what was finished is kept.
        """
        feed = Feed(enumerate(self.setup.source()))
        try:
            await feed.first()  # a source that holds nothing leaves no folder behind
            run = RunFolder(self.folder, self.setup.identity, "revisions.jsonl", force=self.setup.settings.force)
            async with aclosing(self._rows(run, feed)) as rows:
                async for row in rows:
                    yield row
        finally:
            feed.close()

    async def _rows(self, run: RunFolder, feed: Feed[tuple[int, Prompt | BadPrompt]]) -> AsyncGenerator[Revision, None]:
        setup = self.setup
        models = {id(model): model for model in setup.models.values()}.values()
        writable = True
        self.stopped = "interrupted"
        self._seconds_before = run.info.get("seconds", 0.0)
        try:
            self._write_info(run)
            for model in models:
                await model.start()
                check_ability(model, setup.templates)  # some know it only once they are loaded
            driver = self._driver(run)
            workers = max(seat.limiter.concurrency for seat in driver.seats.values())

            async def play(item: tuple[int, Prompt | BadPrompt]) -> list[Revision]:
                return await self._play(run, driver, *item)

            async with aclosing(play_many(feed, play, workers)) as played:
                async for made in played:
                    for row in made:
                        self.finished += 1
                        if self.example is None or _telling(row) > _telling(self.example):
                            self.example = row
                        yield row
            self.stopped = None
        except CaiError as error:
            self.stopped = str(error)
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

    def _driver(self, run: RunFolder) -> Driver:
        """Seats share a limiter where they share a model."""
        settings, limiters = self.setup.settings, dict[int, Limiter]()
        sampling = Sampling(settings.temperature, settings.max_tokens, dict(settings.extra_body))
        seats: dict[Role, Seat] = {}
        for role, model in self.setup.models.items():
            if id(model) not in limiters:
                concurrency = settings.concurrency or model.concurrency
                limiters[id(model)] = Limiter(concurrency, settings.rpm, settings.tpm, self.tally)
            seats[role] = Seat(model, limiters[id(model)], sampling, self.setup.prices[role])
        spent = run.store.spent().cost_usd
        if settings.max_cost is not None and spent is None:
            raise RunError(f"--max-cost cannot hold: {self.folder} has calls of no known price; name another --out")
        budget = Budget(settings.max_cost, spent=spent or 0.0)
        return Driver(seats, run.store, seed=settings.seed, budget=budget, tally=self.tally)

    async def _play(self, run: RunFolder, driver: Driver, position: int, item: Prompt | BadPrompt) -> list[Revision]:
        """One prompt to its row, or to its place among the dropped."""
        self.read += 1
        pending: Drop | bool
        if isinstance(item, BadPrompt):
            pending = run.pending_bad(position) and _bad_input(item, position)
        else:
            pending = run.pending(item, position)
        if isinstance(pending, Drop):
            await self._drop(run, pending)
        elif not pending:
            self.skipped += 1
        elif isinstance(item, Prompt):
            settings = self.setup.settings
            principles = draw_principles(self._principles, settings.rounds, settings.seed, item.id)
            try:
                played = await driver.play(item.id, position, revise(item, principles, self._ask, gate=self.setup.gate))
            except RowDropped as error:
                await self._drop(run, _lost(item, position, error))
            else:
                row = self._row(item, position, played)
                await run.keep(row, position, item)
                return [row]
        return []

    def _row(self, item: Prompt, position: int, played: Played[Chain]) -> Revision:
        chain = played.result
        return Revision(
            id=item.id,
            position=position,
            prompt=item.messages,
            initial=chain.initial,
            rounds=chain.rounds,
            final=chain.final,
            constitution=self._law,
            templates=self.setup.templates.hash,
            models=played.models,
            seed=self.setup.settings.seed,
            usage=played.usage,
            calls=played.calls,
        )

    async def _drop(self, run: RunFolder, drop: Drop) -> None:
        self.dropped[drop.reason] = self.dropped.get(drop.reason, 0) + 1
        await run.drop(drop)
        log.debug("dropped %s (%s): %s", drop.id, drop.reason, drop.detail)

    def _settings_info(self) -> dict[str, Any]:
        """The settings that may change on resume; headers can hold keys and are left out."""
        s = self.setup.settings
        return {"limit": s.limit, "concurrency": s.concurrency, "max_cost": s.max_cost, "rpm": s.rpm, "tpm": s.tpm}

    def _write_info(self, run: RunFolder) -> None:
        usage = run.store.spent()._asdict()
        cost = usage.pop("cost_usd")
        self.info = run.write_info(
            stopped=self.stopped,  # why the run is not finished; null when it is
            usage=usage,
            cost_usd=cost,
            seconds=round(self._seconds_before + time.monotonic() - self.began, 3),
            settings=self._settings_info(),
        )


def _telling(row: Revision) -> tuple[bool, bool, float]:
    """How well a row shows what a run does: it changed, it is short, and its word diff is not all red and green."""
    changed, short = row.initial != row.final, len(row.initial) + len(row.final) <= 2 * SHOWN
    if not (changed and short):
        return changed, short, 0.0
    before, after = set(row.initial.split()), set(row.final.split())
    return changed, short, len(before & after) / len(before | after)


def _bad_input(item: BadPrompt, position: int) -> Drop:
    return Drop(id=None, position=position, stage="source", reason=item.reason, detail=item.problem, line=item.line)


def _lost(item: Prompt, position: int, error: RowDropped) -> Drop:
    return Drop(
        id=item.id,
        position=position,
        stage=error.stage,
        reason=error.reason,
        detail=error.detail,
        prompt=item.messages,
    )


async def _finished_rows(job: Job) -> AsyncGenerator[Revision, None]:
    """The rows of a job, whose training rows are cut at the end; also when a model ends it early."""
    try:
        async with aclosing(job.rows()) as rows:
            async for row in rows:
                yield row
    except RunError:
        raise
    except CaiError:
        if job.info.get("rows"):
            try:
                export_run(job.folder, **job.info.get("export", {}))
            except RunError as second:  # why the run stopped matters more
                log.warning("training rows were not cut: %s", second)
        raise
    export_run(job.folder, **job.info.get("export", {}))


def run_job(job: Job) -> None:
    """Play a job to its end and cut its training rows; what was finished before an error is cut, too."""

    async def play() -> None:
        async with aclosing(_finished_rows(job)) as rows:
            async for _ in rows:
                pass

    asyncio.run(play())


async def agenerate(
    prompts: Prompts, constitution: str | Path | Constitution, **settings: Any
) -> AsyncGenerator[Revision, None]:
    """The asynchronous twin of `generate`; close it (`contextlib.aclosing`) where it is not read to its end."""
    async with aclosing(_rows(resolve(prompts, constitution, make_settings(settings)))) as rows:
        async for row in rows:
            yield row


def generate(prompts: Prompts, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Revision]:
    """Critique and revise every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set.
    settings: the fields of `Settings`. With `out`, rows, drops and calls are kept in that folder, and the same call
    again goes on where it stopped (rows finished before are in the folder and not repeated); without it nothing is
    kept. What can be checked is checked at once; errors of models and of a damaged source come while iterating.
    Prompts that are dropped are counted in a warning of the logger "cai". Works inside a running event loop, too.
    """
    setup = resolve(prompts, constitution, make_settings(settings))
    return in_thread(lambda: _rows(setup))


async def _rows(setup: Setup) -> AsyncGenerator[Revision, None]:
    """The rows of a Python run; without `out` its folder goes away afterwards."""
    out = setup.settings.out
    job = Job(setup, Path(tempfile.mkdtemp(prefix="cai-") if out is None else out))
    try:
        async with aclosing(job.rows() if out is None else _finished_rows(job)) as rows:
            async for row in rows:
                yield row
    finally:
        if job.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(job.dropped.items()))
            where = "name out=… to see which" if out is None else f"see {job.folder / 'dropped.jsonl'}"
            log.warning("%d of %d prompts were dropped: %s; %s", sum(job.dropped.values()), job.read, reasons, where)
        if out is None:
            shutil.rmtree(job.folder, ignore_errors=True)
