"""Replies written by a vLLM server that has the policy's adapter, loaded anew for each batch of replies.

vLLM and TRL pin packages that cannot be in one environment, so the adapter goes through a folder that both see, and
prompts and replies go over HTTP as tokens. The trainer computes the log-probabilities of what it learns from itself.
Read in vLLM 0.33: the server has not been run by the tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import orjson

from cai.calls.model import Serving
from cai.errors import ModelStopped, ServerDown, UsageError
from cai.models.serving.kinds import room_for
from cai.models.serving.launch import Launch, launch_of, rank_of, served
from cai.models.serving.pool import POOL
from cai.models.serving.process import Server
from cai.models.specs import check_address, parts_of, without_address
from cai.records import Object, Values
from cai.texts.wording import reason_of
from cai.training.setup.keys import TrainConfig
from cai.weights.bases import Base

ADAPTERS = "rollouts"  # folder of the adapters that the server reads
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before a failed request is sent again
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
UPDATING = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
Tokens = Sequence[int]


@contextmanager
def rollout_server(config: TrainConfig, base: Base, folder: Path, processes: int) -> Iterator[RolloutServer | None]:
    """The server that the config names, closed at the end; None: it names none."""
    if config.rollouts is None:
        yield None
        return
    if processes > 1:
        raise UsageError(f"rollouts are asked for by one process, not {processes}: start one, on a GPU of its own")
    rank = config.lora.rank if base.adapter is None else rank_of(base.adapter)
    server = RolloutServer(config.rollouts, base, rank, folder, config.server_args or "")
    try:
        yield server
    finally:
        server.close()


class RolloutServer:
    """A vLLM server that writes replies as the policy does.

    spec: vllm:NAME, a server that is started for the base model NAME, or vllm:NAME@URL, one that runs. base: of the
    policy. rank: of its adapter. folder: of the training. arguments: what a server that is started is told besides.
    Raises UsageError if NAME is not the base.
    """

    def __init__(self, spec: str, base: Base, rank: int, folder: Path, arguments: str = "") -> None:
        check_address(spec)
        self._spec = without_address(spec)
        provider, name, url = parts_of(spec)
        if provider != "vllm" or not name:
            raise UsageError(
                f"rollouts {self._spec}: only vLLM loads an adapter while it runs: write vllm:NAME, or "
                "vllm:NAME@http://HOST:PORT/v1"
            )
        self._folder = folder.resolve() / ADAPTERS
        self._name = f"policy-{hashlib.sha256(bytes(self._folder)).hexdigest()[:8]}"  # others may ask the same server
        self._url = None if url is None else url.rstrip("/").removesuffix("/v1")
        self._launch = None if url is not None else self._launched(spec, name, base, rank, arguments)
        self._server: Server | None = None
        self._loaded: int | None = None  # the step whose adapter the server has

    def _launched(self, spec: str, name: str, base: Base, rank: int, arguments: str) -> Launch:
        files = served(spec, name)
        if files.adapter is not None or files.place != base.place:
            raise UsageError(f"rollouts {spec} is not {base.place}, the base model that is trained: name that one")
        own = ("--enable-lora", f"--max-lora-rank {room_for(rank)}", arguments)
        launch = launch_of("vllm", spec, files, Serving(arguments=own))
        return replace(launch, variables={UPDATING: "True"})

    def replies(
        self, prompts: Sequence[Tokens], step: int, save: Callable[[Path], None], sampling: Object, seed: int
    ) -> list[list[int]]:
        """A reply to each prompt, in tokens with the one that ends it; equal prompts side by side get different ones.

        step: of the policy, which `save` writes into a folder if the server does not have it. Raises ServerDown if the
        server does not answer for a minute, ModelStopped if it refuses.
        """
        with ThreadPoolExecutor(max_workers=1) as thread:  # the caller's may run a loop, as a notebook's does
            return thread.submit(asyncio.run, self._replies(prompts, step, save, sampling, seed)).result()

    async def _replies(
        self, prompts: Sequence[Tokens], step: int, save: Callable[[Path], None], sampling: Object, seed: int
    ) -> list[list[int]]:
        if self._launch is not None and (self._server is None or self._server.has_ended()):
            self._server, self._loaded = await POOL.take(self._launch), None
            self._url = self._server.url
        timeout, connections = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connections) as session:
            if self._loaded != step:
                await self._load(session, step, save)
            groups = [(prompt, len(list(equal))) for prompt, equal in itertools.groupby(map(list, prompts))]
            asked = []
            for prompt, count in groups:
                asked.append(self._asked(session, prompt, count, {**sampling, "seed": seed}))
                seed += count  # the server gives the nth reply to a prompt this seed and n
            return list(itertools.chain.from_iterable(await asyncio.gather(*asked)))

    async def _load(self, session: aiohttp.ClientSession, step: int, save: Callable[[Path], None]) -> None:
        """Have the server load the adapter of this step, and forget the one before."""
        path = self._folder / str(step)
        shutil.rmtree(path, ignore_errors=True)
        save(path)
        named = {"lora_name": self._named(step), "lora_path": str(path), "load_inplace": True}
        await self._post(session, LOAD, named)
        if self._loaded is not None:
            await self._post(session, UNLOAD, {"lora_name": self._named(self._loaded)})
            shutil.rmtree(self._folder / str(self._loaded), ignore_errors=True)
        self._loaded = step

    def _named(self, step: int) -> str:
        return f"{self._name}-{step}"

    async def _asked(
        self, session: aiohttp.ClientSession, prompt: list[int], count: int, sampling: Values
    ) -> list[list[int]]:
        """So many replies to one prompt."""
        assert self._loaded is not None
        wanted = {"return_token_ids": True, "skip_special_tokens": False, "add_special_tokens": False}
        question = {"model": self._named(self._loaded), "prompt": prompt, "n": count, **sampling, **wanted}
        content = await self._post(session, "/v1/completions", question)
        try:
            choices = sorted(orjson.loads(content)["choices"], key=lambda choice: choice["index"])
            replies = [list(map(int, choice["token_ids"])) for choice in choices]
        except (ValueError, LookupError, TypeError):
            replies = []
        if len(replies) != count or not all(replies):
            raise ModelStopped(
                f"rollouts {self._spec}: the server sent no tokens of {count} replies, as vllm 0.11 and newer do: "
                f"{content[:200].decode(errors='replace')}"
            )
        return replies

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Values) -> bytes:
        problem = ""
        for pause in (*PAUSES, None):
            try:
                async with session.post(f"{self._url}{path}", json=body) as response:
                    content = await response.read()
                    if response.status == 200 or (path == UNLOAD and response.status == 404):  # gone is as well
                        return content
                    problem = f"HTTP {response.status}: {content[:300].decode(errors='replace')}"
                    if response.status < 500 and response.status != 429:
                        raise ModelStopped(f"rollouts {self._spec}: {path} was refused, {problem}{_advice(path)}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = reason_of(error)
            if self._server is not None and self._server.has_ended():
                raise ServerDown(f"rollouts {self._spec}: its server has ended: {self._server.why()}")
            if pause is not None:
                await asyncio.sleep(pause)
        raise ServerDown(f"rollouts {self._spec}: the server does not answer: {problem}")

    def close(self) -> None:
        """Stop the server, if it was started here."""
        server, self._server, self._loaded = self._server, None, None
        shutil.rmtree(self._folder, ignore_errors=True)
        if server is not None:
            POOL.give_back(server)
            POOL.stop_idle()


def _advice(path: str) -> str:
    if path != LOAD:
        return ""
    return f"; start it with {UPDATING}=True and --enable-lora, on a machine that sees the folder of the training"
