"""How fast calls go out, and when to give up: concurrency that adapts to 429, caps per minute, retries.

One `Limiter` per endpoint and model: +1 slot per 25 answers, ×0.75 once per burst of 429 (a burst is every call sent
before the last cut), and nothing is sent until `Retry-After` has passed. A 429 also teaches the rate: as many calls per
window as the server took in the last one. Some time without a 429 raises it by a tenth, then by a fifth, and so on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from math import inf

from cai.calls.prices import Tally
from cai.errors import ModelBusy, ModelFault, ModelStopped

GROW_AFTER = 25  # answers per added slot
CUT = 0.75
# Calls admitted per turn of the event loop: replies are read between turns, so that the first 429 is seen before a
# whole burst has been sent. A run's first calls come back in bursts, so for them a turn takes at least so many seconds.
PER_TURN = 4
PER_CALM_TURN = 16  # after the first calls, from a server that has refused none: fewer turns, 7 % less CPU a call
PACED_CALLS = 1_000
PACED_TURN = 0.001
CLEAN_SECONDS = 10.0  # without a 429 until the rate is raised
CLEAN_WINDOWS = 1.5  # the same in windows; whichever is longer counts
ATTEMPTS = 6  # tries of one call against passing faults; their waits add up to 8–15 s
ATTEMPTS_IN_DOUBT = 3  # the same for a server that has not answered yet, or has just failed on a row: about 1 s
# Rows that failed one after another until the server counts as down. One that cannot be reached is known by few; one
# that answers with an error, such as HTTP 500, may fail on these prompts only, so others are tried, once each.
DEAD = 3
FAILING = 20
BACKOFF = 0.5  # seconds
BACKOFF_MAX = 20.0
BUSY_WAIT = 1.0  # seconds to pause after a 429 without Retry-After
BUSY_PATIENCE = 300.0  # seconds of nothing but 429, the next pause included, before the run stops


@dataclass
class Limiter:
    """Admits calls to one endpoint, oldest flow first; lives on one event loop, whose clock it goes by."""

    concurrency: int
    rpm: int | None = None
    tpm: int | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._slots = float(self.concurrency)
        self._in_flight = 0
        self._since_growth = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[float]]] = []
        self._number = itertools.count()
        self._stopped: ModelStopped | None = None
        self._paused_until = -inf
        self._last_cut = -inf
        self._busy_since: float | None = None  # of the first 429 since the last answer
        self._sent: deque[float] = deque()  # times of sends, from which the rate is learned
        self._window = 1.0
        self._rate = 0  # at most so many sends per `_window` s; 0: not known
        self._least_rate = 0
        self._rate_since = -inf
        self._rate_growth = 0.1
        self._minute: deque[tuple[float, int]] = deque()  # (time, tokens) of the last minute, for rpm and tpm
        self._minute_tokens = 0
        self._timer: asyncio.TimerHandle | None = None
        self._admitted = 0  # in this turn
        self._paced = PACED_CALLS  # still to go
        self.loading = False  # the server still loads the model: one call at a time asks whether it is done
        self.answers = 0
        self._has_answered = False
        self._failed: set[int] = set()  # rows whose calls used up their attempts since the last answer
        self.lenient = False  # rows that failed in an earlier session are tried again, and failing does not end the run

    @property
    def attempts(self) -> int:
        """Tries that a call gets."""
        if len(self._failed) >= DEAD:
            return 1
        if self._failed or not self._has_answered:
            return ATTEMPTS_IN_DOUBT
        return ATTEMPTS

    async def acquire(self, order: int, tokens: int) -> float:
        """Wait for a slot; `order` is the flow's age (smaller first), `tokens` the call's expected total.

        Returns the time of admission, which `busy` takes. Exactly one `release` follows every acquire that returns.
        Raises the error that `stop` was given.
        """
        if self._stopped is not None:
            raise self._stopped
        loop = asyncio.get_running_loop()
        if not self._waiting and self._has_room():
            now = loop.time()
            if self._free_at(now, tokens) <= now:
                self._count(now, tokens)
                return now
        future: asyncio.Future[float] = loop.create_future()
        heapq.heappush(self._waiting, (order, next(self._number), tokens, future))
        self._admit()
        try:
            at = await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self.release()
            raise
        if self._stopped is not None:  # stopped in the turn in which it was admitted
            self.release()
            raise self._stopped
        return at

    def release(self) -> None:
        """Give the slot back: the call is over, however it went."""
        self._in_flight -= 1
        self.tally.in_flight -= 1
        self._admit()

    def stop(self, error: ModelStopped) -> None:
        """Admit nothing more: all who wait, now or later, get `error`."""
        self._stopped = error
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def answered(self) -> None:
        """Note that a call came back with an answer, which may be a refusal of this one call."""
        self._busy_since = None
        self.loading = False
        self.tally.waiting = ""
        self.answers += 1
        self._heard()
        self._since_growth += 1
        if self._since_growth >= GROW_AFTER and self._slots < self.concurrency:
            self._slots = min(self.concurrency, self._slots + 1)
            self._since_growth = 0

    def busy(self, error: ModelBusy, sent_at: float) -> str | None:
        """Note that the server asked for a pause; why the run ends, or None if it would not take too long."""
        now = asyncio.get_running_loop().time()
        self.tally.throttled += 1
        self._heard()
        if self._busy_since is None:
            self._busy_since = now
        wait = BUSY_WAIT if error.retry_after is None else error.retry_after
        if now + wait - self._busy_since > BUSY_PATIENCE:
            return (
                f"{error}; nothing else for {now - self._busy_since:.0f} s, and it asks to wait {wait:.0f} s more: "
                "run the same command again later"
            )
        self._paused_until = max(self._paused_until, now + wait)
        self.loading = error.loading
        self.tally.waiting = f"the server asks to wait {wait:.0f} s"
        if error.loading:
            self.tally.waiting = "the server loads the model"
        if error.loading:  # which says nothing of how much the server will take
            return None
        if sent_at > self._last_cut:
            self._last_cut = now
            self._slots = max(1.0, self._slots * CUT)
            self._since_growth = 0
            self._window = min(60.0, max(1.0, wait))
            # A known rate falls by no more than the slots: the window may have begun with a pause and hold few calls.
            self._least_rate = int(self._rate * CUT)
            self._rate = max(self._least_rate, sum(at > now - self._window for at in self._sent))
            self._rate_since = now + wait
            self._rate_growth = 0.1
        if self._last_cut - self._window < sent_at:
            # Down to 0, which is no rate: if none was taken, others use the server, too.
            self._rate = max(self._least_rate, self._rate - 1)
        return None

    def _heard(self) -> None:
        self._has_answered = True
        self._failed.clear()

    def give_up(self, row: int, attempt: int, error: ModelFault) -> str | None:
        """Count a row whose call used up its attempts; why the server counts as down, or None if it does not yet."""
        self._failed.add(row)
        if not error.reached:
            if self._has_answered and len(self._failed) < DEAD:
                return None
            advice = "check the model or start its server, then run the same command again"
            return f"no answer after {attempt} tries: {error}; {advice}"
        if self.lenient or len(self._failed) < FAILING:
            return None
        return f"{FAILING} rows failed one after another, the last with: {error}; run the same command again later"

    def _admit(self) -> None:
        """Let waiting calls go, a few per turn."""
        while self._waiting:
            _, _, tokens, future = self._waiting[0]
            if future.done():  # its flow was cancelled
                heapq.heappop(self._waiting)
                continue
            if not self._has_room():
                return  # until a release, or the next turn
            loop = asyncio.get_running_loop()
            now = loop.time()
            at = self._free_at(now, tokens)
            if at > now:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(at, self._admit)
                return
            heapq.heappop(self._waiting)
            self._count(now, tokens)
            future.set_result(now)

    def _has_room(self) -> bool:
        """Whether a slot is free, and this turn admits one more."""
        slots = 1 if self.loading else self._slots
        if self._in_flight + 1 > slots:
            return False
        is_calm = not (self._paced or self._rate)
        return self._admitted < (PER_CALM_TURN if is_calm else PER_TURN)

    def _count(self, now: float, tokens: int) -> None:
        if self._admitted == 0:
            turn = PACED_TURN if self._paced else 0.0
            asyncio.get_running_loop().call_later(turn, self._new_turn)
        self._admitted += 1
        self._paced = max(0, self._paced - 1)
        self._in_flight += 1
        self.tally.in_flight += 1
        self.tally.sent += 1
        self._sent.append(now)
        while len(self._sent) > max(4_096, 2 * self._rate):
            self._sent.popleft()
        if self.rpm or self.tpm:
            self._minute.append((now, tokens))
            self._minute_tokens += tokens

    def _new_turn(self) -> None:
        self._admitted = 0
        self._admit()

    def _free_at(self, now: float, tokens: int) -> float:
        """When the next call may go."""
        at = self._paused_until
        if self._rate:
            if now - self._rate_since > max(CLEAN_SECONDS, CLEAN_WINDOWS * self._window):
                self._rate += max(1, int(self._rate * self._rate_growth))
                self._rate_since = now
                self._rate_growth *= 2
            if len(self._sent) >= self._rate:
                # 5 % more than the window: the server's clock starts when the call arrives, ours when it leaves.
                at = max(at, self._sent[-self._rate] + 1.05 * self._window)
        while self._minute and self._minute[0][0] + 60 <= now:
            self._minute_tokens -= self._minute.popleft()[1]
        over_requests = self.rpm is not None and len(self._minute) >= self.rpm
        # A call that is larger than the cap goes alone.
        over_tokens = self.tpm is not None and bool(self._minute) and self._minute_tokens + tokens > self.tpm
        if over_requests or over_tokens:
            return max(at, self._minute[0][0] + 60)
        return at


def backoff(attempt: int, error: ModelFault) -> float:
    """Seconds before try `attempt` + 1: 0.5 s doubling to 20 s, up to half of it off at random; or as the server says.

    A server is believed up to `BUSY_PATIENCE`.
    """
    wait = min(BACKOFF_MAX, BACKOFF * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
    return max(wait, min(error.retry_after or 0.0, BUSY_PATIENCE))
