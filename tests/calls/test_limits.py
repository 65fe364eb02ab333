"""Concurrency that adapts, caps per minute, retries and the budget; by a clock that skips every wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from fakes import skipping
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.calls.limits import (
    ATTEMPTS,
    ATTEMPTS_IN_DOUBT,
    BACKOFF_MAX,
    BUSY_PATIENCE,
    CUT,
    DEAD,
    FAILING,
    GROW_AFTER,
    PACED_CALLS,
    PER_CALM_TURN,
    PER_TURN,
    Limiter,
    backoff,
)
from cai.calls.prices import Budget
from cai.errors import BudgetReached, ModelBusy, ModelFault, ServerDown

BUSY = ModelBusy("429", retry_after=1.0)
Send = Callable[[], bool]


def slots(limiter: Limiter) -> int:
    """How many calls the limiter lets be in flight."""
    return int(limiter._slots)


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def call(limiter: Limiter, send: Send, latency: float, order: int = 0, tokens: int = 1) -> float:
    """One call as the driver makes it; returns when it was sent the last time."""
    while True:
        at = await limiter.acquire(order, tokens)
        try:
            if send():
                await asyncio.sleep(latency)
                limiter.answered()
                return at
            await asyncio.sleep(0.002)
            assert limiter.busy(BUSY, at) is None
        finally:
            limiter.release()


class Server:
    """Lets `rate` calls a second in, as hosted APIs do: by windows of a second, or as a bucket that fills."""

    def __init__(self, rate: int, window: str) -> None:
        self.rate, self.window = rate, window
        self.refused, self.since, self.left = 0, -1.0, 0.0 if window == "fixed" else float(rate)

    def __call__(self) -> bool:
        if self.window == "bucket":
            self.left = min(self.rate, self.left + (now() - max(0.0, self.since)) * self.rate)
            self.since = now()
        elif now() - self.since >= 1.0:
            self.since, self.left = now(), self.rate
        if self.left < 1:
            self.refused += 1
            return False
        self.left -= 1
        return True


# Concurrency


def test_no_more_calls_are_in_flight_than_there_are_slots() -> None:
    async def main() -> None:
        limiter, flying, most = Limiter(5), 0, 0

        async def one(order: int) -> None:
            nonlocal flying, most
            await limiter.acquire(order, 1)
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(random.random())
            flying -= 1
            limiter.release()

        await asyncio.gather(*map(one, range(40)))
        assert most == 5 and limiter.tally.in_flight == 0 and limiter.tally.sent == 40

    skipping(main())


def test_the_oldest_flow_goes_first() -> None:
    async def main() -> None:
        limiter, went = Limiter(1), list[int]()
        await limiter.acquire(0, 1)

        async def one(order: int) -> None:
            await limiter.acquire(order, 1)
            went.append(order)
            limiter.release()

        waiting = [asyncio.ensure_future(one(order)) for order in (7, 3, 9, 1)]
        await turns()
        limiter.release()
        await asyncio.gather(*waiting)
        assert went == [1, 3, 7, 9]

    skipping(main())


def test_a_burst_of_refusals_cuts_the_slots_once_and_a_later_burst_again() -> None:
    async def main() -> None:
        limiter = Limiter(40)
        sent = [await limiter.acquire(0, 1) for _ in range(40)]
        await asyncio.sleep(0.1)
        for at in sent:
            limiter.busy(BUSY, at)
            limiter.release()
        assert slots(limiter) == 40 * CUT and limiter.tally.throttled == 40
        later = await limiter.acquire(0, 1)
        limiter.busy(BUSY, later)
        limiter.release()
        assert slots(limiter) == int(40 * CUT * CUT)

    skipping(main())


def test_answers_grow_the_slots_back_and_never_past_the_concurrency() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        at = await limiter.acquire(0, 1)
        limiter.busy(BUSY, at)
        assert slots(limiter) == 3
        for _ in range(GROW_AFTER - 1):
            limiter.answered()
        assert slots(limiter) == 3
        for _ in range(10 * GROW_AFTER):
            limiter.answered()
        assert slots(limiter) == 4

    skipping(main())


def test_one_slot_is_always_left() -> None:
    async def main() -> None:
        limiter = Limiter(2)
        for _ in range(20):
            at = await limiter.acquire(0, 1)
            assert limiter.busy(ModelBusy("429", retry_after=0.1), at) is None
            limiter.answered()
            limiter.release()
        assert slots(limiter) == 1

    skipping(main())


def test_nothing_is_sent_until_retry_after_has_passed() -> None:
    async def main() -> None:
        limiter = Limiter(8)
        at = await limiter.acquire(0, 1)
        limiter.busy(ModelBusy("429", retry_after=17.0), at)
        limiter.release()
        assert await limiter.acquire(0, 1) == pytest.approx(at + 17.0, abs=0.01)
        assert await limiter.acquire(0, 1) == pytest.approx(at + 17.0, abs=0.01)  # one refusal taught no rate

    skipping(main())


def test_a_burst_goes_out_over_several_turns() -> None:
    async def main() -> None:
        limiter = Limiter(100)
        calls = [asyncio.ensure_future(limiter.acquire(0, 1)) for _ in range(100)]
        await asyncio.sleep(0)
        assert limiter.tally.in_flight == PER_TURN
        await asyncio.gather(*calls)
        assert limiter.tally.in_flight == 100

    skipping(main())


@pytest.mark.parametrize("refused", [False, True])
def test_bursts_are_larger_after_the_first_calls_of_a_server_that_has_refused_none(refused: bool) -> None:
    async def main() -> None:
        limiter = Limiter(PACED_CALLS)
        times = await asyncio.gather(*(limiter.acquire(0, 1) for _ in range(PACED_CALLS)))
        if refused:
            limiter.busy(ModelBusy("429", retry_after=0.0), times[-1])
            await asyncio.sleep(3.0)  # until the window has passed
        for _ in range(PACED_CALLS):
            limiter.release()
        await asyncio.sleep(0.01)
        admitted = [limiter.acquire(0, 1) for _ in range(2 * PER_CALM_TURN)]
        calls = [asyncio.ensure_future(call) for call in admitted]
        await asyncio.sleep(0)
        assert limiter.tally.in_flight == (PER_TURN if refused else PER_CALM_TURN)
        await asyncio.gather(*calls)

    skipping(main())


@pytest.mark.parametrize("window", ["fixed", "bucket"])
@pytest.mark.parametrize("latency", [0.01, 0.1, 0.7])
def test_the_rate_is_learned_from_refusals(window: str, latency: float) -> None:
    async def main() -> None:
        limiter, server = Limiter(50), Server(50, window)
        await asyncio.gather(*(call(limiter, server, latency, order) for order in range(500)))
        assert server.refused < 30
        assert now() <= 9 * 1.05 + 3 * latency + 1

    skipping(main())


def test_a_rate_that_rises_again_is_found() -> None:
    async def main() -> None:
        limiter, server = Limiter(50), Server(10, "fixed")
        await asyncio.gather(*(call(limiter, server, 0.05) for _ in range(100)))
        slow, server.rate = now(), 1000
        await asyncio.gather(*(call(limiter, server, 0.05) for _ in range(2000)))
        assert now() - slow < 2000 / 10 / 2

    skipping(main())


def test_one_refusal_after_a_pause_does_not_crush_a_known_rate() -> None:
    async def main() -> None:
        limiter, server = Limiter(50), Server(50, "fixed")
        await asyncio.gather(*(call(limiter, server, 0.1) for _ in range(200)))
        await asyncio.sleep(5)
        await asyncio.gather(*(call(limiter, server, 0.0) for _ in range(3)))
        at = await limiter.acquire(0, 1)
        limiter.busy(BUSY, at)  # such as a call that came a moment before the server's window closed
        limiter.release()
        began = now()
        await asyncio.gather(*(call(limiter, server, 0.1) for _ in range(200)))
        assert now() - began < 200 / 50 / CUT + 2

    skipping(main())


# Caps per minute


@settings(max_examples=30)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=60), st.integers(1, 20), st.integers(50, 200))
def test_no_minute_holds_more_calls_or_tokens_than_the_caps(sizes: list[int], rpm: int, tpm: int) -> None:
    sent = list[tuple[float, int]]()

    async def main() -> None:
        limiter = Limiter(16, rpm=rpm, tpm=tpm)

        async def one(order: int, tokens: int) -> None:
            sent.append((await call(limiter, lambda: True, 0.5, order, tokens), tokens))

        await asyncio.gather(*(one(order, tokens) for order, tokens in enumerate(sizes)))

    skipping(main())
    assert len(sent) == len(sizes)
    for start, _ in sent:
        minute = [tokens for at, tokens in sent if start <= at < start + 60]
        assert len(minute) <= rpm
        assert sum(minute) <= tpm or len(minute) == 1  # a call that is larger than the cap goes alone


def test_a_small_call_of_an_older_flow_does_not_wait_for_the_timer_of_a_large_one() -> None:
    async def main() -> None:
        limiter = Limiter(40, tpm=100)
        await limiter.acquire(0, 50)
        large = asyncio.ensure_future(limiter.acquire(9, 90))
        await turns()
        small = await asyncio.gather(*(limiter.acquire(1, 2) for _ in range(PER_TURN + 2)))
        assert max(small) < 1
        assert await large >= 60

    skipping(main())


# Cancelling and stopping


@settings(max_examples=60)
@given(st.data())
def test_a_cancelled_call_never_keeps_its_slot(data: st.DataObject) -> None:
    async def main() -> None:
        limiter = Limiter(3)

        async def one(order: int) -> None:
            at = await limiter.acquire(order, 1)
            try:
                await asyncio.sleep(data.draw(st.sampled_from([0.0, 0.1, 1.0])))
                if data.draw(st.booleans()):
                    limiter.busy(ModelBusy("429", retry_after=data.draw(st.sampled_from([0.0, 0.3]))), at)
                else:
                    limiter.answered()
            finally:
                limiter.release()

        tasks = [asyncio.ensure_future(one(order)) for order in range(12)]
        for task in data.draw(st.permutations(tasks)):
            await turns(data.draw(st.integers(0, 3)))
            if data.draw(st.booleans()):
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.tally.in_flight == 0
        for _ in range(slots(limiter)):  # all slots can be had again
            await limiter.acquire(0, 1)

    skipping(main())


def test_a_stop_reaches_everyone_who_waits_and_everyone_who_comes() -> None:
    async def main() -> None:
        limiter, error = Limiter(2), ServerDown("gone")
        await limiter.acquire(0, 1)
        await limiter.acquire(0, 1)
        in_time = asyncio.ensure_future(limiter.acquire(1, 1))
        waiting = [asyncio.ensure_future(limiter.acquire(2, 1)) for _ in range(5)]
        await turns()
        limiter.release()  # lets `in_time` go, which learns of it in the next turn
        limiter.stop(error)
        outcomes = await asyncio.gather(in_time, *waiting, return_exceptions=True)
        assert outcomes == [error] * 6
        with pytest.raises(ServerDown):
            await limiter.acquire(0, 1)
        limiter.release()
        assert limiter.tally.in_flight == 0

    skipping(main())


# Giving up


def test_backoff_doubles_with_jitter_and_has_a_ceiling() -> None:
    fault = ModelFault("500")
    for attempt in range(1, 12):
        top = min(BACKOFF_MAX, 0.5 * 2 ** (attempt - 1))
        waits = [backoff(attempt, fault) for _ in range(200)]
        assert top / 2 <= min(waits) < max(waits) <= top
    assert sum(0.5 * 2**n for n in range(ATTEMPTS - 1)) == 15.5


def test_backoff_waits_as_long_as_the_server_asks_within_reason() -> None:
    assert backoff(1, ModelFault("500", retry_after=7.0)) == 7.0
    assert backoff(1, ModelFault("500", retry_after=0.0)) >= 0.25
    assert backoff(1, ModelFault("500", retry_after=1e9)) == BUSY_PATIENCE


ERROR = ModelFault("500", reached=True)
SILENCE = ModelFault("no answer")


def ends_after(limiter: Limiter, error: ModelFault, rows: int = 100) -> int | None:
    """After how many rows that fail one after another the run ends; None: not at all."""
    for row in range(rows):
        if limiter.give_up(row, limiter.attempts, error) is not None:
            return row + 1
    return None


@pytest.mark.parametrize(
    ("error", "answers", "lenient", "rows"),
    [
        (SILENCE, False, False, 1),
        (SILENCE, True, False, DEAD),
        (SILENCE, True, True, DEAD),
        (ERROR, False, False, FAILING),
        (ERROR, True, False, FAILING),
        (ERROR, False, True, None),
        (ERROR, True, True, None),
    ],
)
def test_a_server_is_down_sooner_if_it_cannot_be_reached(
    error: ModelFault, answers: bool, lenient: bool, rows: int | None
) -> None:
    limiter = Limiter(1)
    limiter.lenient = lenient
    if answers:
        limiter.answered()
    assert ends_after(limiter, error) == rows


@pytest.mark.parametrize("error", [ERROR, SILENCE])
def test_rows_that_fail_between_answers_are_lost_by_themselves(error: ModelFault) -> None:
    limiter = Limiter(1)
    for row in range(10 * FAILING):
        limiter.answered()
        assert limiter.give_up(row, ATTEMPTS, error) is None


def test_calls_of_one_row_say_no_more_of_a_server_than_one_call() -> None:
    limiter = Limiter(1)
    limiter.answered()
    assert [limiter.give_up(7, 6, SILENCE) for _ in range(50)] == [None] * 50


def test_once_rows_fail_one_after_another_the_next_are_tried_less_often_until_one_is_answered() -> None:
    limiter, tries = Limiter(1), []
    limiter.answered()
    for row in range(DEAD + 2):
        tries.append(limiter.attempts)
        limiter.give_up(row, 1, ERROR)
    assert tries == [ATTEMPTS, *[ATTEMPTS_IN_DOUBT] * (DEAD - 1), 1, 1]
    limiter.answered()
    assert limiter.attempts == ATTEMPTS


def test_nothing_but_429_ends_the_run_after_a_while() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        while True:
            at = await limiter.acquire(0, 1)
            limiter.release()
            if (down := limiter.busy(ModelBusy("429: quota", retry_after=20.0), at)) is not None:
                break
        assert BUSY_PATIENCE - 21 <= now() <= BUSY_PATIENCE
        assert "quota" in str(down) and "run the same command again" in str(down)

    skipping(main())


def test_a_429_after_a_long_rest_does_not_end_the_run() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        limiter.answered()
        await asyncio.sleep(10 * BUSY_PATIENCE)
        at = await limiter.acquire(0, 1)
        assert limiter.busy(BUSY, at) is None

    skipping(main())


def test_a_pause_of_hours_ends_the_run_at_once() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        at = await limiter.acquire(0, 1)
        assert "daily quota" in str(limiter.busy(ModelBusy("429: daily quota", retry_after=7200.0), at))
        assert now() == 0

    skipping(main())


# Budget


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=25),
    st.floats(0.1, 5),
)
def test_what_is_spent_never_passes_the_cap_whatever_the_interleaving(
    calls: list[tuple[float, float, float]], cap: float
) -> None:
    async def main() -> None:
        budget, most = Budget(cap), 0.0

        async def one(worst: float, share: float, seconds: float) -> bool:
            nonlocal most
            try:
                await budget.reserve(worst)
            except BudgetReached:
                return False
            await asyncio.sleep(seconds)
            budget.settle(worst, worst * share)
            most = max(most, budget.spent)
            return True

        went = await asyncio.gather(*(one(*each) for each in calls))
        assert most <= cap + 1e-9
        assert budget._reserved == 0
        for (worst, _, _), through in zip(calls, went, strict=True):
            assert through or budget.spent + worst > cap - 1e-9 or not all(went)

    skipping(main())


def test_a_call_that_does_not_fit_waits_for_what_others_may_give_back() -> None:
    async def main() -> None:
        budget = Budget(1.0)
        await budget.reserve(0.9)
        second = asyncio.ensure_future(budget.reserve(0.5))
        await turns()
        assert not second.done()
        budget.settle(0.9, 0.1)
        await second
        budget.settle(0.5, 0.5)
        with pytest.raises(BudgetReached, match=r"--max-cost 1 USD: 0\.6000 spent, and the next call could cost 0\.5"):
            await budget.reserve(0.5)

    skipping(main())


def test_rounding_leaves_nothing_reserved_for_ever() -> None:
    async def main() -> None:
        budget = Budget(1.0)
        for worst in (0.1, 0.2, 0.3):
            await budget.reserve(worst)
        for worst in (0.3, 0.1, 0.2):
            budget.settle(worst, 0.0)
        with pytest.raises(BudgetReached):
            await budget.reserve(1.5)

    skipping(main())
