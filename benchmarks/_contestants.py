"""Who does the work that the benchmarks measure: cai's engine, its whole `generate`, and two plain scripts.

All play the same flows over the same prompts, and write a line per finished row. The plain ones are what people write
by hand: `asyncio.gather` over all rows and a semaphore around each call, with `AsyncOpenAI` or with bare aiohttp.
What is measured, and how often, is decided by the scripts that call it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from _common import cpu_seconds

import cai
from cai.calls.feed import Feed, play_many
from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.model import Call, Connection, Model, call_seed
from cai.calls.prices import Tally
from cai.calls.seats import Played, Seat
from cai.constitution.draw import draw
from cai.engine.revise import Ask, Chain, revise
from cai.engine.templates.sets import load_templates
from cai.errors import RowDropped
from cai.folder.run import RunFolder
from cai.models import open_model
from cai.records import BadPrompt, Completion, ConstitutionRef, Drop, Message, Prompt, Request, Revision, Role, Sampling
from cai.sources.files import read_prompts

PlayedFlow = Generator[list[Request], list[Completion], Chain]
FOLLOW_UP: Message = {"role": "user", "content": "Go on: what would you add, and what would you leave out?"}
LAW = ConstitutionRef(name="benchmark", version="1", hash="0" * 64)
MAX_TOKENS = 512


@dataclass
class Outcome:
    """What one contestant took for one job."""

    seconds: float
    cpu: float  # seconds of this process, all threads
    first: float  # seconds until the first row was finished
    rows: int
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    error: str | None = None  # why the job died


def texts(rows: int, poison: int | None = None) -> Iterator[str]:
    """Prompts of about 200 characters; the one numbered `poison` is refused by the stub's mode 400."""
    for row in range(rows):
        marker = " POISON" if row == poison else ""
        yield (
            f"Question {row}{marker}: my neighbour keeps bees, and in a dry summer they drink from the pond where my "
            "children play. What can I do that keeps both the children and the bees safe, and whom should I ask?"
        )


def talk(prompt: Prompt, turns: int) -> PlayedFlow:
    """A conversation of `turns` calls, in which each turn repeats the ones before it."""
    messages = prompt.messages
    reply = ""
    for turn in range(turns):
        if turn:
            messages += ({"role": "assistant", "content": reply}, FOLLOW_UP)
        [done] = yield [Request("assistant", messages)]
        reply = done.text
    return Chain(reply, (), reply)


def flow_maker(kind: str) -> Callable[[Prompt], PlayedFlow]:
    """The flow of a row: "talk:N" for N calls, "revise" for the reply and two rounds of `cai generate` (5 calls)."""
    name, _, turns = kind.partition(":")
    if name == "talk":
        return lambda prompt: talk(prompt, int(turns))
    law = cai.load_constitution("harmless")
    ask, principles = Ask(load_templates("chat"), law), law.principles_for("revise")
    return lambda prompt: revise(prompt, draw(principles, 2, 0, prompt.id, stream="principles"), ask, gate=None)


class EngineJob:
    """A job as `pipeline.Job` plays it, for any flow and any model: run folder, journal, row file, limits."""

    def __init__(self, folder: Path, model: Model, flow_of: Callable[[Prompt], PlayedFlow], width: int) -> None:
        self.folder, self.model, self.flow_of, self.width = folder, model, flow_of, width
        self.skipped = 0
        self.dropped: dict[str, int] = {}

    async def rows(self, prompts: Iterable[str]) -> Any:
        """The rows as they finish."""
        self.run = RunFolder(self.folder, {"command": "generate"})
        self.run.store.spent()  # a real job tells in run.json what the folder has cost, before and after
        self.run.write_info()
        await self.model.start()
        tally = Tally()
        seat = Seat(self.model, Limiter(self.width, tally=tally), Sampling(max_tokens=MAX_TOKENS), None)
        seats = {role: seat for role in ("assistant", "critic", "reviser")}
        self.driver = Driver(seats, self.run.store, seed=0, budget=None, tally=tally)  # type: ignore[arg-type]
        try:
            async for finished in play_many(Feed(enumerate(read_prompts(prompts))), self.play, self.width):
                for row in finished:
                    yield row
        finally:
            await self.model.close()
            self.run.store.spent()
            self.run.write_info()
            self.run.close()

    async def play(self, item: tuple[int, Prompt | BadPrompt]) -> list[Revision]:
        position, prompt = item
        assert isinstance(prompt, Prompt)
        if self.run.pending(prompt, position) is not True:
            self.skipped += 1
            return []
        try:
            played = await self.driver.play(prompt.id, position, self.flow_of(prompt))
        except RowDropped as error:
            self.dropped[error.reason] = self.dropped.get(error.reason, 0) + 1
            drop = Drop(
                id=prompt.id, position=position, stage=error.stage, reason=error.reason, detail=error.detail,
                prompt=prompt.messages,
            )  # fmt: skip
            await self.run.drop(drop)
            return []
        row = made(prompt, position, played)
        await self.run.keep(row, position, prompt)
        return [row]


def made(prompt: Prompt, position: int, played: Played[Chain]) -> Revision:
    """The row of a finished flow, with all its provenance."""
    chain = played.result
    return Revision(
        id=prompt.id, position=position, prompt=prompt.messages, initial=chain.initial, rounds=chain.rounds,
        final=chain.final, constitution=LAW, templates="0" * 64, models=played.models, seed=0, usage=played.usage,
        calls=played.calls,
    )  # fmt: skip


def latencies(rows: int) -> Iterator[bool]:
    """Whether the stub's mode tail answers each one-call row of the engine slowly."""
    from stub import Stub

    stub = Stub(share=0.05)
    model = open_model("openai:stub", Connection(base_url="http://127.0.0.1:1/v1"))
    for prompt in read_prompts(texts(rows)):
        assert isinstance(prompt, Prompt)
        seed = call_seed(0, prompt.id, "assistant", 0)
        call = Call(Request("assistant", prompt.messages), prompt.id, 0, seed, Sampling(max_tokens=MAX_TOKENS))
        payload = orjson.dumps(model.payload(call), option=orjson.OPT_SORT_KEYS)
        yield stub.count(hashlib.sha256(payload).digest()[:12])


class Clock:
    """Wall time and CPU of a job from its construction on."""

    def __init__(self) -> None:
        self.begun, self.cpu = time.perf_counter(), cpu_seconds()
        self.first = 0.0
        self.rows = 0

    def row(self) -> None:
        self.rows += 1
        if self.rows == 1:
            self.first = time.perf_counter() - self.begun

    def outcome(self, dropped: dict[str, int] | None = None, error: str | None = None) -> Outcome:
        seconds, cpu = time.perf_counter() - self.begun, cpu_seconds() - self.cpu
        return Outcome(seconds, cpu, self.first, self.rows, dropped or {}, error)


async def with_engine(url: str, prompts: Iterable[str], kind: str, width: int, folder: Path) -> Outcome:
    clock = Clock()
    model = open_model("openai:stub", Connection(base_url=url + "/v1"))
    job = EngineJob(folder, model, flow_maker(kind), width)
    async for _ in job.rows(prompts):
        clock.row()
    return clock.outcome(job.dropped)


def with_generate(url: str, prompts: Iterable[str], width: int, folder: Path) -> Outcome:
    """The real thing: `cai.generate`, two rounds, run folder and training files included."""
    clock = Clock()
    settings = {"model": "openai:stub", "base_url": url + "/v1", "concurrency": width, "rounds": 2, "out": folder}
    settings["gate"] = False  # which would ask two calls more
    for _ in cai.generate(list(prompts), "harmless", **settings):
        clock.row()
    return clock.outcome()


Send = Callable[[list[Message], int], Awaitable[str]]  # messages and seed


async def with_gather(send: Send, prompts: Iterable[str], kind: str, width: int, folder: Path) -> Outcome:
    """`gather` over all rows, a semaphore per call, a line per row; nothing is kept of calls, nothing is checked.

    Seeds are the engine's, so that the stub gets equal payloads and draws equal delays from them.
    """
    clock = Clock()
    slots, flow_of = asyncio.Semaphore(width), flow_maker(kind)

    async def play(prompt: Prompt, out: Any) -> None:
        flow, asked = flow_of(prompt), Counter[Role]()
        [request] = next(flow)
        try:
            while True:
                seed = call_seed(0, prompt.id, request.role, asked[request.role])
                asked[request.role] += 1
                async with slots:
                    text = await send(list(request.messages), seed)
                [request] = flow.send([Completion(text, "stop", "stub")])
        except StopIteration as stop:
            out.write(json.dumps({"id": prompt.id, "messages": prompt.messages, "reply": stop.value.final}) + "\n")
        clock.row()

    items = [item for item in read_prompts(prompts) if isinstance(item, Prompt)]
    try:
        with open(folder / "rows.jsonl", "w", encoding="utf-8") as out:
            await asyncio.gather(*(play(item, out) for item in items))
    except Exception as error:  # whatever ends such a script is what the table must say
        return clock.outcome(error=type(error).__name__)
    return clock.outcome()


async def with_openai(url: str, prompts: Iterable[str], kind: str, width: int, folder: Path) -> Outcome:
    from openai import AsyncOpenAI

    # Two retries, its default, lose rows against a server that answers 429.
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=20) as client:

        async def send(messages: list[Message], seed: int) -> str:
            done = await client.chat.completions.create(
                model="stub", messages=messages, max_tokens=MAX_TOKENS, temperature=1.0, seed=seed
            )  # type: ignore[call-overload]
            return done.choices[0].message.content or ""

        return await with_gather(send, prompts, kind, width, folder)


async def with_aiohttp(url: str, prompts: Iterable[str], kind: str, width: int, folder: Path) -> Outcome:
    import aiohttp

    address = url + "/v1/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send(messages: list[Message], seed: int) -> str:
            body = {"model": "stub", "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 1.0, "seed": seed}
            async with session.post(address, json=body) as response:
                response.raise_for_status()
                text: str = (await response.json())["choices"][0]["message"]["content"]
                return text

        return await with_gather(send, prompts, kind, width, folder)


def play(who: str, url: str, kind: str, rows: int, width: int, poison: int | None = None) -> dict[str, Any]:
    """One job by one contestant ("engine", "generate", "openai", "aiohttp") in a folder that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    prompts = texts(rows, poison)
    try:
        if who == "generate":
            return asdict(with_generate(url, prompts, width, folder))
        contestant = {"engine": with_engine, "openai": with_openai, "aiohttp": with_aiohttp}[who]
        return asdict(asyncio.run(contestant(url, prompts, kind, width, folder)))
    finally:
        shutil.rmtree(folder)
