"""LoRA adapters with random weights, as a training leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cai.weights.bases import find_base


def adapter(folder: Path, base: str, *, record: bool = True, seed: int = 1, scale: float = 1.0, **more: Any) -> Path:
    """An adapter on `base` (what `find_base` takes), with its tokenizer and, unless told, a training.json."""
    import peft
    import torch
    import transformers

    below = find_base(base)
    torch.manual_seed(seed)
    rewards = more.get("task_type") == "SEQ_CLS"
    kind = transformers.AutoModelForSequenceClassification if rewards else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(below.place, **({"num_labels": 1} if rewards else {}))
    settings = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, "init_lora_weights": False}
    tuned = peft.get_peft_model(model, peft.LoraConfig(**settings | more))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.mul_(scale)
    tuned.save_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(below.place)
    words.pad_token = words.pad_token or "<|endoftext|>"
    words.save_pretrained(folder)
    if record:
        facts = {"schema": 1, "identity": {"method": "dpo"}, "finished": True, "model": below.facts()}
        (folder / "training.json").write_text(json.dumps(facts))
    return folder
