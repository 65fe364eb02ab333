"""Who shares a server, who gets one of his own, and which outlive the process."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from serving_fakes import Fake

from cai.calls.model import Connection, Model, Serving
from cai.errors import ServerDown
from cai.models import open_model, open_models
from cai.models.serving.pool import POOL
from cai.models.serving.process import is_alive

KEPT = Serving(keep=True)


async def through(*models: Model) -> list[str]:
    """Start models one after another, then close them; where each was asked."""
    for model in models:
        await model.start()
    places = [model.endpoint for model in models]
    for model in models:
        await model.close()
    return places


def places(*specs: str, serving: Serving | None = None) -> list[str]:
    connection = Connection(serving=serving or Serving())
    return asyncio.run(through(*(open_model(spec, connection) for spec in specs)))


def test_two_roles_of_one_model_share_a_server(fake: Fake) -> None:
    models = open_models({"assistant": "vllm:a", "critic": "vllm:a"}, Connection())
    assert models["assistant"] is models["critic"]
    one, other = places("vllm:a", "vllm:a")
    assert one == other and len(fake.starts()) == 1


def test_two_models_get_two_servers_side_by_side(fake: Fake) -> None:
    one, other = places("vllm:a", "vllm:b")
    assert one != other
    assert [words[1] for words in fake.starts()] == ["a", "b"]


def test_the_next_session_of_a_command_asks_the_server_of_the_last(fake: Fake) -> None:
    assert places("vllm:a") == places("vllm:a")
    assert len(fake.starts()) == 1


def test_a_server_that_nobody_asks_makes_room_for_another(fake: Fake) -> None:
    places("vllm:a")
    before = set(fake.processes())
    places("vllm:b")
    assert not before & set(fake.processes())


def test_sessions_in_one_loop_wait_for_the_same_start(fake: Fake) -> None:
    fake.does(late=0.3)

    async def play() -> set[str]:
        models = [open_model("vllm:a") for _ in range(4)]
        await asyncio.gather(*(model.start() for model in models))
        asked = {model.endpoint for model in models}
        await asyncio.gather(*(model.close() for model in models))
        return asked

    assert len(asyncio.run(play())) == 1 and len(fake.starts()) == 1


def test_all_who_wait_for_a_start_that_fails_are_told(fake: Fake) -> None:
    fake.does(status=1, says="ValueError: no")

    async def play() -> list[Any]:
        models = [open_model("vllm:a") for _ in range(3)]
        return await asyncio.gather(*(model.start() for model in models), return_exceptions=True)

    assert all(isinstance(error, ServerDown) for error in asyncio.run(play()))
    assert len(fake.starts()) == 1


# --keep-server


def test_a_server_that_is_kept_is_found_again_and_goes_on_after_this_process(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="cai")
    first = places("vllm:a", serving=KEPT)
    POOL.stop()  # as at the end of a process
    assert fake.processes() and fake.logs()
    assert places("vllm:a", serving=KEPT) == places("vllm:a") == first
    POOL.stop()
    assert len(fake.starts()) == 1
    said = next(line for line in caplog.messages if "kept at" in line)
    assert f"kept at {first[0]}; stop it with: kill " in said
    pid = int(said.rpartition(" ")[2])
    os.kill(pid, signal.SIGTERM)
    assert fake.gone() and not is_alive(pid)
    assert places("vllm:a") != first, "of one that is gone the note is out of date"


OTHERS = {
    "another model": ("vllm:b", {}, {}),
    "other options": ("vllm:a", {"arguments": ("--max-model-len 512",)}, {}),
    "another device": ("vllm:a", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
    "another variable of the server": ("vllm:a", {}, {"VLLM_ATTENTION_BACKEND": "X"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_served_by_another(fake: Fake, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, options, environment = OTHERS[name]
    first = places("vllm:a", serving=KEPT)
    POOL.stop()
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert places(spec, serving=Serving(**options)) != first
    POOL.stop()
    for pid in fake.guards():
        os.kill(pid, signal.SIGTERM)


def test_a_server_that_was_kept_and_does_not_answer_is_started_anew(fake: Fake) -> None:
    first = places("vllm:a", serving=KEPT)
    POOL.stop()
    for pid in set(fake.processes()) - set(fake.guards()):
        os.kill(pid, signal.SIGKILL)
    assert fake.gone()
    assert places("vllm:a") != first


def test_a_start_that_fails_is_not_kept(fake: Fake) -> None:
    fake.does(status=1)
    with pytest.raises(ServerDown):
        places("vllm:a", serving=KEPT)
    fake.does()
    places("vllm:a")
    POOL.stop()
    assert fake.gone()
