"""Records of pairs, and what is read of them."""

from __future__ import annotations

from typing import Any

from cai.records import Contest, Message
from cai.runs.kinds.pairs import read_pairs

TURN: tuple[Message, ...] = ({"role": "user", "content": "Hi?"},)

PAIR = {"prompt": "Hi?", "chosen": "Good day.", "rejected": "What."}


def contests(source: Any, pairing: str = "all") -> list[Contest]:
    """The pairs of a source that holds nothing else."""
    found = [item for _, item in read_pairs(source, pairing)]
    assert all(isinstance(item, Contest) for item in found), found
    return found  # type: ignore[return-value]
