"""A job in progress: plays every item of a source against models, and keeps what comes out in a run folder.

What an item is and how it is played is its `Task`'s: a prompt to critique and revise or to answer several times, or a
pair to judge. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cai.errors import CaiError, RowDropped, RunError, SourceError, Unreadable
from cai.feed import Feed
from cai.flow import Driver, Seat, play_many
from cai.limits import Budget, Limiter, Tally
from cai.models import Model
from cai.prices import Price
from cai.records import BadPrompt, Contest, Drop, Prompt, Record, Request, Role, Sampling
from cai.run import RunFolder, identity_hash
from cai.settings import Prompts, PromptSettings, RunSettings, check_ability
from cai.sources import read_prompts
from cai.templates import Templates

log = logging.getLogger("cai")
Item = Prompt | Contest | BadPrompt
Place = tuple[int, Item]  # position in the input, and what is there
Row = TypeVar("Row", bound=Record)
Seats = Mapping[Role, Model]


class Task(Generic[Row]):
    """What a job does with each item; made for one session of one run."""

    unit = "prompts"  # what the items are called
    done = "rows kept"  # what is said of the finished ones
    rows_file = ""

    def places(self) -> Iterator[Place]:
        """The items with their positions, from the first."""
        raise NotImplementedError

    def open(self, run: RunFolder) -> None:
        """Look at what an earlier session left; called before the first call, when the models are loaded."""

    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Row:
        """One item to its row; raises RowDropped where only this item is lost."""
        raise NotImplementedError

    def texts(self, row: Row) -> tuple[str, str]:
        """Two texts of a row that show together what was done."""
        raise NotImplementedError

    def kept(self, row: Row) -> None:
        """Told of every row when it is on disk; raises ModelStopped where going on makes no sense."""

    def enough(self, position: int) -> bool:
        """Whether neither the item at this position nor one after it is wanted."""
        return False

    def more(self, run: RunFolder) -> Iterator[Place] | None:
        """Items that come up once all others are through; None: there are none."""
        return None


@dataclass(frozen=True)
class Setup(Generic[Row]):
    """A run, resolved and checked; nothing has been read yet, nothing asked and nothing written.

    players: the models by what they are called in a plan, such as critic. seats: which of them play which role; several
    where one question goes to several models.
    """

    name: str  # starts the name of the default folder
    templates: Templates
    players: Mapping[str, Model]
    seats: tuple[Seats, ...]
    prices: Mapping[str, Price | None]  # by player
    identity: dict[str, Any]
    settings: RunSettings

    @property
    def models(self) -> list[Model]:
        """Every model once."""
        return list({id(model): model for model in self.players.values()}.values())

    def price_of(self, model: Model) -> Price | None:
        """What a model's tokens cost; None: not known."""
        return next(self.prices[player] for player, other in self.players.items() if other is model)

    @property
    def out(self) -> Path:
        """The run's folder: as asked, else one named after the job and everything that decides its rows."""
        named = self.settings.out
        return Path(named) if named is not None else Path("runs") / f"{self.name}-{identity_hash(self.identity)}"

    def task(self) -> Task[Row]:
        """The task of one session."""
        raise NotImplementedError

    def check_models(self) -> None:
        """Raises UsageError where a model cannot do what it is for; some know it only once they are loaded."""

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        raise NotImplementedError

    def parts(self) -> Iterator[Setup[Row]]:
        """The runs that it takes, itself the last."""
        yield self

    @property
    def most_times(self) -> int | None:
        """How often an item may be asked what a plan counts once; None: nobody knows."""
        return 1

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        yield from ()

    def sampling_of(self, seat: int) -> tuple[Sampling, int]:
        """How the models of a seat draw, and the seed of their calls."""
        settings = self.settings
        return Sampling(settings.temperature, settings.max_tokens, dict(settings.extra_body)), settings.seed

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through; `folder` is ready for a shell."""
        yield from ()

    @property
    def cuts(self) -> bool:
        """Whether training rows are cut at the end."""
        return True

    def cut_options(self) -> dict[str, Any]:
        """The options of the first cut."""
        return {}

    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player, if every answer were `answer`."""
        raise NotImplementedError

    @property
    def countable(self) -> bool:
        """Whether the source can be read twice."""
        return False

    def count_items(self, tell: Callable[[int], None]) -> None:
        """Count the items in a thread of its own, and tell."""
        if not self.countable:
            return

        def count() -> None:
            # A damaged source is reported by the run itself, which reads it too.
            with suppress(CaiError):
                tell(sum(1 for _ in self.task().places()))

        threading.Thread(target=count, name="cai-count", daemon=True).start()


@dataclass(frozen=True)
class PromptSetup(Setup[Row]):
    """A run over prompts."""

    settings: PromptSettings
    prompts: Prompts

    def places(self) -> Iterator[Place]:
        """The prompts, from the first, as far as `limit`."""
        items = read_prompts(self.prompts, format=self.settings.format, field=self.settings.prompt_field)
        return limited(enumerate(items), self.settings.limit)

    @property
    def countable(self) -> bool:
        """Whether the prompts can be read twice."""
        return is_countable(self.prompts)

    def check_models(self) -> None:
        """Raises UsageError where a model cannot answer what the templates ask."""
        for model in self.models:
            check_ability(model, self.templates)


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
        if settings.max_cost is not None and spent is None:
            raise RunError(f"--max-cost cannot hold: {self.folder} has calls of no known price; name another --out")
        budget = Budget(settings.max_cost, spent=(spent or 0.0) + self._spent)
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


def is_countable(prompts: Prompts) -> bool:
    """Whether a source of prompts can be read twice."""
    return prompts is None or (isinstance(prompts, str | Path) and Path(prompts).is_file())


def describe_prompts(prompts: Prompts, limit: int | None) -> str:
    """What a source of prompts is called."""
    named = (
        str(prompts) if isinstance(prompts, str | Path) else "the built-in set" if prompts is None else "from Python"
    )
    return named if limit is None else f"{named}, the first {limit:,}"


def limited(places: Iterator[Place], limit: int | None) -> Iterator[Place]:
    """The first `limit` places; all for None."""
    return itertools.islice(places, limit)
