"""Workers that are actors of a Ray cluster, on whatever machines it has.

A mailbox, an actor too, carries what is said; Ray starts a worker again that has died, on another node if need be.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cai.errors import RunError, UsageError
from cai.records import Values
from cai.runs.fleet.job import Job
from cai.runs.fleet.worker import Worker
from cai.texts.wording import one_line, shortened

LOCAL = "local"
TRIES = 3  # to start a cluster here: Ray gives its first node 30 s, which a busy machine can miss
PATIENCE = 60.0  # seconds without a worker that begins until it is said what is waited for
MOST_SAID = 300  # characters of why a worker has ended
REACHED_WITHIN = 10.0  # seconds
POLL = 1.0  # seconds that one question to the mailbox waits
QUIET = {  # of the environment, read when Ray is imported or starts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
PROXY = re.compile(r"(?:https?|all|no)_proxy", re.IGNORECASE)
log = logging.getLogger("cai")


class Actors:
    """The actors of a run, one for each shard that is played."""

    def __init__(self, address: str) -> None:
        self.inbox: asyncio.Queue[tuple[int, Values]] = asyncio.Queue()
        self._outbox: asyncio.Queue[tuple[int, Values]] = asyncio.Queue()
        self._address = address
        self._is_ours = False  # whether this process has joined the cluster for this run
        self._ray: Any = None
        self._mailbox: Any = None
        self._players: dict[int, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_begun = False

    async def open(self, workers: int | None) -> int:
        """Join the cluster, or start one here; how many workers it has room for.

        Raises RunError if there is no such cluster, UsageError if it has fewer CPUs than workers are wanted.
        """
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        self._ray = await asyncio.to_thread(self._connect, workers)
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if workers is not None and workers > cpus:
            raise UsageError(
                f"--workers {workers}: the Ray cluster has {cpus} CPUs: name at most so many, or add nodes"
            )
        if not cpus:
            raise RunError("the Ray cluster has no CPUs: add nodes to it, which ray status shows")
        self._mailbox = self._ray.remote(num_cpus=0)(Mailbox).options(name=f"cai-{secrets.token_hex(4)}").remote()
        self._keep(self._take())
        self._keep(self._send())
        self._keep(self._say_what_is_waited_for(cpus))
        return workers or cpus

    def _connect(self, workers: int | None) -> Any:
        import ray

        if ray.is_initialized():
            return ray
        quiet: Values = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self._address != LOCAL:
            self._check_address()
            try:
                ray.init(address=self._address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise RunError(f"--ray {self._address}: no such cluster: {one_line(str(error))}") from None
            self._is_ours = True
            return ray
        cpus = max(workers or 1, os.cpu_count() or 1)
        for left in reversed(range(TRIES)):
            try:
                ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
                break
            except Exception as error:  # Ray has no class for a node that was too slow
                ray.shutdown()
                if not left:
                    raise RunError(f"--ray local: Ray does not start: {one_line(str(error))}; run it again") from None
        self._is_ours = True
        return ray

    def _check_address(self) -> None:
        """RunError if nobody listens at an address: Ray itself tries for minutes, and then ends the process."""
        host, colon, port = self._address.removeprefix("ray://").rpartition(":")
        if not (colon and port.isdecimal()):
            return
        try:
            socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()
        except OSError as error:
            raise RunError(f"--ray {self._address}: no such cluster: {error.strerror or error}") from None

    async def launch(self, number: int, job: Job) -> None:
        """Start the worker of a shard; it says `died` last, however it ends."""
        player = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Player).remote()
        self._players[number] = player
        self._keep(self._follow(number, player.play.remote(self._mailbox, number, job)))

    async def _follow(self, number: int, playing: Any) -> None:
        """Wait until a worker has ended."""
        how = "it has ended"
        try:
            await playing
        except self._ray.exceptions.RayError as error:
            how = shortened(one_line(str(getattr(error, "cause", error))), MOST_SAID)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._players.pop(number))  # else it keeps its CPU from the next one
            await self._mailbox.say.remote(number, None, [{"died": how}])  # after all that it has said itself

    def post(self, number: int, message: Values) -> None:
        """Send a message to a shard's worker."""
        self._outbox.put_nowait((number, message))

    async def _send(self) -> None:
        """Send one message after the other, for as long as this goes on: calls of an actor may overtake each other."""
        while True:
            await self._mailbox.post.remote(*await self._outbox.get())

    async def _take(self) -> None:
        """Take what workers say, for as long as this goes on."""
        while True:
            for number, message in await self._mailbox.take.remote():
                self._has_begun = True
                self.inbox.put_nowait((number, message))

    async def _say_what_is_waited_for(self, cpus: int) -> None:
        await asyncio.sleep(PATIENCE)
        if not self._has_begun:
            free = self._ray.available_resources().get("CPU", 0)
            log.warning("no worker has begun after %d s: of %d CPUs of the cluster %d are free", PATIENCE, cpus, free)

    def _keep(self, waiting: Any) -> None:
        task = asyncio.ensure_future(waiting)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all workers, and leave the cluster."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ray is None:
            return
        for actor in filter(None, (*self._players.values(), self._mailbox)):
            self._ray.kill(actor)
        if self._is_ours:
            await asyncio.to_thread(self._ray.shutdown)


class Mailbox:
    """What workers say and are told, until it is fetched; of a worker that has died, only what it had said."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[tuple[int, Values]] = asyncio.Queue()
        self._told: dict[int, asyncio.Queue[Values]] = {}
        self._lives: dict[int, int] = {}

    async def begin(self, number: int) -> int:
        """Which life of a shard's worker begins, from 1."""
        life = self._lives[number] = self._lives.get(number, 0) + 1
        self._told[number] = asyncio.Queue()
        if life > 1:
            self._said.put_nowait((number, {"reborn": life}))
        return life

    async def say(self, number: int, life: int | None, messages: list[Values]) -> None:
        """Take messages of a worker; those of an earlier life are too late."""
        if life in (None, self._lives.get(number)):
            for message in messages:
                self._said.put_nowait((number, message))

    async def post(self, number: int, message: Values) -> None:
        """Keep a message for a worker; one that has not begun ends if it is to stop."""
        if number in self._told:
            self._told[number].put_nowait(message)
        elif "stop" in message:
            self._said.put_nowait((number, {"died": "it had not begun"}))

    async def take(self) -> list[tuple[int, Values]]:
        """What workers have said; waits a while for it."""
        return await _all_of(self._said)

    async def fetch(self, number: int) -> list[Values]:
        """What a worker is told; waits a while for it."""
        return await _all_of(self._told[number])


async def _all_of(queue: asyncio.Queue[Any]) -> list[Any]:
    found = []
    with suppress(TimeoutError):
        found.append(await asyncio.wait_for(queue.get(), POLL))
    while not queue.empty():
        found.append(queue.get_nowait())
    return found


class Player:
    """A worker as an actor: plays one shard; if Ray restarts it, it resumes where it was killed."""

    async def play(self, mailbox: Any, number: int, job: Job) -> None:
        """Play a shard to its end."""
        os.environ.update(job.environment)
        life = await mailbox.begin.remote(number)
        if life > 1:
            job = replace(job, settings=job.settings.model_copy(update={"force": False}))
        waiting: asyncio.Queue[Values] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        worker = Worker(job, lambda message: loop.call_soon_threadsafe(waiting.put_nowait, message))

        async def send() -> None:
            while True:
                messages = [await waiting.get()]
                while not waiting.empty():
                    messages.append(waiting.get_nowait())
                await mailbox.say.remote(number, life, messages)
                for _ in messages:
                    waiting.task_done()

        async def listen() -> None:
            while True:
                for message in await mailbox.fetch.remote(number):
                    worker.hear(message)

        others = [asyncio.create_task(send()), asyncio.create_task(listen())]
        await worker.play()
        await asyncio.sleep(0)  # what was said last is in the queue
        await waiting.join()
        for task in others:
            task.cancel()


def environment_of(models: Any) -> dict[str, str]:
    """The variables that workers elsewhere need to reach models: keys, addresses, and the way through a proxy."""
    names = {"HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    for model in models:
        names.update(getattr(model, "key_variables", ()))
        names.update(getattr(getattr(model, "preset", None), "url_variables", ()))
    names.update(name for name in os.environ if PROXY.fullmatch(name))
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}
