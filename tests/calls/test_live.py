"""Who can still ask something before another answer comes: all that wait are sent together, and none too early."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from fakes import skipping

from cai.calls.feed import Feed, play_many
from cai.calls.live import Live


class Gathering:
    """What waits together; every flush answers all of it."""

    def __init__(self, live: Live) -> None:
        self.live, self.waiting, self.waves = live, list[asyncio.Future[None]](), list[int]()
        live.on_quiet(self.flush)

    async def ask(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        with self.live.waiting():
            await future

    def flush(self) -> None:
        if self.waiting:
            self.waves.append(len(self.waiting))
        for future in self.waiting:
            future.set_result(None)
        self.waiting.clear()


def played(items: int, workers: int, play: Callable[[Gathering, int], Awaitable[None]]) -> list[int]:
    """How many calls each wave has if items are played like this."""

    async def run() -> list[int]:
        live = Live()
        gathering = Gathering(live)

        async def finished(item: int) -> int:
            await play(gathering, item)
            return item

        async for _ in play_many(Feed(range(items)), finished, workers, live=live):
            pass
        return gathering.waves

    return asyncio.run(run())


@pytest.mark.parametrize("turns", [1, 3])
def test_every_turn_of_all_flows_is_one_wave(turns: int) -> None:
    async def play(gathering: Gathering, item: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(random.random() / 200)  # such as a commit
            await gathering.ask()

    assert played(300, 300, play) == [300] * turns


def test_with_fewer_workers_than_items_a_wave_is_what_the_workers_wait_for() -> None:
    async def play(gathering: Gathering, item: int) -> None:
        await gathering.ask()

    assert played(10, 4, play) == [4, 4, 2]


def test_questions_side_by_side_and_those_who_are_through_count_each() -> None:
    async def play(gathering: Gathering, item: int) -> None:
        tasks = [asyncio.ensure_future(gathering.ask()) for _ in range(3)]
        tasks.append(asyncio.ensure_future(asyncio.sleep(item / 1000)))  # one that the store answers
        with gathering.live.apart(tasks):
            await asyncio.wait(tasks)
        await gathering.ask()

    assert played(5, 5, play) == [15, 5]


def test_a_chain_in_which_each_wakes_the_next_is_no_quiet_time() -> None:
    async def play(gathering: Gathering, item: int) -> None:
        with gathering.live.waiting():
            await gate.acquire()
        gate.release()
        await gathering.ask()

    gate = asyncio.Semaphore(1)
    assert played(100, 100, play) == [100]


def test_nobody_is_told_of_quiet_while_one_is_busy() -> None:
    async def run() -> list[str]:
        live, told = Live(), list[str]()
        live.on_quiet(lambda: told.append("quiet"))
        live.add(2)
        with live.waiting():
            await asyncio.sleep(1)
        with live.waiting(), live.waiting():
            await asyncio.sleep(1)
        return told

    assert skipping(run()) == ["quiet"]
