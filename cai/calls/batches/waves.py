"""Calls that all live flows wait for, sent as batches: a wave of them whenever nothing else can go on.

It knows nothing of providers, and nothing of flows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from math import inf
from pathlib import Path

from cai.calls.batches.follow import Course, Follower
from cai.calls.batches.service import BatchService, Instead, Item, Outcome
from cai.calls.batches.spool import FOLDER, Spool
from cai.calls.live import Live, Parked
from cai.calls.prices import Tally
from cai.errors import ModelBusy, ModelError, ModelFault, ModelStopped
from cai.folder.journal.batches import COLLECTED, OPEN, Batch, BatchJournal
from cai.folder.journal.store import Store
from cai.records import Completion, Values
from cai.texts.wording import counted

log = logging.getLogger("cai")
MOST_AGE = 600.0  # seconds that a call waits for others whose flows still do something else
CLOSING = 10.0  # seconds at the end for deleting files at the provider
ATTEMPTS = 3  # waves in which a call is sent until its row is lost
TAKING = 0.001  # seconds between two looks at what is left to be taken
STUCK = 10.0  # seconds in which none of that is taken, until it counts as lost


class Batches:
    """The batches of one model in a run folder.

    wait: seconds after which what a batch has not answered is asked online. most: calls of a file, which becomes
    smaller if too much waits at the provider.
    """

    def __init__(
        self,
        model: str,
        service: BatchService,
        store: Store,
        folder: Path,
        live: Live,
        tally: Tally,
        wait: float | None,
        share: float,
    ) -> None:
        self.model, self.service, self.folder, self.tally = model, service, folder, tally
        self.wait = inf if wait is None else wait
        self.share = share
        self.store = store
        self.journal = BatchJournal(store.rows.db, store.rows.guard)
        self.most = service.most_calls
        self.live = live
        self._waiting: dict[bytes, tuple[asyncio.Future[None], ...]] = {}  # by call: who is told
        self._outcomes: dict[bytes, Outcome] = {}  # of calls, not taken yet
        self._tries: dict[bytes, int] = {}  # waves that had no answer to a call
        self._on_stop: list[Callable[[ModelStopped], object]] = []
        self._spools: dict[str, Spool] = {}  # by endpoint
        self._there: dict[bytes, Batch] = {}  # batches by the calls whose answers they may have
        self._wanted: dict[int, Batch] = {}  # those to be looked at
        self._followed: dict[int, asyncio.Task[None]] = {}
        self._courses: dict[int, Course] = {}  # of those that are followed
        self._stopped: BaseException | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_crowded = False  # too much waited at the provider
        self._follower = Follower(self)
        self._wave = 0
        for batch in self.journal.batches(model):
            self._wave = max(self._wave, batch.wave)
            keys = self.journal.unsettled(batch) if batch.state == OPEN else []
            self._there.update(dict.fromkeys(keys, batch))
            if batch.state == OPEN and not keys:
                batch.state = COLLECTED
            if batch.state == COLLECTED:
                self._wanted[batch.id] = batch  # a kill came before its files were deleted
        live.on_quiet(self.flush)

    def ask(self, key: bytes, payload: Values) -> Completion | None:
        """The answer to a call, as a batch has it; None: it is to be asked by itself.

        Raises Parked if it has none yet, what the answer is instead, or after some waves that it was not answered.
        """
        endpoint = self.service.endpoint(payload)
        if endpoint is None:
            return None
        if self._stopped is not None:
            raise self._stopped
        outcome = self._outcomes.pop(key, Instead.LATER)
        if outcome is Instead.ONLINE:
            self._tries.pop(key, None)
            return None
        if isinstance(outcome, Item):
            try:
                done = self.service.read(payload, outcome)
            except (ModelBusy, ModelFault) as error:
                self._miss(key, error)
            else:
                self._tries.pop(key, None)
                return done
        elif outcome is Instead.MISSING:
            self._miss(key, ModelFault("the provider's batch has no answer to it", reached=True))
        self._want(key, endpoint, payload)
        raise Parked([(self, key)])

    def _miss(self, key: bytes, fault: ModelError) -> None:
        """Count a wave that had no answer to a call; raises ModelFault if it was the last one."""
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        self.tally.retries += 1
        if tries >= ATTEMPTS:
            del self._tries[key]
            raise ModelFault(f"{fault} ({counted(tries, 'wave')})", reached=True)

    def tell(self, key: bytes, arrival: asyncio.Future[None]) -> None:
        """Have a future done once there is something for a call that was asked, or with why there will be nothing."""
        waiting = self._waiting.get(key)
        if self._stopped is None and waiting is not None:
            self._waiting[key] = (*waiting, arrival)
        elif not arrival.done():
            _finish(arrival, self._stopped)

    def holds(self, key: bytes) -> bool:
        """Whether a call was asked, and its answer is not taken."""
        return key in self._waiting or key in self._outcomes

    def has_sent(self, key: bytes) -> bool:
        """Whether a batch may have the answer to a call."""
        return key in self._there

    def _want(self, key: bytes, endpoint: str, payload: Values) -> None:
        """See to it that the next wave, or the last one, answers a call."""
        if key in self._waiting:
            return
        self._waiting[key] = ()
        batch = self._there.get(key)
        if batch is not None:
            self._wanted[batch.id] = batch
        else:
            self._gather(key, endpoint, payload)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOST_AGE, self.flush)

    def _gather(self, key: bytes, endpoint: str, payload: Values) -> None:
        spool = self._spools.get(endpoint)
        line = b"" if spool is None else spool.line(payload)
        if spool is None or not spool.takes(line):
            self._send(endpoint)
            spool = self._spools[endpoint] = Spool(self.folder, self.service, endpoint)
            line = spool.line(payload)
        spool.add(key, line)
        self.tally.sent += 1
        if len(spool.keys) >= self.most:
            self._send(endpoint)

    def flush(self) -> None:
        """Send what has gathered, and look at the batches of earlier sessions that are waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for endpoint in list(self._spools):
            self._send(endpoint)
        self._wave = max((batch.wave for batch in self._there.values()), default=self._wave)
        for number in self._wanted.keys() - self._followed.keys():
            batch = self._wanted.pop(number)
            self._follow(batch, self.journal.keys(batch), is_new=False)

    def _send(self, endpoint: str) -> None:
        """Commit to send what has gathered for an endpoint, and begin to."""
        spool = self._spools.pop(endpoint, None)
        if spool is None:
            return
        spool.finish()
        batch = self.journal.intend(spool.nonce, self.model, endpoint, spool.keys, self._wave + 1)
        self.store.flush()
        self._there.update(dict.fromkeys(spool.keys, batch))
        self._follow(batch, spool.keys, is_new=True)

    def _follow(self, batch: Batch, keys: list[bytes], *, is_new: bool) -> None:
        course = self._courses[batch.id] = Course(batch, keys, is_new)
        task = asyncio.ensure_future(self._follower.follow(course))
        self._followed[batch.id] = task
        task.add_done_callback(lambda task: self._ended(batch, task))

    def _ended(self, batch: Batch, task: asyncio.Task[None]) -> None:
        del self._followed[batch.id], self._courses[batch.id]
        if not self._followed:
            self.tally.waiting = ""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.stop(error)
        elif batch.id in self._wanted:  # somebody came when it was just over
            self.flush()

    # For the follower

    def deadline(self, batch: Batch) -> float:
        """When what a batch has not answered is asked online, in unix time."""
        return batch.created_at + self.wait

    def is_wanted(self, keys: Sequence[bytes]) -> bool:
        """Whether somebody waits for one of these calls."""
        return any(key in self._waiting for key in keys)

    def give(self, key: bytes, outcome: Outcome) -> bool:
        """Keep an outcome for whoever waits for it; whether somebody does."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return False
        self._there.pop(key, None)
        self._outcomes[key] = outcome
        for arrival in waiting:
            if not arrival.done():
                arrival.set_result(None)
        return True

    async def taken(self, most: int = 0) -> None:
        """Returns once at most so many outcomes are left to be taken, or none was for long."""
        left, since = len(self._outcomes), time.monotonic()
        while left > most and self._stopped is None and time.monotonic() - since < STUCK:
            await asyncio.sleep(TAKING)
            if len(self._outcomes) != left:
                left, since = len(self._outcomes), time.monotonic()

    def forget(self, keys: Sequence[bytes]) -> None:
        """Note that a batch has nothing more for these calls."""
        for key in keys:
            self._there.pop(key, None)

    # The end

    def stop(self, error: BaseException) -> None:
        """Give an error to all who wait, now or later; batches on their way stay with the provider."""
        if self._stopped is not None:
            return
        self._stopped = error
        waiting, self._waiting = self._waiting, {}
        for arrival in chain.from_iterable(waiting.values()):
            if not arrival.done():
                _finish(arrival, error)
        if isinstance(error, ModelStopped):
            for call in self._on_stop:
                call(error)

    def on_stop(self, call: Callable[[ModelStopped], object]) -> None:
        """Have `call` called with the error that ends all batches."""
        self._on_stop.append(call)

    async def close(self) -> None:
        """Stop looking at batches, and say how many are left to a later session."""
        if self._timer is not None:
            self._timer.cancel()
        ending = [self._followed[number] for number, course in self._courses.items() if course.is_ending]
        tasks = list(self._followed.values())
        if ending:
            await asyncio.wait(ending, timeout=CLOSING)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.service.close()
        for spool in self._spools.values():
            spool.discard()
        self._spools.clear()
        with suppress(OSError):
            (self.folder / FOLDER).rmdir()  # unless it holds a file that is to be sent


def _finish(arrival: asyncio.Future[None], error: BaseException | None) -> None:
    """Let somebody who waits go on, to see an error if there is one."""
    if error is None:
        arrival.set_result(None)
    else:
        arrival.set_exception(error)


def remove_spools(folder: Path, journal: BatchJournal) -> None:
    """Remove the files of calls that a kill left behind, but for those that are to be sent."""
    needed = {batch.nonce for batch in journal.batches() if batch.state == OPEN and batch.name is None}
    for path in (folder / FOLDER).glob("*.jsonl"):
        if path.stem not in needed:
            path.unlink(missing_ok=True)


def left_at_provider(journal: BatchJournal) -> list[Batch]:
    """The batches whose answers are still to be taken."""
    return [batch for batch in journal.batches() if batch.state == OPEN and batch.file is not None]
