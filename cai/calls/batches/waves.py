"""Calls that all live flows wait for, sent as batches: a wave of them whenever nothing else can go on.

It knows nothing of providers, and nothing of flows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cai.calls.batches.desk import Desk
from cai.calls.batches.follow import Course, Follower
from cai.calls.batches.service import BatchService, Instead, Item
from cai.calls.batches.spool import FOLDER, Spool
from cai.calls.live import Live, Parked
from cai.calls.prices import Tally
from cai.errors import CallRejected, ModelBusy, ModelError, ModelFault, ModelStopped
from cai.folder.journal.batches import COLLECTED, OPEN, Batch, BatchJournal
from cai.folder.journal.store import Store
from cai.records import Completion, Values
from cai.texts.wording import counted

log = logging.getLogger("cai")
MOST_AGE = 600.0  # seconds that a call waits for others whose flows still do something else
CLOSING = 10.0  # seconds at the end for deleting files at the provider
ATTEMPTS = 3  # waves in which a call is sent until its row is lost


class Batches(Desk):
    """The batches of one model in a run folder; share: what a call costs in one, of its price.

    model: what the journal calls it. has_made: whether batches that it has of a model by this name are this model's.
    """

    def __init__(
        self,
        model: str,
        has_made: Callable[[str], bool],
        service: BatchService,
        store: Store,
        folder: Path,
        live: Live,
        tally: Tally,
        wait: float | None,
        share: float,
    ) -> None:
        super().__init__(service, store, folder, live, tally, wait)
        self.model, self.share = model, share
        self._tries: dict[bytes, int] = {}  # waves that had no answer to a call
        self._spools: dict[str, Spool] = {}  # by endpoint
        self._wanted: dict[int, Batch] = {}  # those to be looked at
        self._followed: dict[int, asyncio.Task[None]] = {}
        self._courses: dict[int, Course] = {}  # of those that are followed
        self._timer: asyncio.TimerHandle | None = None
        self._follower = Follower(self)
        self._wave = 0
        for batch in self.journal.batches():
            if not has_made(batch.model):
                continue
            self._wave = max(self._wave, batch.wave)
            keys = self.journal.unsettled(batch) if batch.state == OPEN else []
            self.there.update(dict.fromkeys(keys, batch))
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
        if self.stopped is not None:
            raise self.stopped
        outcome = self.outcomes.pop(key, Instead.LATER)
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

    def _want(self, key: bytes, endpoint: str, payload: Values) -> None:
        """See to it that the next wave, or the last one, answers a call."""
        if key in self.waiting:
            return
        self.waiting[key] = ()
        batch = self.there.get(key)
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
        self._wave = max((batch.wave for batch in self.there.values()), default=self._wave)
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
        self.there.update(dict.fromkeys(spool.keys, batch))
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
        if isinstance(error, CallRejected):  # it is not about a call, so none of those that wait can go on
            self.stop(ModelStopped(f"the server refused a batch ({error}): leave out --batch to ask call by call"))
        elif error is not None:
            self.stop(error)
        elif batch.id in self._wanted:  # somebody came when it was just over
            self.flush()

    # The end

    def stop(self, error: BaseException) -> None:
        """Have an error raised to whoever asks; batches on their way stay with the provider.

        One of those who wait is woken, so that the run hears of it.
        """
        if self.stopped is None:
            self.stopped = error
            for key in list(self.waiting)[:1]:
                self.wake(key)

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


def remove_spools(folder: Path, journal: BatchJournal) -> None:
    """Remove the files of calls that a kill left behind, but for those that are to be sent."""
    needed = {batch.nonce for batch in journal.batches() if batch.state == OPEN and batch.name is None}
    for path in (folder / FOLDER).glob("*.jsonl"):
        if path.stem not in needed:
            path.unlink(missing_ok=True)


def left_at_provider(journal: BatchJournal) -> list[Batch]:
    """The batches whose answers are still to be taken."""
    return [batch for batch in journal.batches() if batch.state == OPEN and batch.file is not None]
