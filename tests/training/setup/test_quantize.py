"""QLoRA: refused where it cannot run, asked of transformers as the paper has it, and never merged into 4 bits."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")
import torch
import transformers
from adapters import adapter
from trainings import chats, graded, pairs, train

from cai.errors import MissingExtra, UsageError
from cai.training.setup import opening
from cai.training.setup.config import load_config
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.setup.plan import Machine, Plan, Shape
from cai.training.setup.quantize import arguments, check_quantize, quantization_of
from cai.weights.bases import find_base
from cai.weights.merge import merge

ROWS = {"chat": chats, "pairs": pairs, "graded": graded}
METHODS_ON_ROWS = [name for name, method in METHODS.items() if method.rows in ROWS]
QLORA = TrainConfig(quantize="4bit")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has, as far as the check sees, a GPU and bitsandbytes."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: True)


# Where it cannot run


def test_without_a_gpu_it_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^quantize 4bit: bitsandbytes trains on NVIDIA GPUs, and torch finds none"):
        train("sft", chats(), model=str(tmp_path / "no"), out=tmp_path / "out", flags={"quantize": "4bit"})


def test_without_the_package_the_extra_is_named(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_quantize(QLORA)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=r"quantize 4bit needs .*\[qlora\]"):
        check_quantize(QLORA)


def test_all_weights_and_divided_weights_are_refused(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="full trains all weights"):
        check_quantize(TrainConfig(quantize="4bit", full=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match=r"FSDP would divide .*examples/ddp\.yaml"):
        check_quantize(QLORA)
    check_quantize(TrainConfig(full=True))


def test_only_4bit_can_be_named() -> None:
    with pytest.raises(UsageError, match="quantize"):
        load_config(None, {"quantize": "8bit"})


# What transformers is asked for


def test_the_weights_are_nf4_with_quantised_constants() -> None:
    asked = quantization_of("4bit", "bfloat16")
    assert asked.quantization_method() == "nf4" and asked.bnb_4bit_use_double_quant
    assert asked.bnb_4bit_compute_dtype is torch.bfloat16
    assert set(arguments(torch.float32)) <= set(inspect.signature(transformers.BitsAndBytesConfig).parameters)
    assert quantization_of(None, "bfloat16") is None


class Asked(Exception):
    """Ends a training where its model would be loaded."""


@pytest.mark.parametrize("method", METHODS_ON_ROWS)
def test_every_method_loads_its_model_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    asked: list[Any] = []

    def load(place: str, **options: Any) -> Any:
        asked.append(options.get("quantization_config"))
        raise Asked

    monkeypatch.setattr("cai.training.train.check_quantize", lambda config: None)
    for kind in ("CausalLM", "SequenceClassification"):
        monkeypatch.setattr(f"transformers.AutoModelFor{kind}.from_pretrained", load)
    for flags in ({"quantize": "4bit"}, {}):
        with pytest.raises(Exception, match="Asked"):
            train(method, ROWS[METHODS[method].rows](), model=str(base), out=tmp_path / f"{len(flags)}", flags=flags)
    packed, plain = asked
    assert packed.load_in_4bit and plain is None


def test_a_model_that_fits_no_device_whole_fits_in_4_bits() -> None:
    shape = Shape(30_000_000_000, 60, 6144, 8192, 100_000)
    machine = Machine("cuda", "a GPU", 40 << 30, bfloat16=True, flash_attention=False)
    plans = [Plan("sft", load_config(None, flags), [400] * 64, shape, machine) for flags in ({}, {"quantize": "4bit"})]
    assert [plan.gradient_checkpointing for plan in plans] == [True, False]
    assert [setting.name for setting in plans[1].settings][:2] == ["trains", "quantize"]


# What it is made of


@pytest.fixture
def quantized(base: Path, tmp_path: Path) -> Path:
    """A model whose files hold quantised weights, as far as its config says."""
    folder = shutil.copytree(base, tmp_path / "quantized")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_is_merged_into_weights_that_are_whole_alone(base: Path, quantized: Path, tmp_path: Path) -> None:
    tuned = adapter(tmp_path / "tuned", str(base), record=False)
    assert merge(tuned, tmp_path / "merged").base == str(base)
    path = tuned / "adapter_config.json"
    path.write_text(path.read_text().replace(str(base), str(quantized)))
    with pytest.raises(UsageError, match=r"quantised \(bitsandbytes\): a merge would round the adapter away"):
        merge(tuned, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_weights_that_are_quantised_already_are_not_quantised_again(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.training.train.check_quantize", lambda config: None)
    with pytest.raises(UsageError, match=r"quantised \(bitsandbytes\): leave quantize out"):
        train("sft", chats(), model=str(quantized), out=tmp_path / "out", flags={"quantize": "4bit"})


def test_an_opened_model_is_as_it_was_without_it(base: Path) -> None:
    weights = opening.open_model(find_base(str(base)), "float32", "eager").state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
