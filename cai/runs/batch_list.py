"""The batches of a run folder, for people to read, and their cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from cai.calls.model import Connection
from cai.disk.locks import LOCK, take_lock
from cai.errors import RunError
from cai.folder.journal.batches import OPEN, Batch, BatchJournal
from cai.folder.journal.store import Store
from cai.folder.shards.layout import shards_in
from cai.models import open_model, provider_of
from cai.models.specs import has_address
from cai.records import Record, Values
from cai.texts.wording import counted


class BatchEntry(Record):
    """One batch."""

    wave: int
    model: str
    calls: int
    waiting: int  # calls whose answer is neither kept nor known to be missing
    state: str
    batch: str | None  # the provider's name of it
    created_at: float  # unix time


class BatchList(Record):
    """The batches of a run."""

    run: str
    cancelled: int = 0
    batches: tuple[BatchEntry, ...]

    def lines(self) -> Iterator[str]:
        """For people to read."""
        if not self.batches:
            yield f"{self.run} has no batches"
        for entry in self.batches:
            began = datetime.fromtimestamp(entry.created_at).isoformat(" ", "minutes")
            calls = f"{counted(entry.calls, 'call')}, {entry.waiting:,} to be taken"
            where = f"{entry.batch or 'not created'}  {entry.model}"
            yield f"wave {entry.wave}  {began}  {entry.state:11}  {calls}  {where}"
        if self.cancelled:
            yield f"{counted(self.cancelled, 'batch')} cancelled: the same run with --batch takes what was answered"

    def summary(self) -> Values:
        """For programs."""
        return self.model_dump(mode="json")


def batches_in(run: Path) -> BatchList:
    """The batches of a run folder; raises RunError if it has no calls."""
    _check(run)
    with closing(Store(run, read_only=True)) as store:
        return _list(run, store)


def cancel_batches(run: Path, base_url: str | None) -> BatchList:
    """Have the batches of a run that are in progress end early; raises RunError if the run is being played."""
    _check(run)
    with closing(take_lock(run / LOCK)), closing(Store(run, read_only=True)) as store:
        under_way = [batch for batch in _journal(store).batches() if batch.state == OPEN and batch.name]
        cancelled = asyncio.run(_cancel(under_way, base_url))
        return _list(run, store).model_copy(update={"cancelled": cancelled})


async def _cancel(batches: list[Batch], base_url: str | None) -> int:
    """End batches early; how many were not over already.

    Each is asked for at the address in its model's name with the key of that host, else at `base_url`.
    """
    cancelled = 0
    for spec in dict.fromkeys(batch.model for batch in batches):
        connection = Connection(None if has_address(spec) else base_url)
        model = open_model(spec, connection)
        offer = provider_of(model).batches
        assert offer is not None, "a batch of a model without batches"
        await model.start()
        service = offer.open(model, connection.timeout, "")
        try:
            for batch in batches:
                if batch.model == spec and batch.name is not None:
                    cancelled += await service.cancel(batch.name)
        finally:
            await service.close()
            await model.close()
    return cancelled


def _check(run: Path) -> None:
    for shard in shards_in(run)[:1]:
        raise RunError(f"{run} is played in shards, each with its own batches: name one, such as {shard.folder(run)}")
    if not (run / "calls.sqlite").exists():
        raise RunError(f"{run} is not a run folder: it has no calls.sqlite; name the folder of a run")


def _journal(store: Store) -> BatchJournal:
    return BatchJournal(store.rows.db, store.rows.guard)


def _list(run: Path, store: Store) -> BatchList:
    journal = _journal(store)
    entries = []
    for batch in journal.batches():
        waiting = len(journal.unsettled(batch)) if batch.state == OPEN else 0
        state = {"open": "in progress", "collected": "taken", "cleared": "taken"}[batch.state]
        entries.append(
            BatchEntry(
                wave=batch.wave,
                model=batch.model,
                calls=batch.calls,
                waiting=waiting,
                state=state,
                batch=batch.name,
                created_at=batch.created_at,
            )
        )
    return BatchList(run=str(run), batches=tuple(entries))
