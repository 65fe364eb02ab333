"""Online training that is killed, by `kill -9`, in its judge's calls and in its checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kept import CODE, environment

pytest.importorskip("trl")
pytest.importorskip("peft")

SCRIPT = Path(__file__).parents[3] / "killed_trainings.py"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 20])
def test_a_killed_training_ends_with_the_same_weights_and_pays_no_finished_call_twice(
    base: Path, tmp_path: Path, kills: int
) -> None:
    """The slow form: pytest -m slow tests/training/trainers/online/test_kills.py"""
    ours = {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), str(CODE)])}
    command = [sys.executable, str(SCRIPT), str(base), str(tmp_path), str(kills)]
    result = subprocess.run(command, env=environment() | ours, capture_output=True, text=True, timeout=1_200)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["kills"] == {"calls": kills // 2, "checkpoint": kills // 2}
    assert facts["same weights"] and facts["same losses"] and facts["same questions"]
    assert facts["asked twice"] <= kills  # one call is in flight at a time
