"""The calls that a row took, and why some are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from cai.folder.journal.store import StoredCall
from cai.folder.lookup import Lookup
from cai.folder.shards.calls import calls_in_shards
from cai.records import Drop, Object, Record
from cai.texts.wording import counted

SEARCHED = 20_000  # calls, for those of a drop of version 0.1.0; a second


@dataclass(frozen=True)
class Call:
    """A call that a row took; stored: None if the journal has it no more."""

    key: str
    stored: StoredCall | None


def calls_of(run: Lookup, record: Record) -> tuple[list[Call], list[str]]:
    """The calls of a row, and why some are not known."""
    keys: Sequence[str] = getattr(record, "calls", ())
    notes = []
    if isinstance(record, Drop) and not keys:
        if run.journal is None or record.stage == "source":
            return [], ["no call is known that was answered for it"]
        keys = [call.key for call in islice(run.journal.calls(), SEARCHED) if _begins_with(call.request, record)]
        notes.append("its calls are not written down: these are calls of the run that ask about its prompt")
    if run.journal is None:
        return [Call(key, None) for key in keys], [f"its calls are not known: {run.problem}"]
    stored = {key: run.journal.call(key) for key in keys}
    stored |= calls_in_shards(run.folder, [key for key, call in stored.items() if call is None])
    calls = [Call(key, stored[key]) for key in keys]
    lost = sum(call.stored is None for call in calls)
    if lost:
        notes.append(f"{counted(lost, 'call')} of it not in {run.folder / 'calls.sqlite'}")
    return calls, notes


def _begins_with(request: Object, drop: Drop) -> bool:
    """Whether a call asks about the prompt of a drop, after a system text that the run may have put before it."""
    turns, asked = list(drop.prompt or ()), request["payload"].get("messages")
    if not turns or not isinstance(asked, list):
        return False
    return asked[: len(turns)] == turns or asked[1 : len(turns) + 1] == turns
