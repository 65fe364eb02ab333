"""Servers that outlive the command that started them: noted in the cache folder, so that the next one finds them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson

from cai.disk.hashes import cache_folder
from cai.disk.locks import lock_file
from cai.disk.reading import read_if_there
from cai.disk.writing import unwritable, write_atomically
from cai.models.serving.launch import Launch
from cai.models.serving.process import Server, is_alive, is_healthy, server_at

log = logging.getLogger("cai")
TICK = 0.2  # seconds between two tries of a lock that another process has
STOP = "stop it with: kill"


def note_of(launch: Launch) -> Path:
    """The file that says where such a server is on this machine; the cache folder may be shared by several."""
    return cache_folder() / "servers" / f"{launch.key}-{socket.gethostname()}.json"


@asynccontextmanager
async def alone(launch: Launch) -> AsyncIterator[None]:
    """Wait until no other process starts a server of this kind that it will keep."""
    path = note_of(launch).with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise unwritable(path, error, "set CAI_CACHE to another folder, or leave out --keep-server") from None
    with file:
        while True:
            try:
                lock_file(file, wait=False)
                break
            except OSError:
                await asyncio.sleep(TICK)
        yield


def keep(server: Server) -> None:
    """Let a server outlive this process, and note where it is."""
    server.keep()
    write_atomically(note_of(server.launch), orjson.dumps(server.facts()))
    log.info("%s: kept at %s/v1; %s %d", server.spec, server.url, STOP, server.pid)


async def find(launch: Launch) -> Server | None:
    """The server that was kept with this model and these options, if it still answers; else its note is removed."""
    path = note_of(launch)
    facts = read_if_there(path)
    url, pid, place = facts.get("url"), facts.get("pid"), facts.get("log")
    if not (isinstance(url, str) and isinstance(pid, int) and isinstance(place, str)):
        return None
    server = server_at(facts, launch)
    async with aiohttp.ClientSession() as session:
        if is_alive(pid) and await is_healthy(session, server):
            log.info("%s: asks the server that was kept at %s/v1; %s %d", launch.spec, url, STOP, pid)
            return server
    path.unlink(missing_ok=True)
    return None
