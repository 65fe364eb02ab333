"""Tiny random models of families that differ in how they compute attention, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # the class of the config, and its values
    "gemma2": ("Gemma2Config", {**GROUPED, "sliding_window": 32}),
    "gpt-oss": ("GptOssConfig", {**GROUPED, **EXPERTS, "sliding_window": 32}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "gpt-neo": (
        "GPTNeoConfig",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
         "max_position_embeddings": 256, "window_size": 32},
    ),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "qwen2": (
        "Qwen2Config",
        {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256},
    ),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "sliding_window": 32}),
}  # fmt: skip
WITHOUT_SDPA = ("gemma2", "gpt-oss", "bloom", "mpt", "gpt-neo")


def model(folder: Path, name: str, template: str | None = tiny.PLAIN) -> Path:
    """A random model of a family with the tokenizer of `tiny`."""
    import torch
    import transformers

    words = tiny.tokenizer(template)
    kind, values = FAMILIES[name]
    common = {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**values, **common, initializer_range=0.3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
