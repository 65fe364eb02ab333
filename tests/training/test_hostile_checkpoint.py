"""A checkpoint that a bad disk or a stranger changed: no code of it runs, and what cannot be used is said."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from seldom import seldom
from trainings import chats, ctrl_c

from cai.errors import RunError
from cai.training.train import train as train_any

PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin")
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
LAST = "checkpoint-6"


def train(base: Path, out: Path, **more: Any) -> Any:
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "epochs": 2.0, "save_every": 3, "samples": 0}
    return train_any("sft", chats(), out=out, model=str(base), flags=flags, **more)


@pytest.fixture(scope="module")
def stopped(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped after its second checkpoint; of its ninth step there is none."""
    out = tmp_path_factory.mktemp("training") / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(base, out, progress=ctrl_c(5))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["checkpoint-3", LAST]
    return out


@pytest.fixture
def cut(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "cut")


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", seldom(PICKLED, ("rng_state.pth", "scheduler.pt")))
def test_no_pickle_of_a_checkpoint_runs_code(base: Path, tmp_path: Path, cut: Path, name: str) -> None:
    for checkpoint in (cut / "checkpoints").iterdir():
        torch.save(Trap(tmp_path / "sprung"), checkpoint / name)
    with suppress(RunError):  # those that resuming reads are refused, others are not read at all
        train(base, cut)
    assert not (tmp_path / "sprung").exists()


# Damage


def flip(path: Path) -> None:
    """Change a few bits of what torch has stored, as a bad disk does."""
    data = bytearray(path.read_bytes())
    chance = random.Random(path.name)
    for _ in range(9):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_one(path: Path) -> None:
    """Change one bit in the middle, which torch itself reads without a word."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def other(value: Any) -> Callable[[Path], None]:
    """Put another value in place of a state."""
    return lambda path: torch.save(value, path)


def with_field(**fields: Any) -> Callable[[Path], None]:
    """Change fields of a state, which torch then loads."""
    return lambda path: torch.save(torch.load(path, weights_only=False) | fields, path)


TOLD = [
    *((damage, name) for name in STATES for damage in (flip, folder, pipe)),
    (flip_one, "optimizer.pt"),
    *((other(value), name) for name in STATES for value in ({}, 2**70)),
    (with_field(last_epoch="text"), "scheduler.pt"),
    (with_field(base_lrs=None), "scheduler.pt"),
    (with_field(param_groups=[]), "optimizer.pt"),
    (with_field(cpu=[1]), "rng_state.pth"),
    (pipe, "trainer_state.json"),
]


@pytest.mark.parametrize(("damage", "name"), seldom(TOLD, TOLD[::3]))
def test_a_state_that_cannot_be_used_is_told_with_what_to_delete(
    base: Path, cut: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(cut / "checkpoints" / LAST / name)
    with pytest.raises(RunError) as caught:
        train(base, cut)
    words = str(caught.value)
    if damage in (folder, pipe):
        assert words.startswith(f"{cut / 'checkpoints' / LAST / name} is not a file: move it away")
        return
    assert words.startswith(f"{cut / 'checkpoints' / LAST} ") and "delete that folder" in words, words
    assert "is damaged" in words or "cannot be resumed from" in words
    assert (cut / "checkpoints" / LAST).exists()


def test_the_training_goes_on_from_the_checkpoint_before_once_the_damaged_one_is_deleted(base: Path, cut: Path) -> None:
    flip(cut / "checkpoints" / LAST / "optimizer.pt")
    with pytest.raises(RunError, match="resumes from the checkpoint before"):
        train(base, cut)
    shutil.rmtree(cut / "checkpoints" / LAST)
    lines: list[str] = []
    train(base, cut, tell=lines.append)
    assert f"resuming from {cut / 'checkpoints' / 'checkpoint-3'}" in lines


ODD_STATES = {
    "global_step": (3, "6", None, -1, 2**70),
    "max_steps": ("text", -1),
    "total_flos": ("text", None),
    "log_history": ({}, [1], [{"step": 1, "entropy": "low"}]),
    "stateful_callbacks": ("text",),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in ODD_STATES.items() for value in values]
)
def test_an_odd_field_of_trainer_state_json_is_told(base: Path, cut: Path, field: str, value: Any) -> None:
    path = cut / "checkpoints" / LAST / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {field: value}))
    with pytest.raises(RunError, match=r"(is damaged|cannot be resumed from) \(.*delete that folder"):
        train(base, cut)


ENDS = [
    ("optimizer.pt", b"half"),
    ("scheduler.pt", b""),
    ("rng_state.pth", b"\0" * 64),
    ("trainer_state.json", b"half"),
]


@pytest.mark.parametrize(("name", "end"), seldom(ENDS, ENDS[:2]))
def test_a_file_without_its_end_is_as_after_a_kill(
    base: Path, cut: Path, name: str, end: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut / "checkpoints" / LAST / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if end == b"half" else end)
    lines: list[str] = []
    train(base, cut, tell=lines.append)
    assert f"{cut / 'checkpoints' / LAST} is not whole, as after a kill, and is removed" in caplog.text
    assert f"resuming from {cut / 'checkpoints' / 'checkpoint-3'}" in lines


def test_a_log_with_a_number_that_json_lacks_is_no_damage(base: Path, cut: Path) -> None:
    path = cut / "checkpoints" / LAST / "trainer_state.json"
    path.write_text(path.read_text().replace('"log_history": [', '"log_history": [{"step": 1, "entropy": NaN},'))
    assert "NaN" in path.read_text()
    assert train(base, cut).steps > 6
