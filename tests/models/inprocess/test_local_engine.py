"""The engine thread, played with a pipeline that needs no weights."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import CallRejected, ModelStopped
from cai.models.inprocess.local_engine import BLOCK, ENOUGH, LocalEngine, last_line

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
    beside: list[list[int]]  # what was in the batch when it came
    prompt: int  # steps until its first token
    status: Status = Status.RUNNING

    def get_status(self) -> Status:
        return self.status

    def can_read(self) -> bool:
        return self.prompt <= 0

    def read_all(self) -> list[str]:
        return [f"answer to {self.tokens}"]

    def cancel(self) -> None:
        self.status = Status.CANCEL


@dataclass
class Pipeline:
    """Answers a request after as many steps as its config says; negative ones it ignores, None it refuses."""

    fails_at_step: int = -1
    prompt: int = 10**9  # steps that a prompt takes, if they are fewer than those of the answer
    memory: int = 10**9  # requests in the batch; one more, and all that are in it are ignored
    handles: list[Handle] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def add_request(self, request_id: int, tensor: Any, config: Any) -> Handle:
        if config is None:
            raise RuntimeError("Exception from src/a.cpp:12:\nbad config")
        beside = [handle.tokens for handle in self.handles if handle.status is Status.RUNNING]
        self.handles.append(Handle(tensor.data[0].tolist(), config, beside, self.prompt))
        return self.handles[-1]

    def step(self) -> None:
        self.gate.wait(10)
        live = [handle for handle in self.handles if handle.status is Status.RUNNING]
        self.batches.append(len(live))
        if len(self.batches) == self.fails_at_step:
            raise RuntimeError("Exception from src/b.cpp:34:\nout of memory")
        if len(live) > self.memory:
            for handle in live:
                handle.status = Status.IGNORED
            return
        for handle in live:
            handle.steps -= 1
            handle.prompt -= 1
            if handle.steps < -1:
                handle.status = Status.IGNORED
            elif handle.steps <= 0:
                handle.status = Status.FINISHED


def test_requests_asked_together_share_one_batch() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        engine = LocalEngine(pipeline, "m")
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
        engine = LocalEngine(pipeline, "m")
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
        engine = LocalEngine(pipeline, "m")
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
        engine = LocalEngine(pipeline, "m")
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
        engine = LocalEngine(pipeline, "m")
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
        engine = LocalEngine(pipeline, "m")
        waiting = asyncio.create_task(engine.ask([1], 10**9))
        await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(ModelStopped, match="m was closed"):
            await waiting
        with pytest.raises(ModelStopped, match="m was closed"):
            await engine.ask([2], 1)
        assert "cai m" not in {thread.name for thread in threading.enumerate()}
        assert threading.active_count() <= before + 1  # the executor's thread that waited

    asyncio.run(play())


def test_of_a_native_error_only_the_telling_line_is_kept() -> None:
    assert (
        last_line(RuntimeError("Exception from a.cpp:1:\nCheck failed at b.cpp:2:\n\nno such file\n")) == "no such file"
    )
    assert last_line(RuntimeError("")) == "RuntimeError"


CONVERSATION = list(range(3 * BLOCK))


def played_in_turn(
    prompts: list[list[int]], steps: list[int], memory: int = 10**9, prompt: int = 10**9
) -> tuple[Pipeline, list[Any]]:
    """What an engine that takes prompts in turn does with `prompts`, all asked before its first step."""

    async def play() -> tuple[Pipeline, list[Any]]:
        pipeline = Pipeline(memory=memory, prompt=prompt)
        engine = LocalEngine(pipeline, "m", in_turn=True)
        asked = [asyncio.create_task(engine.ask([9], 2))]  # the thread waits in its step until all others are asked
        asked += [asyncio.create_task(engine.ask(*one)) for one in zip(prompts, steps, strict=True)]
        await asyncio.sleep(0.01)
        pipeline.gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await engine.close()
        return pipeline, answers[1:]

    return asyncio.run(asyncio.wait_for(play(), 20))


def test_a_prompt_waits_for_another_that_begins_like_it_and_then_goes_with_its_likes() -> None:
    prompts = [[*CONVERSATION, 1], [*CONVERSATION, 2], [*CONVERSATION, 3], [7, *CONVERSATION]]
    pipeline, answers = played_in_turn(prompts, [3, 2, 2, 9])
    assert answers == [[f"answer to {prompt}"] for prompt in prompts]
    assert [handle.tokens for handle in pipeline.handles] == [[9], prompts[0], prompts[3], prompts[1], prompts[2]]
    assert prompts[0] in pipeline.handles[2].beside
    assert prompts[0] not in pipeline.handles[3].beside
    assert prompts[1] in pipeline.handles[4].beside  # computed side by side: what they share is there


def test_replies_wait_for_the_prompt_that_they_share_and_not_for_the_reply_to_it() -> None:
    prompts = [[*CONVERSATION, 1], [*CONVERSATION, 2], [*CONVERSATION, 3]]
    pipeline, answers = played_in_turn(prompts, [9, 9, 9], prompt=2)
    assert answers == [[f"answer to {prompt}"] for prompt in prompts]
    assert prompts[0] in pipeline.handles[2].beside and prompts[0] in pipeline.handles[3].beside
    assert len(pipeline.batches) == 11  # two of the first prompt alone, and nine of the two replies that came then


def test_the_tokens_of_a_prompt_that_is_computed_keep_nobody_waiting() -> None:
    prompts = [[n] * (ENOUGH + 1) for n in range(4)]
    pipeline, answers = played_in_turn(prompts, [20] * 4, prompt=2)
    assert answers == [[f"answer to {prompt}"] for prompt in prompts]
    assert max(pipeline.batches) == 4


def test_less_than_two_shared_blocks_are_not_waited_for() -> None:
    short = CONVERSATION[: 2 * BLOCK - 1]
    pipeline, _ = played_in_turn([[*short, 1], [*short, 2]], [2, 2])
    assert [*short, 1] in pipeline.handles[2].beside


def test_a_prompt_does_not_wait_for_one_that_is_never_computed() -> None:
    prompts = [[*CONVERSATION, 1], [*CONVERSATION, 2]]
    _, answers = played_in_turn(prompts, [-5, 1])
    assert isinstance(answers[0], CallRejected)
    assert answers[1] == [f"answer to {prompts[1]}"]

    async def cancelled() -> None:
        pipeline = Pipeline()
        engine = LocalEngine(pipeline, "m", in_turn=True)
        first = asyncio.create_task(engine.ask(prompts[0], 10**9))
        second, third = (asyncio.create_task(engine.ask(prompts[1], 1)) for _ in range(2))
        await asyncio.sleep(0.01)
        second.cancel()  # while it waits for the first
        first.cancel()
        pipeline.gate.set()
        assert await asyncio.wait_for(third, 10) == [f"answer to {prompts[1]}"]
        assert len(pipeline.handles) == 2
        await engine.close()

    asyncio.run(cancelled())


def test_closing_tells_those_who_wait_their_turn_too() -> None:
    async def play() -> None:
        pipeline = Pipeline()
        pipeline.gate.set()
        engine = LocalEngine(pipeline, "m", in_turn=True)
        asked = [asyncio.create_task(engine.ask([*CONVERSATION, n], 10**9)) for n in range(3)]
        await asyncio.sleep(0.01)
        await engine.close()
        assert len(pipeline.handles) == 1
        for one in asked:
            with pytest.raises(ModelStopped, match="m was closed"):
                await one

    asyncio.run(play())


def test_of_many_long_prompts_only_a_few_are_computed_at_once_and_the_oldest_first() -> None:
    prompts = [[n] * (ENOUGH // 2) for n in range(10)]
    pipeline, answers = played_in_turn(prompts, [2] * 10)
    assert answers == [[f"answer to {prompt}"] for prompt in prompts]
    assert max(pipeline.batches) <= 3
    assert [handle.tokens[0] for handle in pipeline.handles[1:]] == list(range(10))


@settings(max_examples=30)
@given(
    tree=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 9), st.integers(-3, 3)), max_size=24),
    memory=st.integers(1, 5),
)
def test_every_prompt_is_answered_whatever_is_shared_and_however_little_memory_there_is(
    tree: list[tuple[int, int, int, int]], memory: int
) -> None:
    prompts = [[a] * 70 + [b] * 70 + [c] for a, b, c, _ in tree]
    _, answers = played_in_turn(prompts, [steps for *_, steps in tree], memory)
    for prompt, (*_, steps), answer in zip(prompts, tree, answers, strict=True):
        if steps >= 0:
            assert answer == [f"answer to {prompt}"]
        else:
            assert isinstance(answer, CallRejected)


def test_what_had_no_memory_in_company_is_asked_again_in_a_smaller_batch() -> None:
    async def play() -> None:
        pipeline = Pipeline(memory=3)
        pipeline.gate.set()
        engine = LocalEngine(pipeline, "m")
        answers = await asyncio.wait_for(asyncio.gather(*(engine.ask([n], 3) for n in range(8))), 60)
        assert answers == [[f"answer to [{n}]"] for n in range(8)]
        await engine.close()

    asyncio.run(play())
