"""One server as a process: started under a guard, waited for until it is ready, and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cai.errors import ServerDown
from cai.models.serving import guard, symptoms
from cai.models.serving.launch import Launch
from cai.records import Object, Values

log = logging.getLogger("cai")
GRACE = 10.0  # seconds that a server gets to stop by itself
GONE = 10.0  # seconds more until its guard has killed all that it has left
TICK = 0.1  # seconds between two looks at a server that starts
LOOK = 30.0  # seconds for one look: SGLang's writes a token, of which it waits for a second
PORTS = 3  # tries with another port if one was taken between choosing and listening
TAKEN = re.compile("address already in use", re.IGNORECASE)
SILENT = 600.0  # seconds without a new line in the log after which a server that is not ready counts as hung


@dataclass(slots=True)
class Server:
    """A running server. pid: of its guard. process: that guard if it is this process's own; None: it is another's."""

    spec: str
    url: str
    log: Path
    pid: int
    launch: Launch
    process: subprocess.Popen[bytes] | None = None
    is_ready: bool = False
    is_kept: bool = False

    def facts(self) -> Values:
        """Where it is, for another process."""
        return {"url": self.url, "pid": self.pid, "log": str(self.log), "model": self.spec}

    def has_ended(self) -> bool:
        """Whether the server is gone."""
        if self.process is not None:
            return self.process.poll() is not None
        return not is_alive(self.pid)

    def why(self) -> str:
        """Why it has ended, and what to do next."""
        said = symptoms.reason(self.log, self.launch.kind.symptoms, self.launch.name)
        return f"{said or 'its log says nothing'} (log: {self.log})"

    def keep(self) -> None:
        """Let it outlive this process."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(b"k")
        self.process.stdin.flush()
        self.is_kept = True

    def stop(self) -> None:
        """Stop it with all that it has started, and wait until nothing of it is left; one that is kept goes on.

        Its log is deleted with it, unless it failed: was never ready, ended by itself, or does not stop.
        """
        if self.process is None or self.process.stdin is None:
            return
        has_failed = not self.is_ready or self.has_ended()
        self.process.stdin.close()
        if self.is_kept:
            self.process.returncode = 0  # it is not waited for, of which Python would warn
            return
        try:
            self.process.wait(GRACE + GONE)
        except subprocess.TimeoutExpired:
            log.warning("%s: its server does not stop: kill -9 %d; log: %s", self.spec, self.pid, self.log)
            return
        if not has_failed:
            self.log.unlink(missing_ok=True)


def server_at(facts: Object, launch: Launch) -> Server:
    """A server that another process has, which it stops."""
    return Server(launch.spec, facts["url"], Path(facts["log"]), facts["pid"], launch, is_ready=True, is_kept=True)


async def start(launch: Launch) -> Server:
    """Start a server and wait until it is ready.

    Raises ServerDown with the reason from its log if it ends, says nothing for long, or takes longer than it may.
    """
    tries = 1 if launch.port else PORTS
    while True:
        tries -= 1
        server = _spawn(launch, launch.port or _free_port())
        try:
            await _until_ready(server)
            return server
        except ServerDown:
            if not (tries and any(map(TAKEN.search, symptoms.last_lines(server.log)))):
                _show_end(server)
                raise
        finally:
            if not server.is_ready:
                await asyncio.shield(asyncio.to_thread(server.stop))
        server.log.unlink()  # of a try with a port that was taken


def _show_end(server: Server) -> None:
    for line in symptoms.last_lines(server.log):
        log.warning("%s | %s", server.launch.kind.command, line)


def _spawn(launch: Launch, port: int) -> Server:
    handle, path = tempfile.mkstemp(prefix=f"cai-{launch.kind.command}-", suffix=".log")
    command = [sys.executable, "-I", guard.__file__, str(os.getpid()), str(GRACE), *launch.line(port)]
    with os.fdopen(handle, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which still needs the server for calls in flight
            env=launch.environment(),
        )
    url = f"http://127.0.0.1:{port}"
    log.info("%s: starting %s at %s; its log: %s", launch.spec, shlex.join(launch.command), url, path)
    return Server(launch.spec, url, Path(path), process.pid, launch, process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_ready(server: Server) -> None:
    """Return once the server answers; ServerDown if it does not come up."""
    began = heard = time.monotonic()
    size, most = 0, server.launch.options.timeout
    healthy = asyncio.create_task(_until_healthy(server))
    try:
        while not server.has_ended():
            await asyncio.wait({healthy}, timeout=TICK)
            if healthy.done():
                server.is_ready = True
                log.info("%s: its server is ready after %.0f s", server.spec, time.monotonic() - began)
                return
            now = time.monotonic()
            written = server.log.stat().st_size
            if written != size:
                size, heard = written, now
            if now - began > most:
                raise _hung(server, f"after {most:g} s (--server-timeout)")
            if now - heard > SILENT:
                raise _hung(server, f"and has written nothing into its log for {SILENT:g} s")
    finally:
        healthy.cancel()
        await asyncio.wait({healthy})
    raise ServerDown(f"{server.spec}: its server did not start: {server.why()}")


async def _until_healthy(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        while not await is_healthy(session, server):
            await asyncio.sleep(TICK)


def _hung(server: Server, how: str) -> ServerDown:
    return ServerDown(f"{server.spec}: its server was not ready {how}, and was stopped: {server.why()}")


async def is_healthy(session: aiohttp.ClientSession, server: Server) -> bool:
    """Whether the server says that it can be asked."""
    timeout = aiohttp.ClientTimeout(total=LOOK)
    with suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with session.get(server.url + server.launch.kind.health, timeout=timeout) as response:
            return response.status == 200
    return False


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of this process that has ended stays until it is asked for
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
