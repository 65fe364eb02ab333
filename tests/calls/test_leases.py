"""A cap that several processes share holds for all of them together, and nearly all of it can be used."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.calls.leases.budget import LeasedBudget
from cai.calls.leases.lender import Lender
from cai.calls.live import Live
from cai.calls.prices import Budget
from cai.errors import BudgetReached
from cai.records import Values


class Borrower:
    """A process that makes calls under a part of the cap, and keeps what it has paid in a store of its own."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet, self.number = fleet, number
        self.said: deque[Values] = deque()
        self.heard: deque[Values] = deque()
        self.budget = LeasedBudget(fleet.lender.cap, self.said.append, Live())
        self.calls: set[asyncio.Task[None]] = set()

    async def call(self, worst: float, actual: float) -> None:
        await self.budget.reserve(worst)
        self.fleet.in_flight += worst
        try:
            assert self.fleet.paid + self.fleet.in_flight <= self.fleet.lender.cap * (1 + 1e-9)
            for _ in range(self.fleet.chance.randint(1, 5)):
                await asyncio.sleep(0)
            self.fleet.stores[self.number] += actual
        finally:
            self.fleet.in_flight -= worst
        self.budget.settle(worst, actual)

    async def make_calls(self, prices: list[tuple[float, float]], at_once: int) -> None:
        waiting = list(prices)

        async def work() -> None:
            while waiting:
                await self.call(*waiting.pop())

        self.calls = {asyncio.create_task(work()) for _ in range(at_once)}
        results = await asyncio.gather(*self.calls, return_exceptions=True)
        self.budget.close()
        for error in results:
            if isinstance(error, BudgetReached):
                raise error


class Fleet:
    """Borrowers and their lender; messages take a while, and those of one borrower keep their order."""

    def __init__(self, cap: float, count: int, seed: int) -> None:
        self.lender, self.chance = Lender(cap), random.Random(seed)
        self.stores = dict.fromkeys(range(count), 0.0)
        self.in_flight = 0.0
        for number in range(count):
            self.lender.begin(number, 0.0)
        self.borrowers = {number: Borrower(self, number) for number in range(count)}

    @property
    def paid(self) -> float:
        return sum(self.stores.values())

    async def carry(self) -> None:
        """Carry messages, in any order of borrowers, until cancelled."""
        while True:
            await asyncio.sleep(0)
            borrower = self.borrowers[self.chance.choice(list(self.borrowers))]
            if borrower.said and self.chance.random() < 0.7:
                self.answer(self.lender.hear(borrower.number, borrower.said.popleft()))
            if borrower.heard and self.chance.random() < 0.7:
                borrower.budget.hear(borrower.heard.popleft())

    def answer(self, messages: list[tuple[int, Values]]) -> None:
        for number, message in messages:
            self.borrowers[number].heard.append(message)

    async def kill(self, number: int) -> None:
        """A borrower dies with all that it has lent; another one takes its place, and its store says what was spent."""
        dead = self.borrowers[number]
        for call in dead.calls:
            call.cancel()
        await asyncio.gather(*dead.calls, return_exceptions=True)
        self.borrowers[number] = Borrower(self, number)
        self.answer(self.lender.begin(number, self.stores[number]))


async def play(fleet: Fleet, prices: list[tuple[float, float]], at_once: int, kills: int) -> int:
    """Make calls in all borrowers, some of which die; how many of them came to the cap."""
    carrying = asyncio.create_task(fleet.carry())
    share = -(-len(prices) // len(fleet.stores))

    async def through(number: int) -> None:
        while True:
            borrower = fleet.borrowers[number]
            await borrower.make_calls(prices[number * share : (number + 1) * share], at_once)
            if borrower is fleet.borrowers[number]:
                return

    playing = [asyncio.create_task(through(number)) for number in fleet.stores]
    for _ in range(kills):
        for _ in range(fleet.chance.randint(1, 30)):
            await asyncio.sleep(0)
        number = fleet.chance.choice(list(fleet.stores))
        if not playing[number].done():
            await fleet.kill(number)
    results = await asyncio.wait_for(asyncio.gather(*playing, return_exceptions=True), 60)
    while any(borrower.said for borrower in fleet.borrowers.values()):
        await asyncio.sleep(0)
    carrying.cancel()
    with suppress(asyncio.CancelledError):
        await carrying
    assert all(result is None or isinstance(result, BudgetReached) for result in results), results
    return sum(result is not None for result in results)


def prices_of(chance: random.Random, count: int, worst: float) -> list[tuple[float, float]]:
    """What so many calls can cost at most, and what they do cost."""
    drawn = [chance.uniform(0.2, 1.0) * worst for _ in range(count)]
    return [(each, each * chance.choice((0.0, 0.3, 1.0))) for each in drawn]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**32), st.floats(0.3, 40.0))
def test_whatever_dies_the_cap_is_kept_and_used(count: int, at_once: int, kills: int, seed: int, cap: float) -> None:
    fleet = Fleet(cap, count, seed)
    prices = prices_of(fleet.chance, 120, worst=1.0)
    stopped = asyncio.run(play(fleet, prices, at_once, kills))
    assert fleet.paid <= cap * (1 + 1e-9)
    if stopped:  # nobody stops while the next call may still be paid for
        assert fleet.paid + max(worst for worst, _ in prices) > cap
        assert fleet.lender.free == pytest.approx(cap - fleet.paid)
    else:
        assert sum(fleet.lender.spent.values()) == pytest.approx(fleet.paid)


def test_one_borrower_stops_where_a_budget_of_its_own_would() -> None:
    prices = [(0.3, 0.3)] * 10

    async def alone() -> float:
        budget = Budget(1.0)
        with suppress(BudgetReached):
            for worst, actual in prices:
                await budget.reserve(worst)
                budget.settle(worst, actual)
        return budget.spent

    fleet = Fleet(1.0, 1, seed=0)
    assert asyncio.run(play(fleet, prices, at_once=1, kills=0)) == 1
    assert fleet.paid == pytest.approx(asyncio.run(alone()))


def test_what_others_hold_idle_is_called_back_for_one_call_that_needs_it() -> None:
    lender = Lender(1.0)
    for number in range(3):
        lender.begin(number, 0.1)
    [(_, lent)] = lender.hear(0, {"spent": 0.0, "returned": 0.0, "asks": 0.5})
    assert lent == {"lent": 0.5}
    assert lender.hear(1, {"spent": 0.0, "returned": 0.0, "asks": 0.4}) == [(0, {"called_back": True})]
    assert lender.hear(0, {"spent": 0.1, "returned": 0.4, "asks": None}) == [(1, {"lent": 0.4})]


def test_a_call_that_all_that_is_left_cannot_pay_is_refused_in_the_words_of_a_run_that_is_alone() -> None:
    lender = Lender(1.0)
    lender.begin(0, 0.0)
    lender.begin(1, 0.75)
    [(number, answer)] = lender.hear(0, {"spent": 0.0, "returned": 0.0, "asks": 0.5})
    with pytest.raises(BudgetReached) as alone:
        asyncio.run(Budget(1.0, spent=0.75).reserve(0.5))
    assert number == 0 and answer["refused"] == str(alone.value)
    [(number, answer)] = lender.hear(1, {"spent": 0.0, "returned": 0.0, "asks": 0.1})  # as in one process: all stop
    assert number == 1 and "0.7500 spent" in answer["refused"]


def test_a_share_saves_messages_while_much_is_left() -> None:
    lender = Lender(100.0)
    lender.begin(0, 0.0)
    assert lender.hear(0, {"spent": 0.0, "returned": 0.0, "asks": 0.001}) == [(0, {"lent": 1.0})]
