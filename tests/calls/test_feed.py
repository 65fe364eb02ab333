"""Feeds: items read ahead in a thread, taken by many."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest
from fakes import gone

from cai.calls.feed import READ_AHEAD, Again, Feed, play_many


def items_of(feed: Feed[int]) -> AsyncGenerator[int, None]:
    async def all_() -> AsyncGenerator[int, None]:
        while True:
            try:
                yield await feed.get()
            except StopAsyncIteration:
                return

    return all_()


def test_a_feed_gives_every_item_once_and_in_order() -> None:
    async def main() -> list[int]:
        return [item async for item in items_of(Feed(range(3 * READ_AHEAD)))]

    assert asyncio.run(main()) == list(range(3 * READ_AHEAD))


def test_what_passes_is_not_played_and_has_no_result() -> None:
    async def play(item: int) -> int:
        assert item % 3
        return item

    async def main() -> list[int]:
        played = play_many(Feed(range(1000)), play, 7, lambda item: item % 3 == 0)
        return sorted([item async for item in played])

    assert asyncio.run(main()) == [item for item in range(1000) if item % 3]


def test_many_takers_share_a_feed_and_all_learn_of_its_end() -> None:
    async def main() -> list[int]:
        feed = Feed(range(1000))

        async def take() -> list[int]:
            return [item async for item in items_of(feed)]

        return sorted(itertools.chain(*await asyncio.gather(*(take() for _ in range(20)))))

    assert asyncio.run(main()) == list(range(1000))


def test_a_slow_source_does_not_hold_the_loop() -> None:
    door: queue.Queue[int] = queue.Queue()

    async def main() -> None:
        feed = Feed(iter(door.get, -1))
        waiting = [asyncio.ensure_future(feed.get()) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)  # the loop goes round while the source blocks
        assert not any(task.done() for task in waiting)
        for item in (1, 2, 3, -1):
            door.put(item)
        assert sorted(await asyncio.gather(*waiting)) == [1, 2, 3]
        with pytest.raises(StopAsyncIteration):
            await feed.get()

    asyncio.run(main())


@pytest.mark.parametrize("gone", range(3))
def test_a_taker_that_is_cancelled_takes_no_item_with_it(gone: int) -> None:
    door: queue.Queue[int] = queue.Queue()

    async def main() -> None:
        feed = Feed(iter(door.get, -1))
        waiting = [asyncio.ensure_future(feed.get()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop(gone).cancel()
        for item in (1, 2, -1):
            door.put(item)
        assert sorted(await asyncio.gather(*waiting)) == [1, 2]

    asyncio.run(main())


def test_an_error_of_the_source_comes_after_its_items() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("unplugged")

    async def main() -> list[int]:
        got = list[int]()
        with pytest.raises(OSError, match="unplugged"):
            async for item in items_of(Feed(broken())):
                got.append(item)
        return got

    assert asyncio.run(main()) == [1, 2]


def test_an_endless_source_is_read_only_a_little_ahead() -> None:
    read = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    async def main() -> None:
        feed = Feed(endless())
        assert [await feed.get() for _ in range(10)] == list(range(10))
        feed.close()

    asyncio.run(main())
    gone("cai-source")
    assert len(read) <= READ_AHEAD + 12


def test_closing_lets_takers_go_while_the_source_blocks() -> None:
    door: queue.Queue[int] = queue.Queue()

    async def main() -> None:
        feed = Feed(iter(door.get, -1))
        waiting = [asyncio.ensure_future(feed.get()) for _ in range(3)]
        await asyncio.sleep(0)
        feed.close()
        for taker in waiting:
            with pytest.raises(StopAsyncIteration):
                await taker

    asyncio.run(main())
    door.put(1)  # the reader wakes after its loop is closed, and goes
    gone("cai-source")


# Sources that can be read once


def test_all_readers_get_every_item_of_a_source_that_can_be_read_once() -> None:
    again = Again(iter(range(10)))
    first = iter(again)
    assert list(itertools.islice(first, 4)) == [0, 1, 2, 3]
    assert list(again) == list(range(10))
    again.release()
    assert list(first) == [4, 5, 6, 7, 8, 9]


def test_a_source_that_says_nothing_holds_no_other_reader() -> None:
    waiting, said = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield from (1, 2)
        waiting.set()
        said.wait()
        yield 3

    again = Again(source())
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(again))
    reader.start()
    waiting.wait()
    assert list(itertools.islice(again, 2)) == [1, 2]
    again.release()
    said.set()
    reader.join()
    assert read == [1, 2, 3]
