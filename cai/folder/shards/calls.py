"""Finds calls of a run that was played in shards, whose journals have them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from cai.folder.journal.store import Store, StoredCall
from cai.folder.shards.layout import SHARDS


def calls_in_shards(folder: Path, keys: Iterable[str]) -> dict[str, StoredCall]:
    """The finished calls with these keys, in hex as rows have them, that are in the shards of a folder."""
    found: dict[str, StoredCall] = {}
    wanted = set(keys)
    for journal in sorted((folder / SHARDS).glob("*/calls.sqlite")):
        if not wanted:
            break
        with closing(Store(journal.parent, briefly=True)) as store:
            calls = {key: store.call(key) for key in wanted}
        found |= {key: call for key, call in calls.items() if call is not None}
        wanted -= found.keys()
    return found
