"""One thread that plays the requests of all live flows as one continuous batch.

A prefix cache helps no request in the step that fills it: six scores of one pair, asked at once, each compute the whole
conversation (2.2 s for 6 x 413 tokens; 1.1 s in turn). So a request is held back until what it shares is computed.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cai.errors import CallRejected, ModelStopped
from cai.models.inprocess.engine import Engine, Job

# Seconds. `step` holds the GIL: only in this pause, after a step that finished a reply, can the loop and the store's
# writer take it on, and what is asked next still joins the coming step.
PAUSE = 0.005
BLOCK = 32  # tokens: OpenVINO's prefix cache for a CPU keeps whole blocks of this size
WORTH = 2  # blocks: what a request must save to be held back; a step of its own costs about as much as one block
ENOUGH = 1024  # tokens to compute, two full steps: more at once only makes the cache give up what those held back need
REMEMBERED = 4096  # blocks, 6 GB of keys and values for the embedded model: more than its cache keeps


@dataclass(slots=True, eq=False)
class _Prompt(Job):
    """A prompt, and the engine's outputs for it once it is over."""

    tokens: list[int]
    config: Any
    outputs: list[Any] = field(default_factory=list)
    handle: Any = None
    begun: bool = False  # its prompt has been computed
    blocks: list[int] = field(default_factory=list)  # names of its beginnings, a block longer each
    cost: int = 0  # tokens to compute


class _Beginnings:
    """Which beginnings of prompts the prefix cache holds, and which are being computed, in blocks.

    What the cache has evicted still counts as held: it is computed again, later than it could be.
    """

    def __init__(self) -> None:
        self._held: dict[int, None] = {}  # by age
        self._coming: Counter[int] = Counter()

    def soon(self, job: _Prompt) -> int:
        """Blocks of `job` that are missing and that a request in the batch will have computed."""
        gain = 0
        for block in job.blocks:
            if block not in self._held:
                if block not in self._coming:
                    break
                gain += 1
        return gain

    def begin(self, job: _Prompt) -> None:
        """`job` is on its way."""
        job.begun = False
        job.cost = len(job.tokens) - BLOCK * sum(block in self._held for block in job.blocks)
        self._coming.update(job.blocks)

    def end(self, job: _Prompt, computed: bool) -> None:
        """The prompt of `job` is through, or `job` is over without; `computed`: it went through the model."""
        job.begun, job.cost = True, 0
        self._coming -= Counter(job.blocks)
        if computed:
            for block in job.blocks:
                self._held.pop(block, None)
                self._held[block] = None
        while len(self._held) > REMEMBERED:
            del self._held[next(iter(self._held))]


class LocalEngine(Engine[_Prompt]):
    """Owns a ContinuousBatchingPipeline of OpenVINO GenAI: all that is asked meanwhile shares one batch.

    in_turn: a prompt waits while another that begins like it is computed, to find the beginning in the prefix cache.
    """

    def __init__(self, pipeline: Any, name: str, *, in_turn: bool = False) -> None:
        self._pipeline = pipeline
        self._in_turn = in_turn
        self._beginnings = _Beginnings()
        self._count = 0  # requests so far: their ids
        super().__init__(name)

    async def ask(self, tokens: list[int], config: Any) -> list[Any]:
        """The engine's outputs for one prompt."""
        job = _Prompt(tokens, config)
        if self._in_turn:
            for at in range(0, len(tokens) - BLOCK + 1, BLOCK):
                job.blocks.append(hash((*job.blocks[-1:], *tokens[at : at + BLOCK])))
        return (await self.play(job)).outputs

    def _run(self) -> None:
        super()._run()
        if self._live:
            for job in self._live:
                job.handle.cancel()
            self._pipeline.step()  # frees what was cancelled

    def _fail(self, error: Exception) -> None:
        """Stop: the batch is in an unknown state."""
        self._stop(ModelStopped(f"{self._name} failed: {last_line(error)}; the run can be resumed"))
        self._waiting += self._live
        self._live = []

    def _step(self) -> None:
        self._admit()
        live = self._live
        for job in live:
            if job.future.cancelled():
                job.handle.cancel()
        if live:
            self._pipeline.step()
        going: list[_Prompt] = []
        crowded: list[_Prompt] = []
        for job in live:
            status = job.handle.get_status().name
            if not job.begun and (status != "RUNNING" or job.handle.can_read()):
                self._beginnings.end(job, computed=status in ("RUNNING", "FINISHED"))
            if status == "RUNNING":
                going.append(job)
                continue
            if status == "FINISHED":
                job.outputs = job.handle.read_all()
                job.end()
            elif status == "IGNORED":
                crowded.append(job)
        self._live = going
        self._patience = PAUSE if len(going) < len(live) else 0.0
        if crowded:
            self._retreat(
                crowded, len(live), f"a request needs more memory than {self._name} keeps for its context cache"
            )
            if len(live) == 1:
                self._limit = sys.maxsize  # it was this one's length, not their number

    def _admit(self) -> None:
        """Put into the batch what need not wait; the rest waits for what is in the batch, never for each other."""
        import numpy
        import openvino

        later: list[_Prompt] = []
        load = sum(job.cost for job in self._live)
        for job in self._waiting:
            turn = not self._in_turn or (load < ENOUGH and self._beginnings.soon(job) < WORTH)
            if not turn or len(self._live) >= self._limit:
                later.append(job)
                continue
            try:
                tensor = openvino.Tensor(numpy.array([job.tokens], numpy.int64))
                job.handle = self._pipeline.add_request(self._count, tensor, job.config)
            except Exception as error:  # whatever the native code throws belongs to this request alone
                job.end(CallRejected("model_error", f"{self._name}: {last_line(error)}"))
                continue
            self._count += 1
            self._beginnings.begin(job)
            load += job.cost
            self._live.append(job)
        self._waiting = later


def last_line(error: BaseException) -> str:
    """The last line of a native error, which gives the reason; OpenVINO puts source positions before it."""
    lines = [type(error).__name__, *str(error).splitlines()]
    return [line.strip() for line in lines if line.strip()][-1]
