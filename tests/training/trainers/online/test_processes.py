"""Two processes that train on rewards together: whole groups in each, and a stop of both if a reward fails in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
from rewarded import FLAGS, questions
from trainings import lines, losses, record, write_lines

ROOT = Path(__file__).parents[4]
SCRIPT = """
import json, os, sys
from cai.training.train import train

calls = 0

def likes_a(prompts, replies):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == int(fails):
        raise ValueError("broken")
    if 2 * len(set(map(str, prompts))) <= len(prompts):  # a held-out prompt is answered once
        assert all(prompts[n] == prompts[n - n % 4] for n in range(len(prompts))), "groups are split"
    return [float(reply.startswith("a")) for reply in replies]

data, out, base, flags, fails = sys.argv[1:]
tell = lambda line: print(line, flush=True)
train("grpo", data, out=out, model=base, flags=json.loads(flags), reward=likes_a, tell=tell)
"""


def play(folder: Path, base: Path, fails: int, **more: Any) -> subprocess.CompletedProcess[str]:
    (folder / "two.py").write_text(SCRIPT)
    data = write_lines(folder / "data.jsonl", list(questions()))
    flags = orjson.dumps(FLAGS | {"split": 1.0, "samples": 0} | more).decode()
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "examples" / "ddp.yaml")]
    told = [str(folder / "two.py"), str(data), str(folder / "out"), str(base), flags, str(fails)]
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([*launch, *told], env=surroundings, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_a_reward_that_fails_in_one_of_two_processes_stops_both_and_the_same_command_resumes(
    base: Path, tmp_path: Path
) -> None:
    done = play(tmp_path, base, fails=3)
    assert done.returncode != 0
    assert "broken" in done.stderr
    assert "stopped; run the same command again to resume from" in done.stdout, done.stderr
    assert set(losses(tmp_path / "out")) == {1, 2}
    done = play(tmp_path, base, fails=0)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "out")["finished"]
    assert record(tmp_path / "out")["settled"]["devices"] == 2
    assert [line["step"] for line in lines(tmp_path / "out") if "loss" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_reward_that_fails_in_an_evaluation_of_two_processes_loses_no_step(base: Path, tmp_path: Path) -> None:
    flags = {"split": 0.8, "eval_every": 2, "save_every": 100}
    done = play(tmp_path, base, fails=4, **flags)  # one at the start, two of steps, and that of the evaluation
    assert done.returncode != 0
    assert "broken" in done.stderr
    assert "stopped; run the same command again to resume from" in done.stdout, done.stderr
    assert set(losses(tmp_path / "out")) == {1, 2}
    done = play(tmp_path, base, fails=0, **flags)
    assert done.returncode == 0, done.stderr
    steps = [line["step"] for line in lines(tmp_path / "out") if "loss" in line]
    assert steps == [*range(1, len(steps) + 1)] and len(steps) > 2
    assert 2 in [line["step"] for line in lines(tmp_path / "out") if "eval_loss" in line]
