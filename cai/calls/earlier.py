"""Answers that were given before: to the same question, or to one that allowed fewer tokens; here, or in other runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cai.calls.model import Call, Model
from cai.errors import RunError
from cai.folder.journal.durability import is_settled
from cai.folder.journal.payloads import call_key, canonical_call
from cai.folder.journal.store import Store
from cai.records import Completion, DropReason, Values

Question = tuple[bytes, Values, int | None]  # key, payload, and its limit of tokens if that is a lower one


class OtherRun:
    """The journal of another run, which is only read; a process may begin to write there.

    It is opened as what nobody writes, since SQLite else leaves files of its own beside it, until there is such a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_written = not is_settled(folder)
        with self._blaming():
            self._store = Store(folder, read_only=True, briefly=not self._is_written)

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except RunError as error:
            raise RunError(f"--reuse {self._folder}: {error}; or leave that out") from error

    def get(self, key: bytes) -> Completion | None:
        """The finished call with this key, or None."""
        with self._blaming():
            if not self._is_written and not is_settled(self._folder):
                self._is_written = True
                self._store.close()
                self._store = Store(self._folder, read_only=True)
            return self._store.get(key)

    def limits(self) -> list[int]:
        """The limits of tokens that its calls have."""
        with self._blaming():
            return self._store.limits()

    def close(self) -> None:
        """Release its file."""
        self._store.close()


class Earlier:
    """Where a driver looks for an answer before it asks, and keeps those that it gets.

    An answer that ended before its limit also answers the same question under a higher one. others: journals of other
    runs; a call of theirs is copied to the run's own, so that its rows name calls which are there. anew: reasons to
    drop a row; an answer that leads to one of them is not taken, but asked for again. twins: calls that asked the same
    as another one in earlier sessions. store, copies: None and False for a plan, which keeps nothing.
    """

    def __init__(self, store: Store | None, others: Sequence[OtherRun] = (), *, copies: bool = True) -> None:
        self._store, self._copies = store, copies
        self._journals: list[Store | OtherRun] = [*([store] if store is not None else []), *others]
        self.anew: Sequence[str] = ()
        self._renewed: set[bytes] = set()  # what was asked again: once in a session
        self.twins: Callable[[Call], Iterable[Call]] = lambda call: ()
        self._limits: dict[Store | OtherRun, list[int]] = {}  # of each journal, once it is asked for

    def find(self, model: Model, call: Call, payload: Values, key: bytes) -> tuple[bytes, Completion] | None:
        """The answer to a call, with the key of the call that got it; None: it is to be asked."""
        for journal in self._journals:
            for asked, question, limit in self._questions(journal, model, call, (key, payload, None)):
                done = journal.get(asked)
                if done is None or (limit is not None and _may_be_cut(done, limit)):
                    continue
                if _reason(done) in self.anew and asked not in self._renewed:
                    continue
                if self._store is not None and journal is not self._store and self._copies:
                    self._store.copy(asked, model.provider, model.name, question, done)
                return asked, done
        return None

    def _questions(self, journal: Store | OtherRun, model: Model, call: Call, question: Question) -> Iterator[Question]:
        """The question, what asked the same, and both under each lower limit that a journal has."""
        yield question
        twins = list(self.twins(call))
        for twin in twins:
            yield *_named(model, twin), None
        if call.request.max_tokens is not None:  # then it has the same limit in every run
            return
        if journal not in self._limits:
            self._limits[journal] = journal.limits()
        for limit in self._limits[journal]:
            if limit < call.max_tokens:
                for each in (call, *twins):
                    lower = replace(each, sampling=replace(call.sampling, max_tokens=limit))
                    yield *_named(model, lower), limit

    def keep(self, key: bytes, model: Model, payload: Values, done: Completion, cost: float | None) -> None:
        """Keep an answer that was asked for, in place of one that was not taken."""
        assert self._store is not None
        if self.anew:
            self._store.discard(key)
            self._renewed.add(key)
        self._store.put(key, model.provider, model.name, payload, done, cost)


def _named(model: Model, call: Call) -> tuple[bytes, Values]:
    """The key and the payload of a call."""
    payload = model.payload(call)
    return call_key(canonical_call(model.provider, model.name, payload, call.sample)), payload


def _may_be_cut(done: Completion, limit: int) -> bool:
    """Whether a higher limit could make an answer longer."""
    if done.finish == "unknown":
        return done.output_tokens is None or done.output_tokens >= limit
    return done.finish == "length"


def _reason(done: Completion) -> DropReason | None:
    """The reason to drop a row that asking the same question again may do away with."""
    if done.finish == "content_filter":
        return "content_filter"
    is_empty = not (done.text.strip() or done.scores or done.logprobs or done.finish == "length")
    return "empty" if is_empty else None
