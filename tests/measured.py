"""What tests measure by hand of a model and of a training: log-probabilities of replies, and settled values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trainings import record


def settled(out: Path) -> dict[str, Any]:
    return {setting["name"]: setting["value"] for setting in record(out)["plan"]}


def tokens_of(words: Any, row: dict[str, Any], side: str) -> tuple[list[int], int]:
    """The tokens of a prompt with a reply up to its end of turn, and how many are the prompt's."""
    before = words.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    whole = words.apply_chat_template(row["prompt"] + row[side])["input_ids"]
    assert words.decode(whole[-2:]) == "<|im_end|>\n"
    return whole[:-1], len(before)


def log_prob(model: Any, words: Any, row: dict[str, Any], side: str) -> float:
    whole, before = tokens_of(words, row, side)
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return sum(float(logits[at - 1, whole[at]]) for at in range(before, len(whole)))


def reply_tokens(words: Any, row: dict[str, Any], side: str) -> int:
    """As many as `log_prob` sums over."""
    whole, before = tokens_of(words, row, side)
    return len(whole) - before
