"""What the folder of a run has of it already, for a plan: the inputs that it is through with, and its journal."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

from cai.calls.again import journals_of
from cai.folder.growth import OF_REPLIES, growth
from cai.folder.info import find_info
from cai.folder.journal.inputs import DONE, GROWS, digest_of
from cai.folder.journal.store import Store
from cai.records import BadPrompt, Item, Playable, Values

JOURNAL = "calls.sqlite"


class Answered:
    """Looks into the folder of a run, if that holds this run; close it.

    store: the journal; None if there is none. info: its run.json. others: the journals of runs that are reused.
    """

    def __init__(self, run: Any) -> None:
        self.store: Store | None = None
        self.info: Values = {}
        self._seen = set[bytes]()  # contents of the input so far
        self._finished = set[bytes]()  # contents
        self._opened = ExitStack()
        self.others = self._opened.enter_context(journals_of(run.settings.reused, run.out))
        if run.is_resumed() and (run.out / JOURNAL).exists():
            self.info = find_info(run.out) or {}
            self.store = self._opened.enter_context(closing(Store(run.out, read_only=True)))
            anew = {GROWS, *run.settings.retried}
            raised = {each.option for each in growth(self.info["identity"], run.identity)}
            if raised:
                anew.add(DONE)
            if "-n" in raised:
                anew.update(OF_REPLIES)
            self._finished.update(digest for _, digest, state in self.store.rows.states() if state not in anew)

    def close(self) -> None:
        """Release the journals."""
        self._opened.close()

    def follow(self, item: Playable) -> None:
        """An item was counted with what it follows from."""
        self._finished.add(digest_of(item.key, item.messages))

    def status(self, item: Item) -> str:
        """What a plan counts an item as: new, finished, or unusable, as bad records and repeated ones are."""
        if isinstance(item, BadPrompt):
            return "unusable"
        digest = digest_of(item.key, item.messages)
        if digest in self._seen:
            return "unusable"
        self._seen.add(digest)
        return "finished" if digest in self._finished else "new"
