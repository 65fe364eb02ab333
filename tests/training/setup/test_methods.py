"""The register of methods: every entry names what there is."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

from cai.errors import UsageError
from cai.training.setup.keys import TrainConfig
from cai.training.setup.methods import METHODS
from cai.training.train import train


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_a_trainer_arguments_of_trl_and_keys_of_the_config(name: str) -> None:
    pytest.importorskip("trl")
    method = METHODS[name]
    module, _, trainer = method.trainer.partition(":")
    assert hasattr(importlib.import_module(f"cai.training.trainers.{module}"), trainer)
    assert dataclasses.is_dataclass(pkgutil.resolve_name(f"{method.trl}Config"))
    assert isinstance(pkgutil.resolve_name(f"{method.trl}Trainer"), type)
    assert set(method.keys) <= set(TrainConfig.model_fields)
    assert {method.loss, method.soft_loss} - {""} <= set(method.losses)
    assert method.rates[0] == pytest.approx(10 * method.rates[1])


def test_a_method_that_does_not_exist_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="no training method is called 'dpoo'; did you mean 'dpo'"):
        train("dpoo", [], out="out")
