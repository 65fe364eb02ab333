"""Where the calls of one model wait for what comes of batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from pathlib import Path

from cai.calls.batches.service import BatchService, Outcome
from cai.calls.live import Live
from cai.calls.prices import Tally
from cai.folder.journal.batches import Batch, BatchJournal
from cai.folder.journal.store import Store

TAKING = 0.001  # seconds between two looks at what is left to be taken
LOOKS = 20_000  # until that counts as lost


class Desk:
    """Calls that wait, and what has come for them.

    wait: seconds after which what a batch has not answered is asked online. most: calls of a file, which becomes
    smaller if too much waits at the provider.
    """

    def __init__(
        self, service: BatchService, store: Store, folder: Path, live: Live, tally: Tally, wait: float | None
    ) -> None:
        self.service, self.store, self.folder, self.live, self.tally = service, store, folder, live, tally
        self.wait = inf if wait is None else wait
        self.journal = BatchJournal(store.rows.db, store.rows.guard)
        self.most = service.most_calls
        self.is_crowded = False  # too much waited at the provider
        self.stopped: BaseException | None = None
        self.waiting: dict[bytes, tuple[asyncio.Future[None], ...]] = {}  # by call: who is told
        self.outcomes: dict[bytes, Outcome] = {}  # of calls, not taken yet
        self.there: dict[bytes, Batch] = {}  # batches by the calls whose answers they may have

    def owes(self, key: bytes) -> bool | None:
        """Whether an earlier session sent a call, whose cost is not set aside; None: nobody did."""
        if key in self.waiting or key in self.outcomes:
            return False
        return True if key in self.there else None

    def tell(self, key: bytes, arrival: asyncio.Future[None]) -> None:
        """Have a future done once there is something for a call that was asked, be it an error that `ask` raises."""
        if self.stopped is None and key in self.waiting:
            self.waiting[key] = (*self.waiting[key], arrival)
        elif not arrival.done():
            arrival.set_result(None)

    def deadline(self, batch: Batch) -> float:
        """When what a batch has not answered is asked online, in unix time."""
        return batch.created_at + self.wait

    def is_wanted(self, keys: Sequence[bytes]) -> bool:
        """Whether somebody waits for one of these calls."""
        return any(key in self.waiting for key in keys)

    def give(self, key: bytes, outcome: Outcome) -> bool:
        """Keep an outcome for whoever waits for it; whether somebody does."""
        if key not in self.waiting:
            return False
        self.there.pop(key, None)
        self.outcomes[key] = outcome
        self.wake(key)
        return True

    def wake(self, key: bytes) -> None:
        """Have those who wait for a call ask for it again."""
        for arrival in self.waiting.pop(key):
            if not arrival.done():
                arrival.set_result(None)

    async def taken(self, most: int = 0) -> None:
        """Returns once at most so many outcomes are left to be taken, or those that are left were not for long."""
        for _ in range(LOOKS):
            if len(self.outcomes) <= most or self.stopped is not None:
                return
            await asyncio.sleep(TAKING)

    def forget(self, keys: Sequence[bytes]) -> None:
        """Note that a batch has nothing more for these calls."""
        for key in keys:
            self.there.pop(key, None)
