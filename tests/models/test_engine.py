"""The engine thread, played with a pipeline that needs no weights."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from cai.errors import CallRejected, ModelStopped
from cai.models.engine import Engine, one_line

pytest.importorskip("openvino")


class Status(Enum):
    RUNNING = 0
    FINISHED = 1
    IGNORED = 2
    CANCEL = 3


@dataclass
class Handle:
    tokens: list[int]
    steps: int
    status: Status = Status.RUNNING

    def get_status(self) -> Status:
        return self.status

    def read_all(self) -> list[str]:
        return [f"answer to {self.tokens}"]

    def cancel(self) -> None:
        self.status = Status.CANCEL


@dataclass
class Pipeline:
    """Answers a request after as many steps as its config says; negative ones it ignores, None it refuses."""

    fails_at_step: int = -1
    handles: list[Handle] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def add_request(self, request_id: int, tensor: Any, config: Any) -> Handle:
        if config is None:
            raise RuntimeError("Exception from src/a.cpp:12:\nbad config")
        self.handles.append(Handle(tensor.data[0].tolist(), config))
        return self.handles[-1]

    def step(self) -> None:
        self.gate.wait(10)
        live = [handle for handle in self.handles if handle.status is Status.RUNNING]
        self.batches.append(len(live))
        if len(self.batches) == self.fails_at_step:
            raise RuntimeError("Exception from src/b.cpp:34:\nout of memory")
        for handle in live:
            handle.steps -= 1
            if handle.steps < -1:
                handle.status = Status.IGNORED
            elif handle.steps <= 0:
                handle.status = Status.FINISHED


def test_requests_asked_together_share_one_batch() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        engine = Engine(pipeline, "m")
        asked = [asyncio.create_task(engine.ask([n], 3)) for n in range(8)]
        await asyncio.sleep(0)
        pipeline.gate.set()
        assert await asyncio.gather(*asked) == [[f"answer to [{n}]"] for n in range(8)]
        assert 8 in pipeline.batches
        assert len(pipeline.batches) < 8 * 3
        await engine.close()

    asyncio.run(play())


def test_a_cancelled_caller_leaves_the_batch_and_the_others_go_on() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        engine = Engine(pipeline, "m")
        dropped, kept = asyncio.create_task(engine.ask([1], 10**9)), asyncio.create_task(engine.ask([2], 5))
        await asyncio.sleep(0.01)
        dropped.cancel()
        await asyncio.wait([dropped])
        pipeline.gate.set()
        assert await kept == ["answer to [2]"]
        assert [handle.status for handle in pipeline.handles] == [Status.CANCEL, Status.FINISHED]
        await engine.close()

    asyncio.run(play())


def test_a_failing_step_reaches_everyone_who_waits_and_everyone_who_asks_later() -> None:
    async def play() -> None:
        pipeline = Pipeline(fails_at_step=2)
        pipeline.gate.set()
        engine = Engine(pipeline, "m")
        answers = await asyncio.gather(engine.ask([1], 9), engine.ask([2], 9), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["m failed: out of memory; the run can be resumed"] * 2
        with pytest.raises(ModelStopped, match="out of memory"):
            await engine.ask([3], 1)
        await engine.close()

    asyncio.run(play())


def test_a_refused_request_fails_alone() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        pipeline.gate.set()
        engine = Engine(pipeline, "m")
        refused, answer = await asyncio.gather(engine.ask([1], None), engine.ask([2], 2), return_exceptions=True)
        assert isinstance(refused, CallRejected)
        assert (refused.reason, str(refused)) == ("model_error", "m: bad config")
        assert answer == ["answer to [2]"]
        await engine.close()

    asyncio.run(play())


def test_a_request_the_cache_cannot_hold_is_rejected_as_too_long() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        pipeline.gate.set()
        engine = Engine(pipeline, "m")
        with pytest.raises(CallRejected, match="memory") as caught:
            await engine.ask([1], -5)
        assert caught.value.reason == "too_long"
        await engine.close()

    asyncio.run(play())


def test_closing_ends_the_thread_and_tells_those_who_wait() -> None:
    async def play() -> None:
        before = threading.active_count()
        pipeline = Pipeline()
        pipeline.gate.set()
        engine = Engine(pipeline, "m")
        waiting = asyncio.create_task(engine.ask([1], 10**9))
        await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(ModelStopped, match="m was closed"):
            await waiting
        with pytest.raises(ModelStopped, match="m was closed"):
            await engine.ask([2], 1)
        assert "cai-local" not in {thread.name for thread in threading.enumerate()}
        assert threading.active_count() <= before + 1  # the executor's thread that waited

    asyncio.run(play())


def test_of_a_native_error_only_the_telling_line_is_kept() -> None:
    assert (
        one_line(RuntimeError("Exception from a.cpp:1:\nCheck failed at b.cpp:2:\n\nno such file\n")) == "no such file"
    )
    assert one_line(RuntimeError("")) == "RuntimeError"
