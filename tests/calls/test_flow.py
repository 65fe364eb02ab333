"""The driver: flows get their answers in order, go depth first, and end well however they end."""

from __future__ import annotations

import asyncio
import itertools
import queue
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake, ask, driver, gone, skipping
from seldom import seldom

from cai.calls.feed import Feed, play_many
from cai.calls.flow import Driver
from cai.calls.limits import ATTEMPTS, DEAD, FAILING
from cai.calls.model import call_seed
from cai.calls.prices import Price, Tally
from cai.calls.seats import Flow, Played
from cai.errors import (
    AuthenticationFailed,
    BudgetReached,
    CallRejected,
    FieldRefused,
    ModelBusy,
    ModelFault,
    ModelStopped,
    RowDropped,
    RunError,
    ServerDown,
)
from cai.folder.journal.store import Store, read_calls


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def chain(name: str, turns: int = 3) -> Flow[list[str]]:
    """A flow that asks one thing after another."""
    heard = []
    for turn in range(turns):
        [answer] = yield [ask(f"{name}.{turn}")]
        heard.append(answer.text)
    return heard


def fan(name: str, width: int) -> Flow[list[str]]:
    """A flow that asks everything at once."""
    answers = yield [ask(f"{name}/{n}", "judge" if n % 2 else "critic") for n in range(width)]
    return [answer.text for answer in answers]


class Line:
    """A feed for loops that skip time: threads know nothing of their clock."""

    def __init__(self, items: Any) -> None:
        self._items = iter(items)

    async def get(self) -> Any:
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        self._items = iter(())


def play_all(
    driving: Driver, count: int, workers: int, make: Callable[[str], Flow[Any]] = chain, feed: Any = None
) -> AsyncGenerator[tuple[int, Any], None]:
    async def play(number: int) -> tuple[int, Any]:
        try:
            return number, await driving.play(f"r{number}", number, make(f"q{number}"))
        except RowDropped as drop:
            return number, drop

    return play_many(feed or Line(range(count)), play, workers)


# One flow


def test_a_flow_is_sent_the_completions_of_what_it_asked_in_order(store: Store) -> None:
    model = Fake()

    async def main() -> Played[list[str]]:
        return await driver(model, store).play("r", 0, fan("q", 9))

    played = asyncio.run(main())
    assert played.result == [f"answer to q/{n}" for n in range(9)]
    assert len(played.calls) == len(set(played.calls)) == 9
    assert played.models == {"judge": "fake-1", "critic": "fake-1"}
    assert (played.usage.output_tokens, played.usage.cached_tokens) == (27, None)


def test_what_is_asked_at_once_runs_side_by_side(store: Store) -> None:
    model = Fake(delay=1.0)

    async def main() -> float:
        await driver(model, store).play("r", 0, fan("q", 8))
        return asyncio.get_running_loop().time()

    assert skipping(main()) == pytest.approx(1.0, abs=0.01)
    assert model.most_in_flight == 8


@pytest.mark.parametrize(("flows", "width"), seldom([(1, 30), (5, 6), (8, 12), (40, 1), (3, 20)], [(1, 30), (8, 12)]))
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.05])
def test_no_more_calls_than_there_are_slots_would_be_paid_again_after_a_kill(
    store: Store, tmp_path: Path, flows: int, width: int, delay: float
) -> None:
    slots = 4
    model = Fake(delay=delay, concurrency=slots)
    at_risk = []  # at every send: calls that were sent, and whose answers are not on disk

    def count(*_: object) -> None:
        at_risk.append(len(model.asked) - len(list(read_calls(tmp_path))))

    async def main() -> None:
        model.behave = count
        async for _ in play_all(driver(model, store), flows, flows, lambda name: fan(name, width)):
            pass

    asyncio.run(main())
    assert len(at_risk) == flows * width
    assert max(at_risk) <= slots


def test_the_calls_of_a_row_are_listed_in_the_order_asked_and_found_in_the_store(store: Store) -> None:
    async def main() -> Played[list[str]]:
        return await driver(Fake(), store).play("r", 0, chain("q"))

    played = asyncio.run(main())
    kept = {call.key: call.request["payload"]["messages"][0]["content"] for call in store.calls()}
    assert [kept[key] for key in played.calls] == ["q.0", "q.1", "q.2"]


def test_seeds_come_from_what_is_asked_for_whom() -> None:
    seeds = {
        call_seed(*each) for each in itertools.product((0, 1), ("a", "b"), ("critic", "judge"), range(50))
    }  # fmt: skip
    assert len(seeds) == 400 and all(0 <= seed < 2**31 for seed in seeds)
    assert call_seed(0, "a", "judge", 3) == call_seed(0, "a", "judge", 3)
    assert isinstance(call_seed(0, "\ud800", "judge", 3), int)


def test_a_finished_call_is_replayed_and_not_asked_again(store: Store) -> None:
    model, tally = Fake(), Tally()

    async def main() -> None:
        driving = driver(model, store, tally=tally)
        first = await driving.play("r", 0, chain("q"))
        assert await driving.play("r", 0, chain("q")) == first

    asyncio.run(main())
    assert len(model.asked) == 3
    assert (tally.answered, tally.replayed, tally.sent) == (3, 3, 3)


def test_an_equal_call_that_is_on_its_way_is_waited_for(store: Store) -> None:
    model = Fake(delay=1.0)

    def twice() -> Flow[list[str]]:
        answers = yield [ask("the same"), ask("the same", "critic")]
        return [answer.text for answer in answers]

    model.payload = lambda call: {"messages": list(call.request.messages)}  # type: ignore[method-assign]
    played = skipping(driver_play(model, store, twice()))
    assert model.asked == ["the same"] and len(set(played.calls)) == 1


def test_a_call_whose_twin_failed_is_asked_by_itself(store: Store) -> None:
    def once_bad(text: str, times: int) -> None:
        if times == 1:
            raise CallRejected("model_error", "400")

    model = Fake(delay=1.0, behave=once_bad)
    model.payload = lambda call: {"messages": list(call.request.messages)}  # type: ignore[method-assign]

    async def main() -> list[Any]:
        driving = driver(model, store)
        both = [driving.play(row, 0, chain("q", 1)) for row in "ab"]
        return await asyncio.gather(*both, return_exceptions=True)

    first, second = skipping(main())
    assert isinstance(first, RowDropped) and second.result == ["answer to q.0"]


async def driver_play(model: Fake, store: Store, flow: Flow[Any], **options: Any) -> Played[Any]:
    return await driver(model, store, **options).play("r", 0, flow)


# Rows that are lost


def test_a_rejected_call_drops_its_row_at_the_stage_of_its_role(store: Store) -> None:
    def reject(text: str, _: int) -> None:
        raise CallRejected("content_filter", "withheld")

    with pytest.raises(RowDropped) as dropped:
        asyncio.run(driver_play(Fake(behave=reject), store, fan("q", 1)))
    assert (dropped.value.reason, dropped.value.stage, dropped.value.detail) == ("content_filter", "critic", "withheld")
    assert list(store.calls()) == []


def test_a_payload_that_cannot_be_drops_its_row(store: Store) -> None:
    class Short(Fake):
        def payload(self, call: Any) -> dict[str, Any]:
            raise CallRejected("too_long", "9 tokens of 8")

    with pytest.raises(RowDropped, match="assistant: too_long: 9 tokens of 8"):
        asyncio.run(driver_play(Short(), store, chain("q")))


def test_a_flow_may_drop_its_row_itself_and_is_closed(store: Store) -> None:
    closed = []

    def picky() -> Flow[None]:
        try:
            yield [ask("q")]
            raise RowDropped("empty", "assistant", "nothing")
        finally:
            closed.append(True)

    with pytest.raises(RowDropped, match="empty") as dropped:
        asyncio.run(driver_play(Fake(), store, picky()))
    assert closed == [True]
    assert [call.key for call in store.calls()] == list(dropped.value.calls)


def otherwise(name: str, *, optional: bool) -> Flow[str]:
    """A flow that asks in another way what was refused."""
    request = replace(ask(f"{name} precisely", "critic"), optional=optional)
    try:
        [answer] = yield [request]
    except RowDropped as refusal:
        assert (refusal.reason, refusal.stage) == ("model_error", "critic")
        [answer] = yield [ask(f"{name} roughly", "critic")]
    return answer.text


def refusing(text: str, time: int) -> None:
    if "precisely" in text:
        raise CallRejected("model_error", "no such field")


def test_a_flow_may_ask_otherwise_after_a_refusal(store: Store) -> None:
    model = Fake(behave=refusing)

    async def main() -> Played[str]:
        return await driver(model, store).play("row", 0, otherwise("one", optional=True))

    played = skipping(main())
    assert played.result == "answer to one roughly"
    assert len(played.calls) == 1 and model.asked == ["one precisely", "one roughly"]


def test_however_often_what_is_optional_is_refused_no_row_is_lost(store: Store) -> None:
    rows = 3 * FAILING

    async def main() -> list[Played[str]]:
        playing = driver(Fake(delay=1.0, concurrency=rows, behave=refusing), store)
        flows = (otherwise(str(row), optional=True) for row in range(rows))
        return await asyncio.gather(*(playing.play(str(row), row, flow) for row, flow in enumerate(flows)))

    assert len(skipping(main())) == rows


def test_siblings_of_a_rejected_call_are_kept_because_they_are_paid_for(store: Store) -> None:
    def reject(text: str, _: int) -> None:
        if text == "q/0":
            raise CallRejected("model_error", "400")

    class Uneven(Fake):
        async def send(self, payload: Any) -> Any:
            self.delay += 1.0
            return await super().send(payload)

    with pytest.raises(RowDropped) as dropped:
        skipping(driver_play(Uneven(behave=reject), store, fan("q", 4)))
    assert len(list(store.calls())) == 3
    assert {call.key for call in store.calls()} == set(dropped.value.calls)


def test_a_passing_fault_is_asked_again(store: Store) -> None:
    def stumble(text: str, times: int) -> None:
        if times < ATTEMPTS - 3:
            raise ModelFault("500")

    tally = Tally()
    played = skipping(driver_play(Fake(behave=stumble), store, chain("q"), tally=tally))
    assert len(played.result) == 3 and tally.retries == 3 * (ATTEMPTS - 4)


def test_a_fault_that_stays_costs_one_row_when_others_are_answered(store: Store) -> None:
    def poison(text: str, _: int) -> None:
        if text.startswith("q3"):
            raise ModelFault("500 on this one")

    model = Fake(concurrency=1, behave=poison)

    async def main() -> list[tuple[int, Any]]:
        return [each async for each in play_all(driver(model, store), 6, 1)]

    rows = dict(skipping(main()))
    assert [number for number, row in rows.items() if isinstance(row, RowDropped)] == [3]
    assert rows[3].reason == "model_error" and f"({ATTEMPTS} tries)" in rows[3].detail
    assert model.asked.count("q3.0") == ATTEMPTS


def test_a_flow_that_can_do_without_an_answer_goes_on_if_its_field_is_refused(store: Store) -> None:
    def no_logprobs(text: str, _: int) -> None:
        if text == "letters":
            raise FieldRefused("recorded:fake: fake answered 400: logprobs is not supported")

    def asks_letters_first(optional: bool) -> Flow[str]:
        try:
            yield [replace(ask("letters"), optional=optional)]
        except RowDropped as drop:
            assert drop.reason == "model_error" and "the server answered 400" in drop.detail
        [answer] = yield [ask("word")]
        return answer.text

    assert (
        asyncio.run(driver_play(Fake(behave=no_logprobs), store, asks_letters_first(True))).result == "answer to word"
    )
    with pytest.raises(FieldRefused):
        asyncio.run(driver_play(Fake(behave=no_logprobs), store, asks_letters_first(False)))


# Runs that end


def test_a_dead_server_ends_the_run_after_a_few_tries(store: Store) -> None:
    def dead(text: str, _: int) -> None:
        raise ModelFault("connection refused")

    model = Fake(concurrency=4, behave=dead)

    async def main() -> None:
        async for _ in play_all(driver(model, store), 1000, 4):
            pass

    with pytest.raises(ServerDown, match="connection refused; check the model or start its server"):
        skipping(main())
    assert len(model.asked) <= 4 * 3


def test_a_server_that_dies_loses_no_more_rows_than_it_takes_to_notice(store: Store) -> None:
    def dying(text: str, _: int) -> None:
        if len(model.answered) >= 100:
            raise ModelFault("gone")

    model, rows = Fake(concurrency=8, delay=0.1, behave=dying), list[Any]()

    async def main() -> None:
        async for _, row in play_all(driver(model, store), 1000, 8):
            rows.append(row)

    with pytest.raises(ServerDown):
        skipping(main())
    assert len([row for row in rows if isinstance(row, RowDropped)]) < DEAD
    assert len(list(store.calls())) == len(model.answered)


def test_after_a_fatal_error_nothing_is_sent_and_what_is_on_its_way_is_kept(store: Store) -> None:
    sent_at_error = []

    def refuse(text: str, _: int) -> None:
        if text == "q2.0":
            sent_at_error.append(len(model.asked))
            raise AuthenticationFailed("401")

    class Slow(Fake):
        async def send(self, payload: Any) -> Any:
            self.delay = 0.5 if "q2" in str(payload) else 5.0
            return await super().send(payload)

    model, rows = Slow(concurrency=6, behave=refuse), list[int]()

    async def main() -> None:
        async for number, _ in play_all(driver(model, store), 100, 6, lambda name: chain(name, 1)):
            rows.append(number)

    with pytest.raises(AuthenticationFailed):
        skipping(main())
    assert sent_at_error == [6] == [len(model.asked)]
    assert sorted(rows) == [0, 1, 3, 4, 5] and len(list(store.calls())) == 5


def test_a_fatal_error_is_not_held_up_by_those_who_wait_for_a_slot_or_their_next_try(store: Store) -> None:
    def odd(text: str, _: int) -> None:
        if text == "q0.0":
            raise ModelBusy("429", retry_after=200.0)
        if text == "q1.0":
            raise ModelFault("500", retry_after=200.0)
        if text == "q2.0":
            raise AuthenticationFailed("401")

    class Slow(Fake):
        async def send(self, payload: Any) -> Any:
            self.delay = 1.0 if "q2" in str(payload) else 0.0
            return await super().send(payload)

    async def main() -> float:
        with pytest.raises(AuthenticationFailed):
            async for _ in play_all(driver(Slow(concurrency=4, behave=odd), store), 100, 8):
                pass
        return asyncio.get_running_loop().time()

    assert skipping(main()) < 2


def test_nothing_but_429_stops_everyone(store: Store) -> None:
    def busy(text: str, _: int) -> None:
        raise ModelBusy("429 quota", retry_after=60.0)

    model = Fake(concurrency=4, behave=busy)

    async def main() -> None:
        async for _ in play_all(driver(model, store), 100, 8):
            pass

    with pytest.raises(ServerDown, match="quota"):
        skipping(main())
    assert model.in_flight == 0 and len(model.asked) < 40


def test_a_call_that_is_never_let_in_while_others_are_costs_its_row(store: Store) -> None:
    def never(text: str, _: int) -> None:
        if text.startswith("q1."):
            raise ModelBusy("429 at fake", retry_after=7.0)

    async def main() -> list[tuple[int, Any]]:
        model = Fake(delay=20.0, concurrency=2, behave=never)
        return [each async for each in play_all(driver(model, store), 30, 2)]

    rows = dict(skipping(main()))
    assert [number for number, row in rows.items() if isinstance(row, RowDropped)] == [1]
    assert rows[1].reason == "model_error" and "429 at the server (nothing else for 3" in rows[1].detail


def test_an_error_that_nobody_expected_surfaces_and_ends_the_run(store: Store) -> None:
    def bug(text: str, _: int) -> None:
        if text == "q5.1":
            raise ZeroDivisionError

    async def main() -> None:
        async for _ in play_all(driver(Fake(delay=0.1, behave=bug), store), 1000, 4):
            pass

    with pytest.raises(ZeroDivisionError):
        skipping(main())


def test_a_disk_that_is_full_ends_the_run_without_waiting_for_answers_it_could_not_keep(store: Store) -> None:
    async def main() -> float:
        async def play(number: int) -> int:
            if number == 3:
                raise RunError("disk full")
            await asyncio.sleep(1000)
            return number

        with pytest.raises(RunError, match="disk full"):
            async for _ in play_many(Line(range(100)), play, 8):  # type: ignore[arg-type]
                pass
        return asyncio.get_running_loop().time()

    assert skipping(main()) < 1


@pytest.mark.parametrize("cap", [0.05, 0.5, 3.0])
def test_the_cap_on_cost_holds_and_every_answer_that_was_paid_is_kept(store: Store, cap: float) -> None:
    price, tally = Price(0.0, 0.01, 0.0, 0.0), Tally()
    model = Fake(delay=0.1, concurrency=8)  # answers are 3 tokens: 0.03 USD; they could be 16: 0.16

    async def main() -> None:
        async for _ in play_all(driver(model, store, cap=cap, price=price, tally=tally), 1000, 8):
            pass

    with pytest.raises(BudgetReached, match="run the same command with a higher cap"):
        skipping(main())
    assert tally.cost <= cap and tally.cost == pytest.approx(0.03 * len(list(store.calls())))
    assert len(model.asked) == len(model.answered)
    assert tally.cost > cap - 0.16 - 1e-9


def test_the_refusal_that_ends_a_run_is_charged_like_those_before_it(store: Store) -> None:
    def unusable(text: str, _: int) -> None:
        raise CallRejected("model_error", "ended with tools", billed=True)

    tally, price = Tally(), Price(0.0, 0.01, 0.0, 0.0)

    async def main() -> None:
        model = Fake(concurrency=1, behave=unusable)
        async for _ in play_all(driver(model, store, price=price, tally=tally), 100, 1):
            pass

    with pytest.raises(ModelStopped, match="recorded:fake answered none of 20 rows as assistant, the last with: ended"):
        skipping(main())
    assert tally.cost == pytest.approx(FAILING * 0.16)


def test_a_server_that_reports_no_tokens_is_charged_the_worst_case(store: Store) -> None:
    class Silent(Fake):
        async def send(self, payload: Any) -> Any:
            import dataclasses

            return dataclasses.replace(await super().send(payload), output_tokens=None)

    tally = Tally()
    played = asyncio.run(
        driver_play(Silent(), store, chain("q"), tally=tally, cap=9.0, price=Price(0.0, 0.01, 0.0, 0.0))
    )
    assert tally.cost == pytest.approx(3 * 0.16) and played.usage.output_tokens is None


# Many flows


def test_flows_go_depth_first(store: Store) -> None:
    begun, at_first = set[str](), 0

    class Watching(Fake):
        async def send(self, payload: Any) -> Any:
            begun.add(payload["messages"][0]["content"].split(".")[0])
            return await super().send(payload)

    async def main() -> int:
        async with aclosing(play_all(driver(Watching(delay=0.1, concurrency=50), store), 1000, 50)) as rows:
            await anext(rows)
            return len(begun)

    at_first = skipping(main())
    assert at_first < 60


def test_as_many_flows_live_as_there_are_workers_however_long_the_input(store: Store) -> None:
    live = most = 0

    def counted(name: str) -> Flow[list[str]]:
        nonlocal live, most
        live += 1
        most = max(most, live)
        try:
            return (yield from chain(name))
        finally:
            live -= 1

    async def main() -> int:
        rows = play_all(driver(Fake(concurrency=8), store), 500, 8, counted)
        return sum([1 async for _ in rows])

    assert skipping(main()) == 500
    assert most <= 8 and live == 0


def test_a_consumer_that_takes_its_time_holds_back_new_flows(store: Store) -> None:
    model = Fake(concurrency=4)

    async def main() -> None:
        async with aclosing(play_all(driver(model, store), 1000, 4)) as rows:
            await anext(rows)
            await asyncio.sleep(100)
            assert len(model.asked) <= 3 * (3 * 4 + 1)

    skipping(main())


def test_the_same_questions_are_asked_at_any_concurrency(tmp_path: Path) -> None:
    async def main(concurrency: int) -> list[tuple[int, Any]]:
        store = Store(tmp_path)
        with_jitter = Fake(concurrency=concurrency, delay=0.01)
        rows = [each async for each in play_all(driver(with_jitter, store), 50, concurrency)]
        store.close()
        (tmp_path / "calls.sqlite").unlink()
        return sorted(rows, key=lambda row: row[0])

    assert skipping(main(1)) == skipping(main(64))


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_consumer_that_stops_early_leaves_no_task_and_no_call_behind(store: Store, after: int) -> None:
    model = Fake(delay=0.001, concurrency=8)

    async def main() -> None:
        async with aclosing(play_all(driver(model, store), 100, 8, feed=Feed(range(100)))) as rows:
            for _ in range(after):
                await anext(rows)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert model.in_flight == 0

    asyncio.run(main())
    gone("cai-source")


def test_a_source_that_blocks_does_not_hold_up_an_error(store: Store) -> None:
    door: queue.Queue[int] = queue.Queue()
    door.put(0)

    def refuse(text: str, _: int) -> None:
        raise AuthenticationFailed("401")

    async def main() -> None:
        async for _ in play_all(driver(Fake(behave=refuse), store), 0, 8, feed=Feed(iter(door.get, -1))):
            pass

    with pytest.raises(AuthenticationFailed):
        asyncio.run(main())
    door.put(-1)
    gone("cai-source")
