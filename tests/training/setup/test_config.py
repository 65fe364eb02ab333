"""One config: every key, every fault with its line, every value with where it came from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from trainings import example

from cai.errors import InputError, UsageError
from cai.training.setup.config import load_config, trl_arguments
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import FIXED, OURS


def write(folder: Path, text: str) -> Path:
    path = folder / "train.yaml"
    path.write_text(text)
    return path


def test_the_example_has_every_key_commented_and_changes_nothing(tmp_path: Path) -> None:
    text = example()
    assert load_config(write(tmp_path, text)).config == TrainConfig()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.strip().startswith("#"):
            assert lines[number - 1].strip().startswith("#"), f"{line} has no comment"
    for name in (*TrainConfig.model_fields, "rank", "targets"):
        assert any(line.strip().startswith(f"{name}:") for line in lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: 2\nlearning_rat: 0.1\n", ":2: unknown key 'learning_rat' in a training config; did you mean 'learn"),
        ("lora:\n  rnk: 8\n", ":2: unknown key 'rnk' in 'lora'; did you mean 'rank'?"),
        ("epochs: 0\n", ":1: 'epochs' must be more than 0, not 0"),
        ("epochs: yes\n", ":1: 'epochs' must be a number"),
        ("schedule: step\n", ":1: 'schedule' must be 'cosine', 'linear' or 'constant', not 'step'"),
        ("epochs: 1\nepochs: 2\n", ":2: key 'epochs' occurs twice"),
        ("- epochs\n", "must be a mapping"),
        ("lora: {rank: 0}\n", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_fault_of_the_file_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")


def test_numbers_are_read_as_people_write_them(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "learning_rate: 1e-4\nepochs: 3\n")).config.learning_rate == 1e-4


def test_a_flag_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 2\nseed: 7\nlora: {rank: 8, alpha: 4}\n")
    loaded = load_config(path, {"epochs": 3.0, "lora.rank": 4, "seed": None})
    assert (loaded.config.epochs, loaded.config.seed) == (3.0, 7)
    assert (loaded.config.lora.rank, loaded.config.lora.alpha) == (4, 4.0)
    assert [loaded.origin(name) for name in ("epochs", "seed", "lora.rank", "lora.alpha", "full")] == [
        "flag", "config file", "flag", "config file", "default",
    ]  # fmt: skip


@pytest.mark.parametrize("flags", [{"epochs": -1}, {"epoch": 1}, {"lora.rank": 0}, {"dtype": "int4"}])
def test_a_flag_that_cannot_be_is_told(flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="training options"):
        load_config(None, flags)


FIELDS = [("weight_decay", float), ("optim", str), ("max_steps", int), ("center", "float | None")]
KNOWN = {
    field.name: field
    for field in dataclasses.fields(
        dataclasses.make_dataclass("Known", [*FIELDS, *((n, str) for n in (*OURS, *FIXED))])
    )
}


def test_any_argument_of_trl_can_be_named(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, "trl:\n  weight_decay: 1e-2\n  optim: sgd\n"), {"trl.max_steps": 3})
    assert trl_arguments(loaded, "sft", KNOWN) == {"weight_decay": 0.01, "optim": "sgd", "max_steps": 3}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("weigth_decay", "did you mean 'weight_decay'?"),
        ("num_train_epochs", "is set by the key 'epochs'"),
        ("output_dir", "cannot be set: it is --out"),
    ],
)
def test_an_argument_of_trl_that_cannot_be_is_told_with_its_line(tmp_path: Path, key: str, told: str) -> None:
    path = write(tmp_path, f"epochs: 1\ntrl:\n  optim: sgd\n  {key}: 1\n")
    with pytest.raises(InputError, match=r"train\.yaml:4: ") as caught:
        trl_arguments(load_config(path), "sft", KNOWN)
    assert told in str(caught.value)
    with pytest.raises(UsageError):
        trl_arguments(load_config(None, {f"trl.{key}": 1}), "sft", KNOWN)


def test_names_of_trl_that_are_kept_from_the_user_exist() -> None:
    trl = pytest.importorskip("trl")
    kinds = (trl.SFTConfig, trl.DPOConfig, trl.KTOConfig, trl.RewardConfig, trl.GRPOConfig, trl.RLOOConfig)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names >= OURS.keys() | FIXED.keys()


def test_a_value_of_another_type_is_told_and_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    with pytest.raises(UsageError, match=r"trl\.weight_decay is 'abc', not a number"):
        trl_arguments(load_config(None, {"trl.weight_decay": "abc"}), "sft", KNOWN)
    with pytest.raises(UsageError, match=r"trl\.weight_decay is nan, not a finite number"):
        trl_arguments(load_config(None, {"trl.weight_decay": math.nan}), "sft", KNOWN)
    found = trl_arguments(load_config(None, {"trl.center": "1e-2", "trl.weight_decay": "1e-1"}), "sft", KNOWN)
    assert found == {"center": 0.01, "weight_decay": 0.1}


@pytest.mark.parametrize(("name", "value"), [("seed", 2**32), ("epochs", 1e300), ("epochs", 10_001)])
def test_a_number_that_no_training_could_use_is_told(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        load_config(None, {name: value})


def test_a_name_of_ours_that_a_method_does_not_have_is_trls() -> None:
    loaded = load_config(None, {"trl.loss_type": "dft"})
    assert trl_arguments(loaded, "sft", KNOWN) == {"loss_type": "dft"}
    with pytest.raises(UsageError, match="is set by the key 'loss'"):
        trl_arguments(loaded, "dpo", KNOWN)


def test_a_name_with_two_dots_is_a_key_within_a_key(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("trl:\n  lr_scheduler_kwargs: {power: 2}\n")
    loaded = load_config(path, {"trl.lr_scheduler_kwargs.num_cycles": 3})
    assert loaded.config.trl == {"lr_scheduler_kwargs": {"power": 2, "num_cycles": 3}}
    assert loaded.document.value == {"trl": {"lr_scheduler_kwargs": {"power": 2}}}
    with pytest.raises(UsageError, match="optim has no keys of its own"):
        load_config(None, {"trl.optim": "sgd", "trl.optim.x": 1})


def test_a_key_of_a_key_that_has_none_is_told() -> None:
    with pytest.raises(UsageError, match="epochs has no keys of its own"):
        load_config(None, {"epochs": 2, "epochs.x": 1})


def test_dropout_that_trl_would_switch_off_is_refused() -> None:
    loaded = load_config(None, {"lora.dropout": 0.1})
    loaded.check("sft")
    with pytest.raises(UsageError, match=r"lora\.dropout \(flag\) has no effect on dpo"):
        loaded.check("dpo")
    load_config(None, {"lora.dropout": 0.1, "trl.disable_dropout": False}).check("dpo")
