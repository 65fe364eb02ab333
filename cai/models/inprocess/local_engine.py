"""One thread that plays the requests of all live flows as one continuous batch.

A prefix cache helps no request in the step that fills it: six scores of one pair, asked at once, each compute the whole
conversation (2.2 s for 6 x 413 tokens; 1.1 s in turn). So a request can be held back until what it shares is computed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cai.errors import CallRejected, ModelError, ModelStopped

log = logging.getLogger("cai")

# Seconds. `step` holds the GIL: only in this pause, after a step that finished a reply, can the loop and the store's
# writer take it on, and what is asked next still joins the coming step.
PAUSE = 0.005
BLOCK = 32  # tokens: OpenVINO's prefix cache for a CPU keeps whole blocks of this size
WORTH = 2  # blocks: what a request must save to be held back; a step of its own costs about as much as one block
ENOUGH = 1024  # tokens to compute, two full steps: more at once only makes the cache give up what those held back need
REMEMBERED = 4096  # blocks, 6 GB of keys and values for the embedded model: more than its cache keeps


@dataclass(slots=True, eq=False)
class _Job:
    """One request on its way through the batch."""

    tokens: list[int]
    config: Any
    answer: asyncio.Future[list[Any]]
    handle: Any = None
    blocks: tuple[int, ...] = ()  # names of its beginnings, a block longer each
    cost: int = 0  # tokens to compute


class _Beginnings:
    """Which beginnings of prompts the prefix cache holds, and which are being computed, in blocks.

    What the cache has evicted still counts as held: it is computed again, later than it could be.
    """

    def __init__(self) -> None:
        self._held: dict[int, None] = {}  # by age
        self._coming: Counter[int] = Counter()

    def soon(self, job: _Job) -> int:
        """Blocks of `job` that are missing and that a request in the batch will have computed."""
        gain = 0
        for block in job.blocks:
            if block not in self._held:
                if block not in self._coming:
                    break
                gain += 1
        return gain

    def begin(self, job: _Job) -> None:
        """`job` is on its way."""
        job.cost = len(job.tokens) - BLOCK * sum(block in self._held for block in job.blocks)
        self._coming.update(job.blocks)

    def end(self, job: _Job, computed: bool) -> None:
        """`job` is over; `computed`: its prompt went through the model."""
        for block in job.blocks:
            self._coming[block] -= 1
            if not self._coming[block]:
                del self._coming[block]
            if computed:
                self._held.pop(block, None)
                self._held[block] = None
        while len(self._held) > REMEMBERED:
            del self._held[next(iter(self._held))]


class LocalEngine:
    """Owns a ContinuousBatchingPipeline of OpenVINO GenAI: all that is asked meanwhile shares one batch.

    `ask` is called in the loop in which the engine was made. in_turn: a prompt waits while another that begins like it
    is computed, to find the beginning in the prefix cache. For requests that end with their prompt: a reply would hold
    others up until its last token.
    """

    def __init__(self, pipeline: Any, name: str, *, in_turn: bool = False) -> None:
        self._pipeline = pipeline
        self._name = name  # for messages
        self._in_turn = in_turn
        self._beginnings = _Beginnings()
        self._live: list[_Job] = []
        self._waiting: list[_Job] = []  # oldest first
        self._most = sys.maxsize  # requests in the batch: fewer after the cache was too small for them together
        self._count = 0  # requests so far: their ids
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopped: ModelError | None = None
        # A daemon: a program that ends without `close` must not wait for replies that are not read.
        self._thread = threading.Thread(target=self._run, name="cai-local", daemon=True)
        self._thread.start()

    async def ask(self, tokens: list[int], config: Any) -> list[Any]:
        """The engine's outputs for one prompt; cancelling the caller takes the request out of the batch."""
        job = _Job(tokens, config, self._loop.create_future())
        if self._in_turn:
            job.blocks = _blocks(tokens)
        self._inbox.put(job)
        if self._stopped is not None:  # looked at after the put: what was put before it was set, the thread ends
            job.answer.cancel()
            raise self._stopped
        return await job.answer

    async def close(self) -> None:
        """Drop what is in the batch, end the thread and wait for it."""
        self._stopped = self._stopped or ModelStopped(f"{self._name} was closed")
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        patience: float | None = None
        while True:
            for job in self._arrivals(patience):
                if job is None:
                    self._end(ModelStopped(f"{self._name} was closed"))
                    self._pipeline.step()  # frees what was cancelled
                    return
                self._waiting.append(job)
            self._admit()
            try:
                progress = self._advance()
            except Exception as error:  # the batch is in an unknown state: no caller may wait for a dead engine
                self._stopped = ModelStopped(f"{self._name} failed: {last_line(error)}; the run can be resumed")
                self._end(self._stopped)
                return
            patience = 0.0
            if not (self._live or self._waiting):
                patience = None
            elif progress:
                patience = PAUSE

    def _arrivals(self, patience: float | None) -> Iterable[_Job | None]:
        """What was asked since the last step; waits `patience` seconds for the first (None: until it comes)."""
        with suppress(queue.Empty):
            yield self._inbox.get(timeout=patience)
            while True:
                yield self._inbox.get_nowait()

    def _admit(self) -> None:
        """Put into the batch what need not wait; the rest waits for what is in the batch, never for each other."""
        later: list[_Job] = []
        load = sum(job.cost for job in self._live)
        for job in self._waiting:
            if job.answer.cancelled():
                continue
            turn = not self._in_turn or (load < ENOUGH and self._beginnings.soon(job) < WORTH)
            if not turn or len(self._live) >= self._most:
                later.append(job)
                continue
            try:
                job.handle = self._pipeline.add_request(self._count, _tensor(job.tokens), job.config)
            except Exception as error:  # whatever the native code throws belongs to this request alone
                self._settle([(job, CallRejected("model_error", f"{self._name}: {last_line(error)}"))])
                continue
            self._count += 1
            self._beginnings.begin(job)
            load += job.cost
            self._live.append(job)
        self._waiting = later

    def _advance(self) -> bool:
        """Take one step of the batch and hand out what it finished; returns whether anything left the batch."""
        for job in self._live:
            if job.answer.cancelled():
                job.handle.cancel()
        if self._live:
            self._pipeline.step()
        live = self._live
        going: list[_Job] = []
        done: list[tuple[_Job, Any]] = []
        crowded: list[_Job] = []
        for job in live:
            status = job.handle.get_status().name
            if status == "RUNNING":
                going.append(job)
                continue
            self._beginnings.end(job, computed=status == "FINISHED")
            if status == "FINISHED":
                done.append((job, job.handle.read_all()))
            elif status == "IGNORED":
                crowded.append(job)
        self._live = going
        self._settle(done)
        if crowded:
            self._retreat(crowded, len(live))
        return len(going) < len(live)

    def _retreat(self, crowded: list[_Job], company: int) -> None:
        """After the cache was too small: what was in it with others is asked again in a smaller batch."""
        if company > 1:
            self._most = company // 2
            log.warning("%s: no memory for %d requests at once; going on with %d", self._name, company, self._most)
            self._waiting = crowded + self._waiting
        else:
            self._most = sys.maxsize  # it was this one's length, not their number
            problem = f"a request needs more memory than {self._name} keeps for its context cache"
            self._settle([(crowded[0], CallRejected("too_long", problem))])

    def _settle(self, done: list[tuple[_Job, Any]]) -> None:
        if done:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_hand_out, done)

    def _end(self, reason: ModelError) -> None:
        for job in self._live:
            job.handle.cancel()
        jobs = [*self._live, *self._waiting, *(job for job in self._arrivals(0.0) if job is not None)]
        self._live = []
        self._waiting = []
        self._settle([(job, reason) for job in jobs])


def _blocks(tokens: list[int]) -> tuple[int, ...]:
    """A name for each beginning of `tokens` that is whole blocks long: equal where all tokens so far are."""
    names: list[int] = []
    for at in range(0, len(tokens) - BLOCK + 1, BLOCK):
        names.append(hash((*names[-1:], *tokens[at : at + BLOCK])))
    return tuple(names)


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


def last_line(error: BaseException) -> str:
    """The last line of a native error, which gives the reason; OpenVINO puts source positions before it."""
    lines = [type(error).__name__, *str(error).splitlines()]
    return [line.strip() for line in lines if line.strip()][-1]
