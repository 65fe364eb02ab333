"""A checkpoint whose pickled states were put there by a stranger: none of their code runs."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import chats, ctrl_c

from cai.training.train import train as train_any

PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin")


def train(base: Path, out: Path, **more: Any) -> Any:
    flags = {"split": 0.8, "batch_size": 4, "dtype": "float32", "epochs": 2.0, "save_every": 4}
    return train_any("sft", chats(), out=out, model=str(base), flags=flags, **more)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", PICKLED)
def test_no_pickle_of_a_checkpoint_runs_code(base: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", progress=ctrl_c(5))
    for checkpoint in (tmp_path / "cut" / "checkpoints").iterdir():
        torch.save(Trap(tmp_path / "sprung"), checkpoint / name)
    with suppress(pickle.UnpicklingError):  # those that resuming reads are refused, others are not read at all
        train(base, tmp_path / "cut")
    assert not (tmp_path / "sprung").exists()
