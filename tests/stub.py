"""Servers for tests, all on loopback: the stub of `benchmarks/` as a process, and one that answers given bytes."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

STUB = Path(__file__).parent.parent / "benchmarks" / "stub.py"


@dataclass(frozen=True)
class Stub:
    """A running stub server."""

    url: str  # http://127.0.0.1:PORT

    def stats(self) -> dict[str, Any]:
        with build_opener(ProxyHandler({})).open(self.url + "/stats", timeout=10) as reply:
            stats: dict[str, Any] = json.load(reply)
        return stats

    def wait_for_a_request(self) -> None:
        """Return when one has come; an error after half a minute."""
        end = time.monotonic() + 30
        while not self.stats()["max_in_flight"]:
            assert time.monotonic() < end, "nothing was asked"
            time.sleep(0.02)


@contextmanager
def stub(*arguments: str) -> Iterator[Stub]:
    """Run `benchmarks/stub.py` with these arguments."""
    with subprocess.Popen([sys.executable, str(STUB), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 30)
            port = process.stdout.readline().strip() if ready else ""
            assert port.isdigit(), "the stub server did not start"
            yield Stub(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


@dataclass
class Scripted:
    """A server that answers every request with the same bytes."""

    url: str = ""
    requests: list[tuple[str, bytes]] = field(default_factory=list)  # head and body
    connections: int = 0


@asynccontextmanager
async def scripted(answer: bytes, close: bool = True, tls: Any = None) -> AsyncIterator[Scripted]:
    """Answer `answer` to every request, and close the connection after it unless told otherwise."""
    server = Scripted()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lengths = [
                    line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")
                ]
                server.requests.append((head, await reader.readexactly(int(lengths[0])) if lengths else b""))
                writer.write(answer)
                await writer.drain()
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


def http(status: int, body: bytes | dict[str, Any], **headers: str) -> bytes:
    """The bytes of an HTTP answer; an underscore in a header's name stands for a hyphen."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Length": str(len(raw))} | {name.replace("_", "-"): value for name, value in headers.items()}
    return "\r\n".join([f"HTTP/1.1 {status} X", *(f"{name}: {sent[name]}" for name in sent), "", ""]).encode() + raw
