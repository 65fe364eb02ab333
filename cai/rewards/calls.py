"""The calls of rewards: every answer is kept in one folder, under one cap, so that no question is paid for twice."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.live import foremost
from cai.calls.model import Model
from cai.calls.prices import Budget, Price, Tally
from cai.calls.seats import Flow, Played, Seat
from cai.errors import ModelStopped, RunError
from cai.folder.journal.store import Store
from cai.models import open_models, prices_of
from cai.records import Message
from cai.rewards.reward import Rated
from cai.rewards.settings import RewardSettings

T = TypeVar("T")
Prepare = Callable[[], Awaitable[None]]


class RewardCalls:
    """Asks the models of several rewards, each of which is opened and started once.

    folder: of calls.sqlite; a training's own, for example. Store and models are opened by the first call, in the loop
    that it runs in, and all others must run there, too.
    """

    def __init__(self, folder: Path, settings: RewardSettings) -> None:
        self.folder, self.settings = folder, settings
        self.tally = Tally()
        self._models: dict[str, Model] = {}  # by their specs
        self._prices: dict[str, Price | None] = {}
        self._prepare: dict[str, list[Prepare]] = {}
        self._drivers: dict[str, Driver] = {}
        self._started: set[str] = set()
        self._store: Store | None = None
        self._budget: Budget | None = None
        self._opening = asyncio.Lock()
        self._playing = 0
        self._quiet = asyncio.Event()
        self._ages = itertools.count()

    def add(self, spec: str, prepare: Prepare) -> Model:
        """The model of a spec; prepare: called once it is started. UsageError if it cannot be, or a cap not hold."""
        if spec not in self._models:
            models = open_models({each: each for each in (*self._models, spec)}, self.settings.connection)
            prices = prices_of({spec: models[spec]}, self.settings.price, self.settings.max_cost)
            self._models[spec] = models[spec]
            self._prices |= prices
        self._prepare.setdefault(spec, []).append(prepare)
        return self._models[spec]

    def price(self, spec: str) -> Price | None:
        """What the tokens of a model cost; None if that is not known."""
        return self._prices[spec]

    async def play(self, spec: str, row: str, flow: Flow[T]) -> Played[T]:
        """Play a flow against a model, whose answers are on disk when it ends; `row` names what it is about.

        Raises RowDropped if only this is lost, ModelStopped if nothing more can be asked.
        """
        self._playing += 1
        try:
            driver = await self._driver(spec)
            played = await self._played(spec, driver, row, flow)
            assert self._store is not None
            await self._store.committed()
            return played
        finally:
            self._playing -= 1
            self._quiet.set()

    async def _played(self, spec: str, driver: Driver, row: str, flow: Flow[T]) -> Played[T]:
        try:
            return await driver.play(row, next(self._ages), flow)
        except ModelStopped:
            if self._drivers.get(spec) is driver:
                del self._drivers[spec]  # who asks later may find it up again, or ask for what the cap allows
            raise

    async def _driver(self, spec: str) -> Driver:
        async with self._opening:
            if self._store is None:
                self._open()
            if spec not in self._started:
                await self._models[spec].start()
                for prepare in self._prepare[spec]:
                    await prepare()
                self._started.add(spec)
            if spec not in self._drivers:
                self._drivers[spec] = self._seated(spec)
            return self._drivers[spec]

    def check(self) -> None:
        """See whether the store can be used; RunError if it is damaged, or a cap cannot hold with what it has."""
        with closing(Store(self.folder)) as store:
            self._spent(store)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        store = Store(self.folder)
        try:
            spent = self._spent(store)
        except RunError:
            store.close()
            raise
        if self.settings.max_cost is not None:
            self._budget = Budget(self.settings.max_cost, spent)
        self._store = store

    def _spent(self, store: Store) -> float:
        """What the calls of the store have cost; RunError if that is not known and there is a cap."""
        spent = store.spent().cost_usd
        if spent is None and self.settings.max_cost is not None:
            raise RunError(f"--max-cost cannot hold: {self.folder} has calls of no known price; name another --out")
        return spent or 0.0

    def _seated(self, spec: str) -> Driver:
        settings, model = self.settings, self._models[spec]
        limiter = Limiter(settings.concurrency or model.concurrency, settings.rpm, settings.tpm, self.tally)
        seat = Seat(model, limiter, settings.sampling, self._prices[spec])
        return Driver({"judge": seat}, self._store, seed=settings.seed, budget=self._budget, tally=self.tally)

    async def close(self) -> None:
        """Close models and store once nothing is on its way; safe to call twice, and a later call opens them again."""
        while self._playing:  # after an error, calls of other rewards
            self._quiet.clear()
            await self._quiet.wait()
        started, self._started = self._started, set()
        for spec in started:
            await self._models[spec].close()
        self._drivers.clear()
        self._opening, self._quiet = asyncio.Lock(), asyncio.Event()  # the next call may run in another loop
        store, self._store = self._store, None
        if store is not None:
            store.close()


class AskedReward(ABC):
    """A reward whose numbers follow from what one model answers, whichever kind that is."""

    _calls: RewardCalls
    _spec: str

    @abstractmethod
    async def rate(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[Rated]:
        """The rewards, with what they follow from."""

    async def __call__(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float | None]:
        """One number for each reply; raises ModelStopped if nothing more can be rated."""
        return [rated.reward for rated in await self.rate(prompts, replies)]

    @property
    def tally(self) -> Tally:
        """What happened to its calls."""
        return self._calls.tally

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None if that is not known."""
        return self._calls.price(self._spec)

    async def close(self) -> None:
        """Release what the calls took; safe to call twice."""
        await self._calls.close()


async def settled(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all parts return, in order; once all have ended, the error that counts: what is on its way is paid for."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise foremost(errors)
    return [result for result in results if not isinstance(result, BaseException)]
