"""What names an input of a run, and what can become of it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence

from cai.records import DropReason, Message
from cai.sources.conversations import prompt_hash

RETRIED: tuple[DropReason, ...] = ("model_error",)  # drops that are tried again when the run is resumed
DONE = "done"  # the state of a finished row; that of a dropped one is the reason
GROWS = "grows"  # that of a finished row which is played again, since its run asks for more now
FINISHED = (DONE, GROWS)
# Version 0.1.0 wrote a state as a number: 1 for a finished row, 100 + the place here for a dropped one. Never changes.
REASONS_OF_0_1_0: tuple[DropReason, ...] = (
    "bad_input", "invalid_vote", "order_flip", "low_confidence", "identical", "duplicate_prompt", "near_duplicate",
    "empty", "truncated", "preamble_leak", "role_mixup", "refused_benign", "length_ratio", "both_refused",
    "content_filter", "model_error", "too_long", "not_extreme", "over_target",
)  # fmt: skip


def state_of(stored: str | int) -> str:
    """A state by name, whichever version wrote it."""
    if isinstance(stored, str):
        return stored
    try:
        return DONE if stored == 1 else REASONS_OF_0_1_0[stored - 100]
    except (TypeError, IndexError):
        raise sqlite3.DatabaseError(f"{stored!r} is no state") from None


def names_of(digest: bytes, row_id: str) -> list[bytes]:
    """What no second prompt of a run may share with this one: its conversation, and the id the input gives it."""
    names = [b"p" + digest]
    if row_id != digest.hex():
        names.append(b"i" + hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:16])
    return names


def digest_of(key: str | None, messages: Sequence[Message] | None) -> bytes:
    """16 bytes that name the content of what is played: a conversation, or what the key of a pair names.

    Nothing for a record that was not a prompt.
    """
    if key is not None:
        return bytes.fromhex(key)
    return b"" if messages is None else bytes.fromhex(prompt_hash(messages))
