"""One thread that plays the requests of all live flows as one continuous batch.

Knows a pipeline by `add_request`, `step` and the handles it returns; nothing of prompts, templates or tokenizers.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cai.errors import CallRejected, ModelError, ModelStopped

# Seconds. `step` holds the GIL: only in this pause, after a step that finished a reply, can the loop and the store's
# writer take it on, and what is asked next still joins the coming step.
PAUSE = 0.005


class Pipeline(Protocol):
    """What the thread needs of OpenVINO GenAI's ContinuousBatchingPipeline."""

    def add_request(self, request_id: int, input_ids: Any, generation_config: Any, /) -> Any: ...

    def step(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Job:
    """One request on its way through the batch."""

    tokens: list[int]
    config: Any
    answer: asyncio.Future[list[Any]]
    handle: Any = None


class Engine:
    """Owns a pipeline: `ask` from the loop it was made in; all that is asked meanwhile shares one batch."""

    def __init__(self, pipeline: Pipeline, name: str) -> None:
        self._pipeline = pipeline
        self._name = name  # for messages
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopped: ModelError | None = None
        # A daemon: a program that ends without `close` must not wait for the replies nobody will read.
        self._thread = threading.Thread(target=self._run, name="cai-local", daemon=True)
        self._thread.start()

    async def ask(self, tokens: list[int], config: Any) -> list[Any]:
        """The engine's outputs for one prompt; cancelling the caller takes the request out of the batch."""
        job = _Job(tokens, config, self._loop.create_future())
        self._inbox.put(job)
        if self._stopped is not None:  # looked at after the put: what was put before it was set, the thread ends
            job.answer.cancel()
            raise self._stopped
        return await job.answer

    async def close(self) -> None:
        """Drops what is in the batch, ends the thread and waits for it."""
        self._stopped = self._stopped or ModelStopped(f"{self._name} was closed")
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        live: list[_Job] = []
        count = 0
        patience: float | None = None
        while True:
            for job in self._arrivals(patience):
                if job is None:
                    self._end(live, ModelStopped(f"{self._name} was closed"))
                    self._pipeline.step()  # frees what was cancelled
                    return
                try:
                    job.handle = self._pipeline.add_request(count, _tensor(job.tokens), job.config)
                except Exception as error:  # whatever the native code throws belongs to this request alone
                    self._settle([(job, CallRejected("model_error", f"{self._name}: {one_line(error)}"))])
                    continue
                count += 1
                live.append(job)
            try:
                going = self._advance(live)
            except Exception as error:  # the batch is in an unknown state: nobody waits for a dead engine
                self._stopped = ModelStopped(f"{self._name} failed: {one_line(error)}; the run can be resumed")
                self._end(live, self._stopped)
                return
            patience = None if not going else 0.0 if len(going) == len(live) else PAUSE
            live = going

    def _arrivals(self, patience: float | None) -> Iterable[_Job | None]:
        """What was asked since the last step; waits `patience` seconds for the first (None: until it comes)."""
        with suppress(queue.Empty):
            yield self._inbox.get(timeout=patience)
            while True:
                yield self._inbox.get_nowait()

    def _advance(self, live: list[_Job]) -> list[_Job]:
        """One step of the batch; hands out what it finished and returns what goes on."""
        for job in live:
            if job.answer.cancelled():
                job.handle.cancel()
        if not live:
            return live
        self._pipeline.step()
        going: list[_Job] = []
        done: list[tuple[_Job, Any]] = []
        for job in live:
            status = job.handle.get_status().name
            if status == "RUNNING":
                going.append(job)
            elif status == "FINISHED":
                done.append((job, job.handle.read_all()))
            elif status == "IGNORED":
                problem = f"a request needs more memory than {self._name} keeps for its context cache"
                done.append((job, CallRejected("too_long", problem)))
        self._settle(done)
        return going

    def _settle(self, done: list[tuple[_Job, Any]]) -> None:
        if done:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_hand_out, done)

    def _end(self, live: list[_Job], reason: ModelError) -> None:
        waiting = [job for job in self._arrivals(0.0) if job is not None]
        for job in live:
            job.handle.cancel()
        self._settle([(job, reason) for job in live + waiting])


def _tensor(tokens: list[int]) -> Any:
    import numpy
    import openvino

    return openvino.Tensor(numpy.array([tokens], numpy.int64))


def _hand_out(done: list[tuple[_Job, Any]]) -> None:
    for job, result in done:
        if job.answer.done():  # cancelled meanwhile
            continue
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)


def one_line(error: BaseException) -> str:
    """The telling line of a native error: its last one, without the source positions OpenVINO puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
