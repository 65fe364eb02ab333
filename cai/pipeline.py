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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from cai.ask import Ask
from cai.constitution import Constitution, load_constitution
from cai.errors import CaiError, RowDropped, RunError, UsageError
from cai.flow import Driver, Feed, Played, Seat, play_many
from cai.limits import Budget, Limiter, Tally
from cai.models import Connection, Model, open_model
from cai.prices import Price, known_price, parse_price
from cai.records import BadPrompt, Drop, Prompt, Record, Revision, Role, Sampling
from cai.revise import Chain, draw_principles, revise
from cai.run import RunFolder, identity_hash
from cai.sources import describe, read_prompts
from cai.templates import Templates, load_templates

log = logging.getLogger("cai")
R = TypeVar("R", bound=Record)
Prompts = str | Path | Iterable[Any] | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a generate run can be told; the defaults and their evidence are in docs/how-it-works.md.

    critic, reviser: model specs; None: the assistant's model. gate: None: on for chat templates, off for completion
    sets. templates: NAME or folder; None: `chat`. concurrency: None: what the model suggests. max_cost: USD for the
    whole run folder. price: "IN,OUT" in USD per million tokens, for models without a listed price. rpm, tpm: caps per
    minute and model. out: None on the command line: `runs/<constitution>-<identity>`; None in Python: nothing is kept.
    """

    model: str = "local"
    critic: str | None = None
    reviser: str | None = None
    rounds: int = 2
    gate: bool | None = None
    system: str | None = None
    templates: str | Path | None = None
    temperature: float = 1.0
    max_tokens: int = 512
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    prompt_field: str | None = None
    limit: int | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    seed: int = 0
    max_cost: float | None = None
    price: str | None = None
    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0
    out: str | Path | None = None
    force: bool = False

    def check(self) -> None:
        """Raises UsageError for a value out of its range."""
        rules = [
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("temperature", self.temperature, 0 <= self.temperature <= 2, "between 0 and 2"),
            ("max-tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("limit", self.limit, self.limit is None or self.limit >= 1, "at least 1"),
            ("concurrency", self.concurrency, self.concurrency is None or self.concurrency >= 1, "at least 1"),
            ("rpm", self.rpm, self.rpm is None or self.rpm >= 1, "at least 1"),
            ("tpm", self.tpm, self.tpm is None or self.tpm >= 1, "at least 1"),
            ("max-cost", self.max_cost, self.max_cost is None or 0 <= self.max_cost < float("inf"), "at least 0"),
            ("timeout", self.timeout, self.timeout > 0, "above 0 seconds"),
        ]
        for name, value, fine, need in rules:
            if not fine:
                raise UsageError(f"--{name} {value} must be {need}")


@dataclass(frozen=True)
class Plan:
    """A generate run, resolved and checked; nothing has been read, asked or written yet."""

    prompts: Prompts
    settings: Settings
    constitution: Constitution
    templates: Templates
    models: dict[Role, Model]
    prices: dict[Role, Price | None]
    gate: bool
    identity: dict[str, Any]

    @property
    def out(self) -> Path:
        """The run's folder: as asked, else one named after the constitution and everything that decides the rows."""
        named = self.settings.out
        return Path(named) if named is not None else Path("runs") / self._default_name

    @property
    def _default_name(self) -> str:
        return f"{self.constitution.name}-{identity_hash(self.identity)}"

    def source(self) -> Iterator[Prompt | BadPrompt]:
        """The prompts, from the first, as far as `limit`."""
        items = read_prompts(self.prompts, format=self.settings.format, field=self.settings.prompt_field)
        limit = self.settings.limit
        return (item for _, item in zip(range(limit), items, strict=False)) if limit is not None else items


def resolve(prompts: Prompts, constitution: str | Path | Constitution, settings: Settings) -> Plan:
    """Check everything that can be checked before the first call, and say what the run will be."""
    settings.check()
    law = constitution if isinstance(constitution, Constitution) else load_constitution(constitution)
    law.principles_for("revise")
    templates = load_templates(settings.templates or "chat")
    if templates.completes and settings.gate:
        raise UsageError("--gate needs chat templates: a base model gives no verdict line; use --no-gate")
    connection = Connection(settings.base_url, settings.headers, settings.timeout)
    specs: dict[Role, str] = {
        "assistant": settings.model,
        "critic": settings.critic or settings.model,
        "reviser": settings.reviser or settings.critic or settings.model,
    }
    opened = {spec: open_model(spec, connection) for spec in dict.fromkeys(specs.values())}
    models: dict[Role, Model] = {role: opened[spec] for role, spec in specs.items()}
    for spec, model in opened.items():
        if templates.completes and not model.can.completion:
            raise UsageError(f"{spec} cannot continue text: use chat templates, or a model with completions")
        if not templates.completes and not model.can.chat:
            raise UsageError(f"{spec} has no chat template: it is a base model, use --templates fewshot")
    gate = settings.gate if settings.gate is not None else not templates.completes
    identity = {
        "command": "generate",
        "source": describe(prompts),
        "constitution": law.ref.model_dump(),
        "templates": templates.hash,
        "models": {role: f"{model.provider}:{model.name}" for role, model in models.items()},
        "rounds": settings.rounds,
        "gate": gate,
        "system": settings.system,
        "sampling": {
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "extra_body": dict(settings.extra_body),
        },
        "seed": settings.seed,
    }
    return Plan(prompts, settings, law, templates, models, _prices(settings, models), gate, identity)


def _prices(settings: Settings, models: Mapping[Role, Model]) -> dict[Role, Price | None]:
    stated = None if settings.price is None else parse_price(settings.price)
    prices = {role: known_price(model.provider, model.name) or stated for role, model in models.items()}
    if settings.max_cost is not None:
        for role, price in prices.items():
            if price is None:
                name = f"{models[role].provider}:{models[role].name}"
                raise UsageError(f"--max-cost cannot hold: no listed price for {name}; state it with --price IN,OUT")
    return prices


class Job:
    """A run in progress: iterate `rows()` once; `tally`, `read`, `finished` and `dropped` tell how it goes.

    start is called with the folder before the first call.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.tally = Tally()
        self.read = self.skipped = 0  # prompts read; those that an earlier session had finished
        self.finished = 0
        self.dropped: dict[str, int] = {}
        self.info: dict[str, Any] = {}
        self.stopped: str | None = None  # why the run ended early
        self.began = time.monotonic()
        self._seconds_before = 0.0
        self._ask = Ask(plan.templates, plan.constitution, system=plan.settings.system, gate=plan.gate)
        self._principles = plan.constitution.principles_for("revise")
        self._law = plan.constitution.ref

    async def rows(self) -> AsyncIterator[Revision]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError where the run cannot go on; what was finished is kept.
        """
        plan = self.plan
        run = RunFolder(self.folder, plan.identity, "revisions.jsonl", force=plan.settings.force)
        models = {id(model): model for model in plan.models.values()}.values()
        writable = True
        self.stopped = "interrupted"
        self._seconds_before = run.info.get("seconds", 0.0)
        try:
            self._write_info(run)
            for model in models:
                await model.start()
            driver = self._driver(run)
            workers = max(seat.limiter.concurrency for seat in driver.seats.values())

            async def play(item: tuple[int, Prompt | BadPrompt]) -> list[Revision]:
                return await self._play(run, driver, *item)

            async for made in play_many(Feed(enumerate(plan.source())), play, workers):
                for row in made:
                    self.finished += 1
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
        settings, limiters = self.plan.settings, dict[int, Limiter]()
        sampling = Sampling(settings.temperature, settings.max_tokens, dict(settings.extra_body))
        seats: dict[Role, Seat] = {}
        for role, model in self.plan.models.items():
            if id(model) not in limiters:
                concurrency = settings.concurrency or model.concurrency
                limiters[id(model)] = Limiter(concurrency, settings.rpm, settings.tpm, self.tally)
            seats[role] = Seat(model, limiters[id(model)], sampling, self.plan.prices[role])
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
            settings = self.plan.settings
            principles = draw_principles(self._principles, settings.rounds, settings.seed, item.id)
            try:
                played = await driver.play(item.id, position, revise(item, principles, self._ask, gate=self.plan.gate))
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
            templates=self.plan.templates.hash,
            models=played.models,
            seed=self.plan.settings.seed,
            usage=played.usage,
            calls=played.calls,
        )

    async def _drop(self, run: RunFolder, drop: Drop) -> None:
        self.dropped[drop.reason] = self.dropped.get(drop.reason, 0) + 1
        await run.drop(drop)
        log.debug("dropped %s (%s): %s", drop.id, drop.reason, drop.detail)

    def _spent(self, run: RunFolder) -> tuple[dict[str, int], float | None]:
        """Tokens of every call the folder has paid for, and their cost; None where a price is not known."""
        tokens = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cached_tokens": 0}
        cost: float | None = 0.0
        by_name = {(m.provider, m.name): self.plan.prices[role] for role, m in self.plan.models.items()}
        for provider, name, _, calls, given, made, cached in run.store.spent():
            for key, count in zip(tokens, (calls, given, made, cached), strict=True):
                tokens[key] += count
            price = by_name.get((provider, name)) or known_price(provider, name)
            cost = None if price is None or cost is None else cost + price.cost(given, made, cached)
        return tokens, cost

    def _settings_info(self) -> dict[str, Any]:
        """The settings that may change on resume; headers can hold keys and are left out."""
        s = self.plan.settings
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
    plan = resolve(prompts, constitution, make_settings(settings))
    return in_thread(lambda: _rows(plan))


async def _rows(plan: Plan) -> AsyncIterator[Revision]:
    """The rows of a Python run; without `out` its folder goes away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cai-") if plan.settings.out is None else plan.settings.out)
    try:
        async for row in Job(plan, folder).rows():
            yield row
    finally:
        if plan.settings.out is None:
            shutil.rmtree(folder, ignore_errors=True)


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from keywords; raises UsageError with a suggestion for an unknown one."""
    known = set(Settings.__dataclass_fields__)
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown setting {name!r}{hint}")
    settings = Settings(**given)
    settings.check()
    return settings


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
