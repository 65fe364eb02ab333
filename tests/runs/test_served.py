"""Runs whose model has a server of its own: the rows are those of any other server, and it goes with them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kept import command, in_order
from serving_fakes import Fake, fake_server
from stub import stub

import cai
from cai.models.serving.pool import POOL

PROMPTS = ["How do bees fly?", "Why is the sky blue?", "How do I sharpen a knife?"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with fake_server(tmp_path, monkeypatch) as server:
        yield server


def generated(out: Path, model: str, **settings: Any) -> list[dict[str, Any]]:
    list(cai.generate(PROMPTS, "harmless", model=model, rounds=1, out=out, **settings))
    return [{name: row[name] for name in row if name != "models"} for row in in_order(out / "revisions.jsonl")]


def test_rows_and_calls_are_those_of_a_server_that_runs_already(fake: Fake, tmp_path: Path) -> None:
    with stub("--vllm") as server:
        running = generated(tmp_path / "running", f"vllm:tiny@{server.url}/v1")
    assert generated(tmp_path / "started", "vllm:tiny") == running
    assert fake.gone(), "the server goes with the run"


def test_a_run_begun_with_one_server_goes_on_with_another(fake: Fake, tmp_path: Path) -> None:
    whole = generated(tmp_path / "whole", "vllm:tiny")
    half = tmp_path / "half"
    fake.does(dies_after=5, last="torch.OutOfMemoryError: CUDA out of memory")
    with pytest.raises(cai.CaiError, match=r"its server has ended: torch\.OutOfMemoryError"):
        generated(half, "vllm:tiny", concurrency=1)
    fake.does()
    assert generated(half, "vllm:tiny", concurrency=1) == whole


def test_a_command_of_several_sessions_starts_each_server_once(fake: Fake, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": "vllm:tiny", "judge": "vllm:tiny", "best_of": 2, "out": tmp_path / "best"}
    list(cai.sample(PROMPTS, **settings))
    assert len(fake.starts()) == 1


PAIR = {"prompt": "Why is the sky blue?", "chosen": "Air scatters blue light.", "rejected": "No idea."}


@pytest.mark.parametrize(
    "ask",
    [
        lambda judge: cai.judge_bench([PAIR], judge, principles=1),
        lambda judge: cai.constitution_test("harmless", judge, principle="acting-on-it"),
        lambda judge: list(cai.label([PAIR], "harmless", judge=judge, principles=1)),
    ],
    ids=["judge_bench", "constitution_test", "label"],
)
def test_a_judge_leaves_no_server_behind(fake: Fake, ask: Callable[[str], Any]) -> None:
    ask("vllm:tiny")
    assert fake.asked() and fake.gone()


@pytest.mark.slow
def test_the_evaluation_of_two_models_asks_one_server_at_a_time(fake: Fake, tmp_path: Path) -> None:
    cai.evaluate("vllm:a", "vllm:b", PROMPTS, judge="vllm:a", suite="preference", out=tmp_path / "evaluation")
    assert [words[1] for words in fake.starts()] in (["a", "b", "a"], ["b", "a"])
    assert fake.gone()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_leaves_no_server_and_can_be_resumed(
    fake: Fake, number: signal.Signals, tmp_path: Path
) -> None:
    fake.does(latency=0.3)
    words = command("generate", "--limit", "6", "--concurrency", "2", "--model", "vllm:tiny", "--out", tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(Path(cai.__file__).parents[1])}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not fake.asked():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert fake.gone()
    fake.does()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "6 rows kept" in done.stderr, done.stderr
    assert fake.gone()


ARGUMENTS = ["generate", "--limit", "1", "--model", "vllm:tiny"]


def test_options_of_the_command_line_reach_the_server(fake: Fake, tmp_path: Path) -> None:
    options = [
        "--server-command",
        f"{fake.command}",
        "--server-arg",
        "--dtype half",
        "--server-arg=--max-model-len=512",
    ]
    done = subprocess.run(
        command(*ARGUMENTS, *options, "--keep-server", "--out", tmp_path / "run"),
        env={**os.environ, "PYTHONPATH": str(Path(cai.__file__).parents[1]), "CAI_VLLM": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [words] = fake.starts()
    assert words[-5:-2] == ["--dtype", "half", "--max-model-len=512"] and words[-2] == "--port"
    [guard] = fake.guards()
    assert f"stop it with: kill {guard}" in done.stderr
    os.kill(guard, signal.SIGTERM)
    POOL.stop()


def test_a_failure_is_one_line_behind_the_end_of_the_log(fake: Fake, tmp_path: Path) -> None:
    fake.does(status=1, says="OSError: tiny is not a local folder and is not a valid model identifier")
    words = command(*ARGUMENTS, "--out", tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(Path(cai.__file__).parents[1])}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: vllm:tiny: its server did not start: OSError: tiny is not a local folder")
    assert "check the name of the model, or give its folder (log: " in last
    assert "vllm | OSError: tiny is not a local folder" in done.stderr
