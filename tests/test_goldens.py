"""What every command makes is what version 0.1.0 made: rows, identities, keys of calls, reports, losses."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import orjson
import pytest
from goldens import make, make_trainings
from kept import GOLDENS
from seldom import seldom

OF_0_1_0 = GOLDENS / "0.1.0"
TRAININGS = "trainings"


def golden_files() -> dict[str, bytes]:
    """The golden outputs by name, without the losses."""
    paths = [path for path in OF_0_1_0.rglob("*") if path.is_file() and path.parent.name != TRAININGS]
    return {path.relative_to(OF_0_1_0).as_posix(): path.read_bytes() for path in paths}


def difference(name: str, golden: bytes, made: bytes) -> str:
    """The lines in which a file differs."""
    old, new = (content.decode().splitlines() for content in (golden, made))
    return "\n".join(difflib.unified_diff(old, new, f"golden {name}", f"made {name}", lineterm="", n=0))


def test_runs_cuts_and_reports_are_those_of_0_1_0(tmp_path: Path) -> None:
    golden, made = golden_files(), make.make(tmp_path)
    assert sorted(made) == sorted(golden)
    differences = [difference(name, golden[name], made[name]) for name in sorted(golden) if made[name] != golden[name]]
    assert not differences, "\n".join(differences)


def steps(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


@pytest.mark.filterwarnings("ignore")  # those of torch, trl and peft about themselves
@pytest.mark.parametrize("name", seldom(make_trainings.TRAININGS, ("dpo-soft",)))
def test_the_losses_of_every_step_are_those_of_0_1_0(tmp_path: Path, name: str) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    golden = steps((OF_0_1_0 / TRAININGS / f"{name}.jsonl").read_bytes())
    made = steps(make_trainings.losses(name, tmp_path / "out"))
    assert [list(step) for step in made] == [list(step) for step in golden]
    for step, expected in zip(made, golden, strict=True):
        # Processors add up in another order: between AVX-512 and AVX2 a gradient norm differs by 1.3e-6 of it, and a
        # reward, which is a difference of log-probabilities of 100 times its size, by 1.2e-6.
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-5)
