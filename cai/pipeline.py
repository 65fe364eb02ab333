"""Whole jobs as iterators of rows: what the command line and Python both call.

Binds the method to models, a source and a run folder. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cai.ask import Ask
from cai.constitution import Constitution
from cai.errors import CaiError, RowDropped, RunError
from cai.export import export
from cai.flow import Driver, Feed, Played, Seat, play_many
from cai.limits import Budget, Limiter, Tally
from cai.prices import known_price
from cai.records import BadPrompt, Drop, Prompt, Record, Revision, Role, Sampling
from cai.revise import Chain, draw_principles, revise
from cai.run import RunFolder
from cai.settings import Prompts, Setup, check_ability, make_settings, resolve

log = logging.getLogger("cai")
R = TypeVar("R", bound=Record)
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

    async def rows(self) -> AsyncIterator[Revision]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError where the run cannot go on; what was finished is kept.
        """
        setup = self.setup
        run = RunFolder(self.folder, setup.identity, "revisions.jsonl", force=setup.settings.force)
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

            async for made in play_many(Feed(enumerate(setup.source())), play, workers):
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
            for model in models:
                await model.close()
            if writable:
                self._write_info(run)
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
        budget = Budget(settings.max_cost, spent=self._spent(run)[1] or 0.0)
        return Driver(seats, run.store, seed=settings.seed, budget=budget, tally=self.tally)

    async def _play(self, run: RunFolder, driver: Driver, position: int, item: Prompt | BadPrompt) -> list[Revision]:
        """One prompt to its row, or to its place among the dropped."""
        self.read += 1
        pending: Drop | bool
        if isinstance(item, BadPrompt):
            pending = run.store.state(position) is None and _bad_input(item, position)
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

    def _spent(self, run: RunFolder) -> tuple[dict[str, int], float | None]:
        """Tokens of every call the folder has paid for, and their cost; None where a price is not known."""
        names = ("calls", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens")
        tokens = dict.fromkeys(names, 0)
        cost: float | None = 0.0
        by_name = {(m.provider, m.name): self.setup.prices[role] for role, m in self.setup.models.items()}
        for spent in run.store.spent():
            for name in names:
                tokens[name] += getattr(spent, name)
            price = by_name.get((spent.provider, spent.name)) or known_price(spent.provider, spent.name)
            cost = None if price is None or cost is None else cost + price.cost(*spent[3:])
        return tokens, cost

    def _settings_info(self) -> dict[str, Any]:
        """The settings that may change on resume; headers can hold keys and are left out."""
        s = self.setup.settings
        return {"limit": s.limit, "concurrency": s.concurrency, "max_cost": s.max_cost, "rpm": s.rpm, "tpm": s.tpm}

    def _write_info(self, run: RunFolder) -> None:
        tokens, cost = self._spent(run)
        self.info = run.write_info(
            stopped=self.stopped,  # why the run is not finished; null when it is
            usage=tokens,
            cost_usd=cost,
            seconds=round(self._seconds_before + time.monotonic() - self.began, 3),
            settings=self._settings_info(),
        )


def _telling(row: Revision) -> tuple[bool, bool]:
    """How well a row shows what a run does."""
    return row.initial != row.final, len(row.initial) + len(row.final) <= 2 * SHOWN


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


def run_job(job: Job) -> None:
    """Play a job to its end and cut its training rows; what was finished before an error is cut, too."""

    async def play() -> None:
        async for _ in job.rows():
            pass

    try:
        asyncio.run(play())
    except RunError:
        raise
    except CaiError:
        try:
            export(job.folder)
        except RunError as second:  # why the run stopped matters more
            log.warning("training rows were not cut: %s", second)
        raise
    export(job.folder)


async def agenerate(
    prompts: Prompts, constitution: str | Path | Constitution, **settings: Any
) -> AsyncIterator[Revision]:
    """The asynchronous twin of `generate`."""
    async for row in _rows(resolve(prompts, constitution, make_settings(settings))):
        yield row


def generate(prompts: Prompts, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Revision]:
    """Critique and revise every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set.
    settings: the fields of `Settings`. With `out`, rows, drops and calls are kept in that folder, and the same call
    again goes on where it stopped (rows finished before are in the folder and not repeated); without it nothing is
    kept. What can be checked is checked at once; errors of models and of a damaged source come while iterating.
    Works inside a running event loop, too.
    """
    setup = resolve(prompts, constitution, make_settings(settings))
    return in_thread(lambda: _rows(setup))


async def _rows(setup: Setup) -> AsyncIterator[Revision]:
    """The rows of a Python run; without `out` its folder goes away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cai-") if setup.settings.out is None else setup.settings.out)
    try:
        async for row in Job(setup, folder).rows():
            yield row
        if setup.settings.out is not None:
            export(folder)
    finally:
        if setup.settings.out is None:
            shutil.rmtree(folder, ignore_errors=True)


def in_thread(make: Callable[[], AsyncIterator[R]]) -> Iterator[R]:
    """An async iterator as a plain one, played by a loop in a thread of its own; rows wait in a short queue."""
    rows: queue.Queue[tuple[R | None, BaseException | None]] = queue.Queue(64)
    stop = threading.Event()

    async def play() -> None:
        source = make()
        try:
            async for row in source:
                while not stop.is_set():
                    try:
                        rows.put_nowait((row, None))
                        break
                    except queue.Full:
                        await asyncio.sleep(0.01)
                if stop.is_set():
                    return
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def run() -> None:
        try:
            asyncio.run(play())
            error: BaseException | None = None
        except BaseException as raised:
            error = raised
        while not stop.is_set():
            try:
                rows.put((None, error), timeout=0.1)
                return
            except queue.Full:
                continue

    thread = threading.Thread(target=run, name="cai-run", daemon=True)
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
        stop.set()
        thread.join()
