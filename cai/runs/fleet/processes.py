"""Workers that are processes on this machine: started, heard and stopped through their pipes.

Messages are JSON behind four bytes of length. A worker whose pipe is closed ends: it outlives nobody.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from typing import IO, Any

import orjson

from cai.errors import UsageError
from cai.records import Values
from cai.runs.fleet.job import Job
from cai.runs.fleet.worker import Worker

LENGTH = 4  # bytes
BOOT = """
import os, sys
sys.path[:] = os.environ.pop("CAI_WORKER_PATH").split(os.pathsep)
from cai.runs.fleet.processes import main
main()
"""


def framed(content: bytes) -> bytes:
    """A message as it goes through a pipe."""
    return len(content).to_bytes(LENGTH, "big") + content


class Processes:
    """The processes of a run, one for each shard that is played."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[tuple[int, Values]] = asyncio.Queue()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._listening: set[asyncio.Task[None]] = set()

    async def open(self, workers: int | None) -> int:
        """As many workers at a time as are wanted."""
        return workers or 1

    async def launch(self, number: int, job: Job) -> None:
        """Start the worker of a shard; it says `died` last, however it ends."""
        try:
            content = pickle.dumps(job)
        except Exception as error:  # of whatever the source is made of
            raise UsageError(
                f"--workers: the prompts cannot be sent to other processes ({error}): write them to a file"
            ) from None
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who listens
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BOOT, str(job.settings.shard),  # by which it is told from the others in `ps`
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for this process, which tells the workers
            env={**os.environ, "CAI_WORKER_PATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self._processes[number] = process
        self._write(number, framed(content))
        task = asyncio.create_task(self._listen(number, process, errors))
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)

    def post(self, number: int, message: Values) -> None:
        """Send a message to a shard's worker; to one that has ended nothing."""
        self._write(number, framed(orjson.dumps(message)))

    def _write(self, number: int, content: bytes) -> None:
        process = self._processes.get(number)
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(content)

    async def _listen(self, number: int, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        assert process.stdout is not None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await process.stdout.readexactly(LENGTH), "big")
                self.inbox.put_nowait((number, orjson.loads(await process.stdout.readexactly(length))))
        status = await process.wait()
        with errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
        said = next(filter(None, map(str.strip, reversed(lines))), "")
        self.inbox.put_nowait((number, {"died": _how(status, said)}))

    async def close(self) -> None:
        """Kill what has not stopped by itself."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*self._listening)
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()


def _how(status: int, said: str) -> str:
    """How a process has ended, in words."""
    if status >= 0:
        return f"exit status {status}" + (f": {said}" if said else "")
    name = signal.Signals(-status).name
    return f"{name}: is memory short?" if name == "SIGKILL" else name


# In the worker


def main() -> None:
    """Play the shard that comes through stdin."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    job: Job = pickle.loads(_read())
    lock = threading.Lock()

    def say(message: Values) -> None:
        with lock, suppress(OSError):  # who started this is gone, which `listen` hears, too
            out.write(framed(orjson.dumps(message)))
            out.flush()

    asyncio.run(_play(job, say))


async def _play(job: Job, say: Any) -> None:
    worker = Worker(job, say)
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, worker.stop)

    def listen() -> None:
        while content := _read():
            loop.call_soon_threadsafe(worker.hear, orjson.loads(content))
        os._exit(1)  # at once: whoever runs the command again finds its folder free, and a kill loses nothing

    threading.Thread(target=listen, name="cai-listen", daemon=True).start()
    await worker.play()


def _read() -> bytes:
    """The next message; none if who started this is gone."""
    length = sys.stdin.buffer.read(LENGTH)
    return sys.stdin.buffer.read(int.from_bytes(length, "big")) if len(length) == LENGTH else b""
