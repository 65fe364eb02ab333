"""Replies by a vLLM server that gets the policy's adapter for each batch: here a server that draws tokens by lot."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rewarded import questions, train
from serving_fakes import Fake, fake_server
from trainings import losses, record, weights, write_lines

from cai.errors import ModelStopped, ServerDown, UsageError
from cai.models.serving.process import _free_port
from cai.training.trainers.online.served import UPDATING

pytest.importorskip("trl")
pytest.importorskip("peft")

FLAGS = {"split": 1.0, "trl.max_steps": 3, "reply_length": 5}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    (tmp_path / "server").mkdir()
    with fake_server(tmp_path / "server", monkeypatch) as server:
        yield server


def served(method: str, base: Path, out: Path, /, **more: Any) -> Any:
    flags = FLAGS | {"rollouts": f"vllm:{base}", **more.pop("flags", {})}
    return train(method, base, out, flags=flags, **more)


@pytest.mark.parametrize("method", ["rloo", pytest.param("grpo", marks=pytest.mark.slow), "ppo"])
def test_each_batch_is_written_with_the_adapter_of_its_step(
    base: Path, tmp_path: Path, fake: Fake, method: str
) -> None:
    served(method, base, tmp_path / "out", flags={"server_args": "--gpu-memory-utilization 0.4"})
    [line] = fake.starts()
    assert line[line.index("--max-lora-rank") + 1] == "16" and "--enable-lora" in line
    assert line[line.index("--gpu-memory-utilization") + 1] == "0.4"
    asked = fake.asked()
    batches = 1 if method == "ppo" else 3  # of which ppo takes several steps each
    loads = [each["lora_name"] for each in asked if each.get("path") == "/v1/load_lora_adapter"]
    gone = [each["lora_name"] for each in asked if each.get("path") == "/v1/unload_lora_adapter"]
    assert len(set(loads)) == len(loads) == batches and gone == loads[:-1]
    questions = [each for each in asked if "prompt" in each]
    assert list(dict.fromkeys(each["model"] for each in questions)) == loads
    assert {each["n"] for each in questions} == {4}
    seeds = [each["seed"] + number for each in questions for number in range(each["n"])]
    assert len(set(seeds)) == len(seeds)  # no two replies are drawn alike
    assert record(tmp_path / "out")["finished"]
    assert not (tmp_path / "out" / "rollouts").exists()


def test_a_server_that_dies_stops_the_training_which_resumes_with_a_new_one_to_the_same_weights(
    base: Path, tmp_path: Path, fake: Fake
) -> None:
    served("rloo", base, tmp_path / "whole")
    fake.does(dies_after=6, last="CUDA error: out of memory")
    told: list[str] = []
    with pytest.raises(ServerDown, match=r"its server has ended: .*too little free memory"):
        served("rloo", base, tmp_path / "cut", tell=told.append)
    assert any(line.startswith("stopped; run the same command again") for line in told)
    fake.does()
    served("rloo", base, tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_training_may_be_called_where_a_loop_runs_already(base: Path, tmp_path: Path, fake: Fake) -> None:
    async def cell() -> Any:
        return served("rloo", base, tmp_path / "out", flags={"trl.max_steps": 1})

    assert asyncio.run(cell()).steps == 1


def test_a_server_that_runs_already_is_asked_by_its_address_and_left_alone(
    base: Path, tmp_path: Path, fake: Fake
) -> None:
    port = _free_port()
    options = ("--enable-lora", "--scheduling-policy", "priority", "--host", "127.0.0.1", "--port", str(port))
    with subprocess.Popen([fake.command, "serve", base, *options], env=os.environ | {UPDATING: "True"}) as server:
        address = f"http://somebody:hunter2@127.0.0.1:{port}/v1"
        data = write_lines(tmp_path / "questions.jsonl", list(questions()))
        served("rloo", base, tmp_path / "out", data=data, flags={"rollouts": f"vllm:any-name@{address}"})
        assert server.poll() is None
        server.kill()
    assert len(fake.starts()) == 1 and any("prompt" in each for each in fake.asked())
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path.name for path in files if b"hunter2" in path.read_bytes()]


def test_a_server_that_loads_no_adapters_says_what_is_missing(
    base: Path, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.training.trainers.online.served.UPDATING", "VLLM_OTHER")
    with pytest.raises(ModelStopped, match="start it with VLLM_OTHER=True and --enable-lora"):
        served("rloo", base, tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"full": True}, "rollouts hands over a LoRA adapter"),
        ({"rollouts": "vllm:other/model"}, "is not .*, the base model that is trained"),
        ({"rollouts": "sglang:x"}, "only vLLM loads an adapter"),
    ],
)
def test_what_no_server_can_be_given_is_refused(
    base: Path, tmp_path: Path, fake: Fake, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        served("rloo", base, tmp_path / "out", flags=flags)
    assert fake.starts() == []
