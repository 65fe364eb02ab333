"""The thread in which a model of this process plays its requests as one continuous batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cai.errors import CallRejected, ModelError, ModelStopped

log = logging.getLogger("cai")


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One request on its way through the batch; `future` is done when it is over."""

    future: Future[None] = field(default_factory=Future)

    def end(self, error: Exception | None = None) -> None:
        """Wake the caller, with the error if there is one; a cancelled job has no caller."""
        with suppress(InvalidStateError):
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


J = TypeVar("J", bound=Job)


class Engine(ABC, Generic[J]):
    """Plays jobs in a thread of its own, at most `limit` at a time; new ones join between two steps.

    name: the model, for messages. The thread starts here, so a backend's own attributes are set before.
    """

    def __init__(self, name: str, limit: int = sys.maxsize) -> None:
        self._name = name
        self._limit = limit
        self._live: list[J] = []
        self._waiting: list[J] = []  # oldest first
        self._patience = 0.0  # seconds that a batch waits for new jobs before its next step
        self._stopped: ModelError | None = None
        self._inbox: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        # A daemon: a program that ends without `close` must not wait for replies that are not read.
        self._thread = threading.Thread(target=self._run, name=f"cai {name}", daemon=True)
        self._thread.start()

    def submit(self, job: J) -> None:
        """Queue a job, from any thread; a stopped engine ends it with the reason."""
        self._inbox.put(job)
        if self._stopped is not None:  # read after the put: the thread ends every job that was put before it was set
            job.end(self._stopped)

    async def play(self, job: J) -> J:
        """The job once it is over; cancelling the caller takes it out of the batch."""
        self.submit(job)
        await asyncio.wrap_future(job.future)
        return job

    async def close(self) -> None:
        """Stop after the current step, and wait for it; jobs that are not over get ModelStopped."""
        self._stop(ModelStopped(f"{self._name} was closed before it answered"))
        await asyncio.to_thread(self._thread.join)

    def _stop(self, reason: ModelError) -> None:
        self._stopped = self._stopped or reason
        self._inbox.put(None)

    def _run(self) -> None:
        while self._receive():
            try:
                self._step()
            except Exception as error:  # whatever it was, no caller may wait forever
                self._fail(error)
        for job in self._live + self._waiting:
            job.end(self._stopped)

    def _receive(self) -> bool:
        """Move arrivals to the waiting jobs, blocking while there is nothing to do; False once the engine stops."""
        patience = self._patience if self._live or self._waiting else None
        with suppress(queue.Empty):
            while True:
                job = self._inbox.get(timeout=patience)
                if job is None:
                    return False
                self._waiting.append(job)
                patience = 0.0
        self._waiting = [job for job in self._waiting if not job.future.done()]  # cancelled while it waited
        return True

    @abstractmethod
    def _step(self) -> None:
        """Take waiting jobs into the batch and advance all that are in it; end those that are over."""

    @abstractmethod
    def _fail(self, error: Exception) -> None:
        """Bring the batch to a known state after a step that failed."""

    def _retreat(self, jobs: list[J], company: int, problem: str) -> None:
        """After memory was too small for a batch of `company`: try `jobs` of it again in one half as large.

        problem: what is said of a job that was alone in the batch.
        """
        if company > 1:
            self._limit = company // 2
            log.warning(
                "%s: out of memory with %d requests at once; going on with %d", self._name, company, self._limit
            )
            self._waiting = jobs + self._waiting
        else:
            jobs[0].end(CallRejected("too_long", problem))
