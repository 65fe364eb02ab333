"""The servers of this process: each is started once for all who ask its model, and stopped with this process.

A server that is not asked any more waits for the next session, of which a command can have many. It is stopped before
another one starts, which needs the memory of the GPU, and at the end.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from cai.errors import CaiError
from cai.models.serving import kept, process
from cai.models.serving.launch import Launch
from cai.models.serving.process import Server
from cai.records import Values

TICK = 0.05  # seconds between two looks at a server that another one starts


@dataclass(slots=True)
class _Place:
    """A server that is there or is being started. users: sessions that ask it now."""

    users: int = 1
    server: Server | None = None
    error: CaiError | None = None
    given_up: bool = False


class Pool:
    """Servers by what they serve; may be used by several threads, each with a loop of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._of_others: dict[str, Values] = {}  # where servers are that another process has, by their launches' keys

    def adopt(self, servers: Mapping[str, Values]) -> None:
        """Ask servers that another process has started, and stops, in place of new ones."""
        self._of_others.update(servers)

    def lent(self) -> dict[str, Values]:
        """The servers of this process, as another one adopts them."""
        with self._lock:
            return {key: place.server.facts() for key, place in self._places.items() if place.server is not None}

    async def take(self, launch: Launch) -> Server:
        """The server of a launch, ready to be asked; `give_back` follows.

        Raises ServerDown if it does not start.
        """
        while True:
            place, is_new = self._enter(launch.key)
            if is_new:
                return await self._start(launch, place)
            while place.server is None and place.error is None and not place.given_up:
                await asyncio.sleep(TICK)
            if place.error is not None:
                raise place.error
            if place.server is not None:
                return place.server

    def give_back(self, server: Server) -> None:
        """Say that a session does not ask the server any more."""
        with self._lock:
            place = self._places.get(server.launch.key)
            if place is not None and place.server is server:
                place.users -= 1

    def stop_idle(self) -> None:
        """Stop the servers that no session asks."""
        with self._lock:
            idle = [key for key, place in self._places.items() if place.users == 0]
            servers = [self._places.pop(key).server for key in idle]
        for server in filter(None, servers):
            server.stop()

    def stop(self) -> None:
        """Stop all servers."""
        with self._lock:
            for place in self._places.values():
                place.users = 0
        self.stop_idle()

    def _enter(self, key: str) -> tuple[_Place, bool]:
        """The place of a server, and whether it is to be started."""
        with self._lock:
            place = self._places.get(key)
            if place is not None and place.server is not None and place.server.has_ended():
                place.server.stop()  # which takes no time: nothing of it is left
                place = None
            if place is not None:
                place.users += 1
                return place, False
            self._places[key] = place = _Place()
            return place, True

    async def _start(self, launch: Launch, place: _Place) -> Server:
        try:
            place.server = await self._found_or_started(launch)
            return place.server
        except BaseException as error:
            place.error = error if isinstance(error, CaiError) else None
            place.given_up = True
            with self._lock:
                if self._places.get(launch.key) is place:
                    del self._places[launch.key]
            raise

    async def _found_or_started(self, launch: Launch) -> Server:
        of_others = self._of_others.get(launch.key)
        if of_others is not None:
            return process.server_at(of_others, launch)
        async with AsyncExitStack() as stack:
            if launch.options.keep:
                await stack.enter_async_context(kept.alone(launch))
            server = await kept.find(launch)
            if server is not None:
                return server
            await asyncio.to_thread(self.stop_idle)
            server = await process.start(launch)
            if launch.options.keep:
                kept.keep(server)
            return server


POOL = Pool()
atexit.register(POOL.stop)
