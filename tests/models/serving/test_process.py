"""A server is started, waited for, watched and stopped; whatever it does, nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from seldom import seldom
from serving_fakes import Fake

from cai.calls.model import Call, Connection, Model, Serving
from cai.errors import CaiError, ServerDown, UsageError
from cai.models import open_model
from cai.models.serving import process
from cai.models.serving.pool import POOL
from cai.records import Completion, Request, Sampling

MESSAGES = ({"role": "user", "content": "How do bees fly?"},)


def serving(**options: Any) -> Connection:
    return Connection(serving=Serving(**options))


async def ask(model: Model, *, times: int = 1) -> list[Completion]:
    """Start a model and ask it."""
    await model.start()
    try:
        request = Request("assistant", MESSAGES)
        sent = [model.payload(Call(request, "row", 0, seed, Sampling(1.0, 64, {}))) for seed in range(times)]
        return [await model.send(payload) for payload in sent]
    finally:
        await model.close()


def refused(spec: str, **options: Any) -> str:
    """The error of a model whose server cannot be asked."""
    with pytest.raises(CaiError) as error:
        asyncio.run(ask(open_model(spec, serving(**options))))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("spec", seldom(["vllm:tiny", "sglang:tiny"], ["vllm:tiny"]))
@pytest.mark.parametrize("habits", [{}, {"late": 0.4}, {"forks": True}, {"ignores_term": True}], ids=str)
def test_a_server_answers_and_is_gone_once_it_is_stopped(fake: Fake, spec: str, habits: dict[str, Any]) -> None:
    fake.does(**habits)
    [done] = asyncio.run(ask(open_model(spec)))
    assert len(done.text.split()) == 40
    assert len(fake.starts()) == 1 and fake.processes() and len(fake.logs()) == 1
    POOL.stop()
    assert not fake.processes() and not fake.logs()


FAILS = {
    "it exits": ({"status": 3}, {}, "vllm:tiny: its server did not start: its log says nothing (log: "),
    "it exits well": ({"status": 0, "says": "Bye."}, {}, "its server did not start: Bye (log: "),
    "it leaves children": ({"status": 1, "forks": True}, {}, "its server did not start"),
    "it says why": (
        {"status": 1, "says": "ValueError: Free memory on device cuda:0 (1.2/23 GiB) on startup is less than desired"},
        {},
        "Free memory on device cuda:0 (1.2/23 GiB) on startup is less than desired: the GPU has too little free memory",
    ),
    "it hangs": ({"never": True}, {"timeout": 0.4}, "was not ready after 0.4 s (--server-timeout), and was stopped"),
    "it hangs for ever": ({"never": True, "ignores_term": True, "forks": True}, {"timeout": 0.4}, "was not ready"),
    "it does not know an option": (
        {},
        {"arguments": ("--flash",)},
        "unrecognized arguments: --flash: correct --server-arg, or install vllm 0.33 or newer",
    ),
}


@pytest.mark.parametrize("name", FAILS)
def test_a_server_that_does_not_come_up_is_one_line_with_its_log(
    fake: Fake, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    habits, options, words = FAILS[name]
    fake.does(**habits)
    message = refused("vllm:tiny", **options)
    assert words in message
    log = Path(message.rpartition("(log: ")[2].removesuffix(")"))
    shown = [record.message.removeprefix("vllm | ") for record in caplog.records if " | " in record.message]
    assert shown == log.read_text().splitlines()[-12:]
    POOL.stop()
    assert fake.gone() and fake.logs() == [log]


def test_a_server_that_says_nothing_for_long_counts_as_hung(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENT", 0.4)
    fake.does(never=True)
    assert "has written nothing into its log for 0.4 s, and was stopped: " in refused("vllm:tiny")


def test_a_server_that_dies_between_two_calls_ends_the_run_with_its_reason(fake: Fake) -> None:
    fake.does(dies_after=2, last="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    model = open_model("vllm:tiny")

    async def until_it_ends() -> None:
        try:
            while True:  # the first call that it does not answer may come back before it is seen to have ended
                try:
                    await model.send(payload)
                except ServerDown:
                    raise
                except CaiError:
                    await asyncio.sleep(0.02)
        finally:
            await model.close()

    async def play() -> None:
        await model.start()
        await until_it_ends()

    payload = model.payload(Call(Request("assistant", MESSAGES), "row", 0, 0, Sampling(1.0, 64, {})))
    with pytest.raises(ServerDown) as error:
        asyncio.run(play())
    assert "its server has ended: torch.OutOfMemoryError: CUDA out of memory" in str(error.value)
    assert len(asyncio.run(ask(open_model("vllm:tiny")))) == 1, "a new session starts it anew"
    POOL.stop()
    [log] = fake.logs()  # of the one that died
    assert f"(log: {log})" in str(error.value)


# Ports


def test_another_port_is_taken_if_one_is_lost_before_the_server_listens(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = [other.getsockname()[1]]
        free = process._free_port
        monkeypatch.setattr(process, "_free_port", lambda: ports.pop() if ports else free())
        assert len(asyncio.run(ask(open_model("vllm:tiny")))) == 1
    assert len(fake.starts()) == 2 and len(fake.logs()) == 1


def test_a_port_of_ones_own_that_is_taken_is_said(fake: Fake) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        message = refused("vllm:tiny", arguments=(f"--port {other.getsockname()[1]}",))
    assert "address already in use: name another port, or none: a free one is taken" in message.lower()
    assert len(fake.starts()) == 1


# How the process that started it ends

SCRIPT = """
import asyncio, os, sys
from cai.models import open_model
from cai.models.serving import process

process.GRACE = 0.5

async def play():
    model = open_model("vllm:tiny")
    print("starting", flush=True)
    await model.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

if {forks}:
    import threading
    started = open_model
    def open_model(spec):
        model = started(spec)
        plain = model.start
        async def start():
            await plain()
            if os.fork() == 0:  # holds every pipe open that it is given
                os.closerange(0, 3)
                import time
                time.sleep(3)
                os._exit(0)
        model.start = start
        return model
asyncio.run(play())
"""


ENDS = [
    pytest.param("starting", signal.SIGINT),
    pytest.param("ready", signal.SIGKILL),
    *[
        pytest.param(when, number, marks=pytest.mark.slow)
        for when, number in [
            ("starting", signal.SIGKILL),
            ("starting", signal.SIGTERM),
            ("ready", signal.SIGTERM),
            ("ready", signal.SIGINT),
        ]
    ],
]


@pytest.mark.parametrize(("when", "number"), ENDS)
def test_nothing_is_left_however_the_process_ends_that_started_it(
    fake: Fake, when: str, number: signal.Signals
) -> None:
    fake.does(forks=True, ignores_term=True, late=0.2)
    with starter() as process:
        _end(process, fake, when, number)
    assert fake.gone()


@pytest.mark.slow
def test_nothing_is_left_if_what_was_killed_has_forked(fake: Fake) -> None:
    with starter(forks=True) as process:
        _end(process, fake, "ready", signal.SIGKILL)
    assert fake.gone()


def test_a_guard_that_is_killed_takes_the_server_along(fake: Fake) -> None:
    with starter() as process:
        _wait(process, fake, "ready")
        [guard] = fake.guards()
        os.kill(guard, signal.SIGKILL)
        end = time.monotonic() + 20
        while set(fake.processes()) - {process.pid}:
            assert time.monotonic() < end, fake.processes()
            time.sleep(0.02)
        process.kill()


def starter(forks: bool = False) -> subprocess.Popen[str]:
    """A process that starts a server and then waits."""
    code = textwrap.dedent(SCRIPT).format(forks=forks)
    environment = {**os.environ, "PYTHONPATH": str(Path(process.__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def _wait(process: subprocess.Popen[str], fake: Fake, when: str) -> None:
    assert process.stdout is not None
    while process.stdout.readline().strip() != when:
        assert process.poll() is None
    end = time.monotonic() + 30
    while not fake.starts():
        assert time.monotonic() < end, "no server was started"
        time.sleep(0.01)


def _end(process: subprocess.Popen[str], fake: Fake, when: str, number: signal.Signals) -> None:
    _wait(process, fake, when)
    process.send_signal(number)
    process.wait(30)


def test_an_error_of_the_caller_stops_it_as_well(fake: Fake) -> None:
    async def play() -> None:
        model = open_model("vllm:tiny")
        await model.start()
        try:
            raise UsageError("a fault")
        finally:
            await model.close()

    with pytest.raises(UsageError):
        asyncio.run(play())
    POOL.stop()
    assert fake.gone()
