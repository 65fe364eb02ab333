"""What a training starts from, opened: tokenizer, weights and size of a base model, and the machine to train on.

Which files that are is `models.bases`'. Knows transformers and peft; nothing of rows or trainers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from cai.errors import UsageError
from cai.sources.files import path_of
from cai.training.setup.plan import Machine, Shape
from cai.weights.bases import Base as Base
from cai.weights.bases import find_base as find_base
from cai.weights.loading import load_config, load_model, load_tokenizer, reasons
from cai.weights.vendors import need


def need_train(what: str = "training") -> None:
    """Raise MissingExtra if a package of the `train` extra is not installed."""
    need(what, "train", "torch", "trl", "peft", "accelerate", "datasets")


def open_tokenizer(base: Base, chat_template: str | None, *, chats: bool) -> Any:
    """The tokenizer, an adapter's own where it has one, with the chat template of a file where one is named.

    chats: whether rows need a template. Raises UsageError where there is none for them.
    """
    words = load_tokenizer(base)
    if chat_template is not None:
        try:
            words.chat_template = path_of(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"chat_template {chat_template} cannot be read: {error}") from None
    if chats and not words.chat_template:
        raise UsageError(
            f"{base.spec} is a base model, its tokenizer has no chat template: name a Jinja file with chat_template, "
            "such as that of the model you will compare it with"
        )
    return words


def ends_of(base: Base, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a reply, by the tokenizer and by what the model generates with."""
    from transformers import AutoConfig, GenerationConfig

    at = base.commit or "main"
    with reasons(base.spec):
        try:
            given = GenerationConfig.from_pretrained(base.place, revision=at).eos_token_id
        except OSError:  # not every model has one
            given = getattr(AutoConfig.from_pretrained(base.place, revision=at).get_text_config(), "eos_token_id", None)
    ids = [*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)


def shape_of(base: Base) -> Shape:
    """The model's size, from its config alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with reasons(base.spec):
        config = load_config(base)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None) or 1 << 20
    parameters = sum(p.numel() for p in empty.parameters())
    return Shape(parameters, text.num_hidden_layers, text.hidden_size, context, text.vocab_size)


def open_model(base: Base, dtype: str, attention: str, kind: Any = None, **more: Any) -> Any:
    """The model with weights of `dtype`, an adapter on it ready to train; UnknownModel with transformers' own reason.

    kind: transformers' class of reward models, None for a language model; more: what its config is told besides.
    """
    import torch

    rewards = kind is not None
    model = load_model(
        base, getattr(torch, dtype), rewards=rewards, new_head=rewards, trains=True, attn_implementation=attention,
        **more,
    )  # fmt: skip
    if base.adapter is not None:
        model.peft_config["default"].base_model_name_or_path = base.place  # where it was may be gone
    return model


def finite(folder: Path) -> bool:
    """Whether all weights of a folder's safetensors are numbers."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if not all(file.get_tensor(name).isfinite().all() for name in file.keys()):  # noqa: SIM118
                return False
    return True


def this_machine() -> Machine:
    """The first NVIDIA GPU with its free memory, else the CPU."""
    import torch

    devices = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        flash = importlib.util.find_spec("flash_attn") is not None
        return Machine("cuda", torch.cuda.get_device_name(), free, torch.cuda.is_bf16_supported(), flash, devices)
    # Emulated where there are no instructions for it, bfloat16 is slower than float32. The two tests are torch's own.
    fast = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    name = "a CPU with bfloat16 instructions" if fast else "a CPU without bfloat16 instructions"
    return Machine(
        "cpu",
        name,
        importlib.import_module("psutil").virtual_memory().available // devices,
        fast,
        flash_attention=False,
        devices=devices,
    )
