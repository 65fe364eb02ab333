"""Several processes that train together: the rows of one, one folder, one stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
from trainings import chats, graded, lines, losses, pairs, record, write_lines

from cai.training.train import train

SCRIPT = """
import json, sys
from cai.training.train import train
method, data, out, base, flags = sys.argv[1:]
tell = lambda line: print(line, flush=True)
print(train(method, data, out=out, model=base, flags=json.loads(flags), tell=tell).steps)
"""
FLAGS = {"split": 0.75, "batch_size": 4, "rows_at_once": 2, "dtype": "float32", "learning_rate": 1e-2, "seed": 3}


def command(folder: Path, method: str, out: Path, base: Path, **flags: Any) -> list[str]:
    """Two processes on the CPU, as `accelerate launch` starts them."""
    (folder / "two.py").write_text(SCRIPT)
    config = Path(__file__).parents[3] / "examples" / "ddp.yaml"  # without a GPU accelerate takes gloo
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), str(folder / "two.py")]
    told = [str(folder / "data.jsonl"), str(out), str(base), orjson.dumps(FLAGS | flags).decode()]
    return [*launch, method, *told]


def surroundings() -> dict[str, str]:
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def write(folder: Path, method: str) -> Path:
    rows = {"sft": chats, "kto": graded}.get(method, lambda: pairs(p_chosen=0.9))()
    return write_lines(folder / "data.jsonl", rows)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "simpo", "reward"])
def test_two_processes_write_one_training_over_all_rows(base: Path, tmp_path: Path, method: str) -> None:
    data = write(tmp_path, method)
    flags = {"learning_rate": 1e-3} if method in ("dpo", "kto", "simpo") else {}
    asked = command(tmp_path, method, tmp_path / "two", base, **flags)
    done = subprocess.run(asked, env=surroundings(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learning_rate") == 1, "every process tells"
    assert record(tmp_path / "two")["settled"]["devices"] == 2
    one = train(method, data, out=tmp_path / "one", model=str(base), flags=FLAGS | flags)
    two = record(tmp_path / "two")
    assert two["finished"] and two["summary"]["rows"] == one.rows and two["summary"]["eval_rows"] == one.eval_rows
    # A step sees the same rows, and takes the mean over all of them.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert two["summary"]["metrics"]["eval_loss"] == pytest.approx(one.metrics["eval_loss"], rel=0.05)
    if method in ("dpo", "simpo", "reward"):
        last = [line["id"] for line in lines(tmp_path / "two", "eval.jsonl") if line["step"] == one.steps]
        assert len(last) == len(set(last)) == one.eval_rows


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_go_on(base: Path, tmp_path: Path) -> None:
    write(tmp_path, "sft")
    asked = command(tmp_path, "sft", tmp_path / "two", base, epochs=60.0, save_every=1000)
    out = tmp_path / "two" / "metrics.jsonl"
    with open(tmp_path / "log", "wb") as log:
        running = subprocess.Popen(asked, env=surroundings(), stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            if out.exists() and len(out.read_bytes().splitlines()) > 3:
                break
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the launcher and to all it started
        running.wait(timeout=120)
    assert running.returncode != 0
    told = (tmp_path / "log").read_text()
    assert "stopping after this step" in told and "run the same command again to resume from" in told, told
    found = record(tmp_path / "two")
    steps = max(losses(tmp_path / "two"))
    assert not found["finished"] and (tmp_path / "two" / "checkpoints" / f"checkpoint-{steps}").is_dir()
