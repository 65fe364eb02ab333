"""The value model of PPO: the policy's base with a LoRA adapter of its own, and a head that gives each token a number.

One base in memory serves the policy, the reference and the values. A PEFT model trains only the adapter that is active;
here two train, and each pass is by one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

VALUE = "value"  # the adapter, and in a checkpoint its folder
HEAD = "head.safetensors"


def add_value(model: Any) -> None:
    """Give a model with an adapter a second one of the same shape, and a head; all values are 0 before training."""
    import torch

    config = replace(model.peft_config["default"], modules_to_save=None)
    model.add_adapter(VALUE, config)
    width = model.get_base_model().config.get_text_config().hidden_size
    head = torch.nn.Linear(width, 1, device=model.device, dtype=torch.float32)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    model.value_head = head
    train_both(model)


def train_both(model: Any) -> None:
    """Let the policy's adapter and that of the values train; PEFT lets the active one alone."""
    for name, weight in model.named_parameters():
        if ".default." in name or f".{VALUE}." in name:
            weight.requires_grad_(True)


@contextmanager
def with_adapter(model: Any, name: str) -> Iterator[None]:
    """Run the model with one adapter, and with that of before afterwards."""
    before = model.active_adapter
    model.set_adapter(name)
    train_both(model)
    try:
        yield
    finally:
        model.set_adapter(before)
        train_both(model)


def values_of(model: Any, inputs: Any, replies: int, autocast: Any) -> Any:
    """The value before each of the last `replies` tokens, while the adapter of the values is active.

    inputs: ids and attention mask of prompts and replies.
    """
    with autocast:
        hidden = model.get_base_model().get_decoder()(**inputs, use_cache=False).last_hidden_state
    return model.value_head(hidden[:, -replies - 1 : -1].float()).squeeze(-1)


def save_head(model: Any, folder: Path) -> None:
    """Put the head beside the adapter of the values, in a checkpoint."""
    from safetensors.torch import save_file

    state = {name: weight.contiguous() for name, weight in model.value_head.state_dict().items()}
    save_file(state, folder / VALUE / HEAD)


def load_head(model: Any, folder: Path) -> None:
    """Take the head of a checkpoint."""
    from safetensors.torch import load_file

    model.value_head.load_state_dict(load_file(folder / VALUE / HEAD))
