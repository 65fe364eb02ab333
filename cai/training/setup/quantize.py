"""QLoRA: an adapter that trains on frozen weights of 4 bits (Dettmers et al. 2023, arXiv 2305.14314).

bitsandbytes makes them of the base's own weights each time that these are loaded; no file holds them.
"""

from __future__ import annotations

import os
from typing import Any

from cai.errors import UsageError
from cai.packages import need
from cai.records import Values
from cai.training.setup.keys import TrainConfig


def check_quantize(config: TrainConfig) -> None:
    """Raise UsageError, or MissingExtra, if weights of 4 bits are asked for and cannot be made or trained on here."""
    import torch

    if config.quantize is None:
        return
    asked = f"quantize {config.quantize}"
    if config.full:
        raise UsageError(f"{asked}: full trains all weights, and 4 bits hold no small step: leave one of them out")
    if not torch.cuda.is_available():
        raise UsageError(f"{asked}: bitsandbytes trains on NVIDIA GPUs, and torch finds none here: leave it out")
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UsageError(f"{asked}: FSDP would divide weights that lie packed: use DDP (examples/ddp.yaml)")
    need(asked, "qlora", "bitsandbytes")


def quantization_of(quantize: str | None, dtype: str) -> Any:
    """What transformers is told to make of the frozen weights; None: to leave them as they are."""
    if quantize is None:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**arguments(getattr(torch, dtype)))


def arguments(dtype: Any) -> Values:
    """The arguments of BitsAndBytesConfig as the paper has them: NF4, with constants that are quantised again."""
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
