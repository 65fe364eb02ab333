"""Viewers in processes of their own, and requests to them as a page or a stranger sends them."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from forked import command

ROOT = Path(__file__).resolve().parent.parent


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def values(self) -> Any:
        return json.loads(self.body)


class Viewer:
    """A `cai view` that runs; alone: in a process of its own, which takes half a second more to start."""

    def __init__(self, *words: str | Path, alone: bool = False) -> None:
        typed = ["view", *map(str, words)]
        started = [sys.executable, "-m", "cai", *typed] if alone else command(*typed)
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        self._process = subprocess.Popen(
            started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()  # empty if it refuses
        self.port = urlsplit(self.address).port or 0
        self.token = urlsplit(self.address).fragment

    def send(self, method: str, path: str, headers: Mapping[str, str | bytes], body: bytes = b"") -> Answer:
        """A request with these headers alone, and a length for its body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def own(self) -> dict[str, str | bytes]:
        """The headers of the page's own requests."""
        return {"Host": f"127.0.0.1:{self.port}", "X-Cai-Token": self.token}

    def ask(self, question: str, **values: Any) -> Answer:
        """A question as the page asks it."""
        return self.send("POST", f"/api/{question}", self.own(), json.dumps(values).encode())

    def limit_files(self, most: int) -> None:
        """Let it, which is alone, have no more than so many files and connections open."""
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (most, most))

    def wait(self) -> None:
        """Until everything is read, and can be searched."""
        while not all(map(is_whole, self.ask("state").values["sources"])):
            time.sleep(0.02)

    def raw(self, request: bytes, *, last: bool = False) -> bytes:
        """What is answered to these bytes, until the server hangs up; last: says that nothing follows them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            if last:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """End it as Ctrl-C does; its exit status, and what it wrote to stderr."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        _, stderr = self._process.communicate(timeout=30)
        return self._process.returncode, stderr


def is_whole(source: Mapping[str, Any]) -> bool:
    """Whether all of a source is read, and can be searched."""
    read, size = source["bytes"]
    return bool(read == size and source["searchable"] == source["entries"])


@contextmanager
def viewer(*words: str | Path, alone: bool = False) -> Iterator[Viewer]:
    """A viewer of these folders, with these options; it must not have complained of anything when it ends."""
    running = Viewer(*words, alone=alone)
    try:
        assert running.address, running.end()
        running.wait()
        yield running
    finally:
        status, stderr = running.end()
    assert status == 0
    assert [line for line in stderr.splitlines() if not line.startswith("open this address")] == []
