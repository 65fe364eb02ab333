"""What the engine's tests run on: a clock that needs no waiting, and a model that answers as it is told."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.model import Call
from cai.calls.prices import Budget, Price, Tally
from cai.calls.seats import Seat
from cai.folder.journal.store import Store
from cai.records import Abilities, Completion, Request, Sampling

T = TypeVar("T")


class _Skip(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits by moving the clock; a loop that would wait for ever is an error."""

    clock = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("deadlock: every task waits and nothing is due")
        if not ready and timeout:
            self.clock += timeout + 1e-6
        return ready


class Skipping(asyncio.SelectorEventLoop):
    """An event loop on which `sleep` takes no time; not for threads or sockets."""

    def __init__(self) -> None:
        self._skip = _Skip()
        super().__init__(self._skip)

    def time(self) -> float:
        return self._skip.clock


def skipping(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine by a clock that skips every wait."""
    with asyncio.Runner(loop_factory=Skipping) as runner:
        return runner.run(main)


def text_of(payload: dict[str, Any]) -> str:
    """What the last turn of a payload asks."""
    return str(payload["messages"][-1]["content"])


class Fake:
    """A model whose answer is the hash of what it was asked, after `delay` seconds; `behave` may raise instead."""

    provider = "recorded"  # costs nothing
    name = "fake"
    endpoint = "fake"
    context: int | None = None

    def __init__(
        self, delay: float = 0.0, concurrency: int = 8, behave: Callable[[str, int], object] = lambda text, time: None
    ) -> None:
        self.can = Abilities()
        self.delay, self.concurrency, self.behave = delay, concurrency, behave
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.in_flight = self.most_in_flight = 0

    def payload(self, call: Call) -> dict[str, Any]:
        return {"messages": list(call.request.messages), "seed": call.seed}

    async def start(self) -> None:
        pass

    async def send(self, payload: dict[str, Any]) -> Completion:
        text = text_of(payload)
        self.asked.append(text)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            self.behave(text, self.asked.count(text))
        finally:
            self.in_flight -= 1
        self.answered.append(text)
        return Completion(f"answer to {text}", "stop", "fake-1", input_tokens=len(text), output_tokens=3)

    async def close(self) -> None:
        pass


def ask(text: str, role: Any = "assistant") -> Request:
    return Request(role, ({"role": "user", "content": text},))


def driver(
    model: Any, store: Store, *, cap: float | None = None, price: Price | None = None, tally: Tally | None = None,
    max_tokens: int = 16,
) -> Driver:  # fmt: skip
    """A driver whose every role is one model."""
    tally = tally or Tally()
    seat = Seat(model, Limiter(model.concurrency, tally=tally), Sampling(max_tokens=max_tokens), price)
    seats: dict[Any, Seat] = dict.fromkeys(("assistant", "critic", "gate", "reviser", "judge"), seat)
    budget = None if cap is None else Budget(cap)
    return Driver(seats, store, seed=0, budget=budget, tally=tally)


def gone(name: str) -> None:
    """Waits until no thread of that name is left."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(10)
            assert not thread.is_alive()


def play(flow: Any, answer: Callable[[Request], Completion]) -> tuple[Any, list[Request]]:
    """Play a flow by hand; what it returns, and what it asked."""
    asked: list[Request] = []
    try:
        requests = next(flow)
        while True:
            asked += requests
            requests = flow.send([answer(request) for request in requests])
    except StopIteration as end:
        return end.value, asked
