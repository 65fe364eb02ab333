"""What becomes of one item of a run: it is played, dropped, left for later, or passed by."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Any

from cai.calls.feed import Feed
from cai.calls.flow import Driver
from cai.calls.live import Live, Parked, Pause
from cai.errors import RowDropped
from cai.folder.journal.inputs import digest_of, names_of
from cai.folder.run import RunFolder
from cai.records import BadPrompt, Drop, Item, Place
from cai.runs.kind import Row, RunKind

log = logging.getLogger("cai")


class Items(RunKind[Row]):
    """The items of a session, and how many there were of each sort."""

    def __init__(self) -> None:
        self.live = Live()
        self.read = self.skipped = self.finished = 0  # items read; finished by an earlier session; and by this one
        self.dropped = Counter[str]()  # by reason
        self._seen = 0  # items, those of other shards, too
        self._unusable: BadPrompt | None = None  # the first record that cannot be used, until one can
        self._failed: dict[int, Any] = {}  # items that failed in an earlier session, by position: they come last
        self._retries = False  # whether it is their turn

    def _passes(self, folder: RunFolder, place: Place) -> bool:
        """Count an item that an earlier session was through with; False for any other, which is to be played."""
        position, item = place
        if not self.is_own(position):
            self._pass_by(folder, item, position)
            return True
        is_read = not self._retries and not self.enough(position) and folder.store.rows.state(position) is not None
        if not is_read or folder.pending(item, position) is not False:
            return False
        self._count(item)
        self.skipped += 1
        return True

    async def _play(
        self, folder: RunFolder, drivers: list[Driver], feed: Feed[Place], place: Place
    ) -> list[Row] | Pause[list[Row]]:
        """One item to its row, or to its place among the dropped."""
        position, item = place
        if self.enough(position):
            feed.close()
            return []
        self._count(item)
        pending = folder.pending(item, position)
        if pending is True and not self._retries and folder.has_failed(position):
            self._failed[position] = item
            return []
        if pending is True:
            assert not isinstance(item, BadPrompt)
            return await self._attempt(folder, drivers, folder.named(item, position), position)
        if isinstance(pending, Drop):
            await self._drop(folder, pending)
        else:
            self.skipped += 1
        return []

    async def _attempt(
        self, folder: RunFolder, drivers: list[Driver], item: Any, position: int
    ) -> list[Row] | Pause[list[Row]]:
        """A usable item to its row, or to what it waits for until it is played again."""
        try:
            row = await self.play(drivers, item, position)
        except Parked as parked:
            return Pause(parked.arrival(), partial(self._attempt, folder, drivers, item, position))
        except RowDropped as error:
            drop = folder.dropped(item, position, error.stage, error.reason, error.detail, error.calls)
            await self._drop(folder, drop)
            return []
        await folder.keep(row, position, item)
        self.kept(row)
        return [row]

    async def _drop(self, folder: RunFolder, drop: Drop) -> None:
        self.dropped[drop.reason] += 1
        await folder.drop(drop)
        log.debug("dropped %s (%s): %s", drop.id, drop.reason, drop.detail)

    def _count(self, item: Item) -> None:
        if self._retries:  # counted before
            return
        self.read += 1
        self._look(item)

    def _look(self, item: Item) -> None:
        """Note whether any item so far can be used."""
        self._seen += 1
        if not isinstance(item, BadPrompt):
            self._unusable = None
        elif self._seen == 1:
            self._unusable = item

    def _pass_by(self, folder: RunFolder, item: Item, position: int) -> None:
        """Note an item that another shard plays: it may be the first of its content, or with its id."""
        self._look(item)
        if not isinstance(item, BadPrompt):
            folder.store.rows.pass_by(names_of(digest_of(item.key, item.messages), item.id), position)
