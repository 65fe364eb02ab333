"""Brings what the folder of a run has to where it is in the source now."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from cai.folder.info import INTERRUPTED
from cai.folder.journal.inputs import DONE
from cai.folder.run import RunFolder


async def follow(run: Any, folder: RunFolder) -> None:
    """Bring what the folder has to where it is in the source now, before run.json names that source.

    Raises RunError for an item that is not there any more, or if the folder cannot be written.
    """
    replans = bool(folder.growth) and run.is_replanned
    if replans or not folder.has_source():
        more = {"keeps_missing": run.keeps_missing, "keeps_besides": not replans, "replaces": run.replaces}
        more["belongs"] = run.is_own
        moves = folder.moves(besides=partial(run.is_besides, there=folder.info["identity"]), **more)
        for _ in moves.look(run.everything()):
            await asyncio.sleep(0)  # Ctrl-C is heard
        moves.check()
        moves.apply()
    folder.grow()


def is_through(run: Any, folder: RunFolder) -> bool:
    """Whether the earlier sessions are through with every item of a source that is the same: then none need be read.

    They have ended, too: a count of the records in a file is not what decides that none is left.
    """
    is_over = folder.info.get("stopped", INTERRUPTED) is None and not folder.growth
    if run.total is None or not is_over or not folder.has_source():
        return False
    end = run.total
    if run.shard is not None:  # whose positions are apart
        end = run.shard.number + run.total * run.shard.count
    rows = folder.store.rows
    counts = rows.count(end)
    is_settled = counts.keys().isdisjoint(folder.retried) and not rows.is_growing()
    return is_settled and counts[DONE] > 0 and counts.total() == run.total
