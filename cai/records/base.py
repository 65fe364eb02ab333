"""What rows and messages are made of: their base class, turns, and the words that they name things by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

Values = dict[str, Any]  # by name: keywords, or a JSON object in the making
Object = Mapping[str, Any]  # a JSON object that is read
OfPrompt = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]  # position of a prompt; 16 bits below it number pairs
OfPair = Annotated[int, Field(strict=True, ge=0, lt=1 << 48)]
Role = Literal["assistant", "screen", "critic", "gate", "reviser", "judge"]
Protocol = Literal["logprob", "score", "vote", "reason", "reward", "conditioned", "decide"]  # how a judge is asked
Finish = Literal["stop", "length", "content_filter", "unknown"]  # unknown: the server did not say, or in no known word
DropReason = Literal[
    "bad_input", "invalid_vote", "order_flip", "low_confidence", "identical", "duplicate_prompt", "near_duplicate",
    "empty", "truncated", "preamble_leak", "role_mixup", "refused_benign", "length_ratio", "both_refused",
    "content_filter", "model_error", "too_long", "not_extreme", "over_target",
    "thoughts",
]  # fmt: skip
DROP_REASONS: tuple[str, ...] = get_args(DropReason)


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Turns = tuple[Message, ...]  # a conversation


class Record(BaseModel):
    """Base of every row: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)
