"""Plays flows: sends what a flow asks to the model of each role, keeps every answer, and gives the answers back.

A flow is a generator that yields lists of requests and is sent their completions (DESIGN §3). The driver knows models,
limits and the call store; it knows nothing of constitutions, nor of what a flow is for.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cai.errors import BudgetReached, CallRejected, ModelBusy, ModelFault, ModelStopped, RowDropped, RunError
from cai.limits import ATTEMPTS, ATTEMPTS_UNREACHED, Budget, Limiter, Tally, backoff, give_up
from cai.models import Model
from cai.prices import Price
from cai.records import Call, Completion, Request, Role, Sampling, Usage
from cai.store import Store, call_key, canonical_call

T = TypeVar("T")
R = TypeVar("R")
Flow = Generator[list[Request], list[Completion], T]

READ_AHEAD = 256  # prompts read before a worker wants them
FINISH_WITHIN = 60.0  # seconds that calls in flight get to come back once the run has to stop


def call_seed(seed: int, row: str, role: Role, index: int) -> int:
    """The sampling seed of one call, in [0, 2**31): from what is asked for whom, never from when."""
    text = f"{seed}\0{row}\0{role}\0{index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) >> 1


@dataclass(frozen=True, slots=True)
class Seat:
    """A model bound to a role."""

    model: Model
    limiter: Limiter
    sampling: Sampling
    price: Price | None  # None: not known; then the cost of its calls is not known either


@dataclass(slots=True)
class Played(Generic[T]):
    """What a flow returned, and what it took."""

    result: T
    calls: tuple[str, ...]  # hex keys in the order asked
    models: dict[str, str]  # by role, as the server named them
    usage: Usage


class Driver:
    """Plays flows against the models of their roles; safe for any number of flows at once on one event loop."""

    def __init__(self, seats: Mapping[Role, Seat], store: Store, *, seed: int, budget: Budget, tally: Tally) -> None:
        self.seats, self.store, self.seed, self.budget, self.tally = seats, store, seed, budget, tally
        self._stopped: ModelStopped | None = None

    async def play(self, row: str, order: int, flow: Flow[T]) -> Played[T]:
        """Play one flow to its end; `order` is its age, older flows go first.

        Raises RowDropped where only this row is lost, ModelStopped or RunError where the run is over.
        """
        asked: Counter[Role] = Counter()
        log: list[tuple[Role, bytes, Completion]] = []
        try:
            requests = next(flow)
            while True:
                numbered = []
                for request in requests:
                    numbered.append((request, asked[request.role]))
                    asked[request.role] += 1
                answers = await self._ask_all(numbered, row, order)
                log += [(request.role, key, done) for request, (key, done) in zip(requests, answers, strict=True)]
                requests = flow.send([done for _, done in answers])
        except StopIteration as stop:
            return Played(
                stop.value,
                tuple(key.hex() for _, key, _ in log),
                {role: done.model for role, _, done in log},
                total_usage([done for _, _, done in log]),
            )
        finally:
            flow.close()

    async def _ask_all(
        self, numbered: list[tuple[Request, int]], row: str, order: int
    ) -> list[tuple[bytes, Completion]]:
        if len(numbered) == 1:
            return [await self._ask(*numbered[0], row, order)]
        tasks = [asyncio.ensure_future(self._ask(request, index, row, order)) for request, index in numbered]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, request: Request, index: int, row: str, order: int) -> tuple[bytes, Completion]:
        """The completion of one request: from the store, or from the model and then kept."""
        seat = self.seats[request.role]
        model = seat.model
        call = Call(request, row, index, call_seed(self.seed, row, request.role, index), seat.sampling)
        try:
            payload = model.payload(call)
            text = canonical_call(model.provider, model.name, payload, call.sample)
            key = call_key(text)
            done = self.store.get(key)
            if done is not None:
                self.tally.replayed += 1
                return key, done
            done = await self._paid(seat, call, payload, len(text), order)
        except CallRejected as error:
            raise RowDropped(error.reason, request.role, str(error)) from error
        self.store.put(key, model.provider, model.name, payload, done)
        await self.store.committed()
        return key, done

    async def _paid(self, seat: Seat, call: Call, payload: dict[str, Any], size: int, order: int) -> Completion:
        """Send a call under the budget; `size` is the payload's bytes, which bound its input tokens from above."""
        most = call.request.max_tokens or call.sampling.max_tokens
        worst = 0.0 if seat.price is None else seat.price.most(size, most)
        await self._unless_stopped(self.budget.reserve(worst))
        actual = 0.0
        try:
            done = await self._persist(seat, payload, size // 4 + most, order)
            if seat.price is not None:
                actual = call_cost(seat.price, done, worst)
        finally:
            self.budget.settle(worst, actual)
        self.tally.answered += 1
        self.tally.input_tokens += done.input_tokens or 0
        self.tally.output_tokens += done.output_tokens or 0
        self.tally.cost += actual
        return done

    async def _persist(self, seat: Seat, payload: dict[str, Any], tokens: int, order: int) -> Completion:
        """Send until there is an answer, a refusal of this call, or no sense in going on."""
        limiter, attempt = seat.limiter, 0
        while True:
            if self._stopped is not None:
                raise self._stopped
            sent_at = await limiter.acquire(order, tokens)
            try:
                if self._stopped is not None:
                    raise self._stopped
                done = await seat.model.send(payload)
                limiter.answered()
                return done
            except CallRejected:
                limiter.answered()
                raise
            except ModelStopped as error:
                self._stopped = self._stopped or error
                raise
            except ModelBusy as error:
                limiter.busy(error, sent_at)
                continue
            except ModelFault as error:
                fault = error
            finally:
                limiter.release()
            attempt += 1
            if attempt >= (ATTEMPTS if limiter.ever_answered else ATTEMPTS_UNREACHED):
                self._stopped = give_up(limiter, attempt, fault)
                if self._stopped is not None:
                    raise self._stopped from fault
                raise CallRejected("model_error", f"{fault} ({attempt} tries)") from fault
            self.tally.retries += 1
            await asyncio.sleep(backoff(attempt, fault))

    async def _unless_stopped(self, reserving: Awaitable[None]) -> None:
        try:
            await reserving
        except BudgetReached as error:
            self._stopped = self._stopped or error
            raise


def call_cost(price: Price, done: Completion, worst: float) -> float:
    """USD of one call; `worst` where the server did not report its tokens."""
    if done.input_tokens is None or done.output_tokens is None:
        return worst
    return price.cost(done.input_tokens, done.output_tokens, done.cached_tokens or 0, done.cache_write_tokens or 0)


def total_usage(completions: list[Completion]) -> Usage:
    """The tokens of several calls; a sum is None as soon as one call did not report it."""

    def add(counts: list[int | None]) -> int | None:
        return None if None in counts else sum(count for count in counts if count is not None)

    return Usage(
        input_tokens=add([done.input_tokens for done in completions]),
        output_tokens=add([done.output_tokens for done in completions]),
        cached_tokens=add([done.cached_tokens for done in completions]),
        cache_write_tokens=add([done.cache_write_tokens for done in completions]),
    )


class Feed(Generic[T]):
    """Reads a blocking iterator in a thread of its own, a little ahead, so that a slow source never holds the loop."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._ready: deque[T] = deque()
        self._room = threading.Semaphore(READ_AHEAD)
        self._loop = asyncio.get_running_loop()
        self._hungry: list[asyncio.Future[None]] = []
        self._over = False
        self._closed = False
        self._error: BaseException | None = None
        threading.Thread(target=self._read, name="cai-source", daemon=True).start()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.append(item)
                if self._hungry:
                    self._loop.call_soon_threadsafe(self._wake)
                self._room.acquire()
                if self._closed:
                    return
        except Exception as error:
            self._error = error
        self._over = True
        if not self._closed:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for future in self._hungry:
            if not future.done():
                future.set_result(None)
        self._hungry.clear()

    async def get(self) -> T:
        """The next item; raises StopAsyncIteration at the end, or what the source raised."""
        while not self._ready:
            if self._over and not self._ready:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            future = self._loop.create_future()
            self._hungry.append(future)
            # The reader may have added an item after the check above and before it could see this future.
            if self._ready or self._over:
                continue
            await future
        self._room.release()
        return self._ready.popleft()

    def close(self) -> None:
        """Let the reader go."""
        self._closed = True
        self._room.release()


@dataclass
class _Pool(Generic[R]):
    done: asyncio.Queue[R | None]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def watch(self) -> None:
        """Wait for all workers; after a first error give calls in flight a while to come back, then cancel."""
        _, pending = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_EXCEPTION)
        if pending:
            errors = [task.exception() for task in self.tasks if task.done()]
            lost = any(isinstance(error, RunError) for error in errors)
            _, pending = await asyncio.wait(pending, timeout=0 if lost else FINISH_WITHIN)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self.done.put(None)


async def play_many(feed: Feed[T], play: Callable[[T], Awaitable[R]], workers: int) -> AsyncIterator[R]:
    """`play` every item of a feed, `workers` at a time, and give back the results as they finish.

    A worker takes a new item only when its last one is through: rows are finished before others are started. Results
    wait for the consumer in a queue of bounded length.
    """
    pool: _Pool[R] = _Pool(asyncio.Queue(2 * workers))

    async def work() -> None:
        while True:
            try:
                item = await feed.get()
            except StopAsyncIteration:
                return
            await pool.done.put(await play(item))

    pool.tasks = [asyncio.ensure_future(work()) for _ in range(workers)]
    watcher = asyncio.ensure_future(pool.watch())
    try:
        while (result := await pool.done.get()) is not None:
            yield result
        await watcher
        for task in pool.tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
    finally:
        feed.close()
        for task in (watcher, *pool.tasks):
            task.cancel()
        await asyncio.gather(watcher, *pool.tasks, return_exceptions=True)
