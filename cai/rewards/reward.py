"""What any reward is: a number for each of a batch of replies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cai.errors import UsageError
from cai.records import Message, Values
from cai.sources.conversations import prompt_hash

LONE = re.compile("[\ud800-\udfff]")  # a surrogate; in a text of Python one never has its other half


class Reward(Protocol):
    """Rates replies to conversations, several at once.

    name: what tables and logs call it. The replies to one prompt come side by side, under equal prompts. A number of
    None is unknown: it is not a reward of 0, and leaves the mean of the other replies to its prompt alone.
    """

    name: str

    async def __call__(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float | None]:
        """One number for each reply; raises ModelStopped if nothing more can be rated."""

    async def close(self) -> None:
        """Release what the calls took, in the loop they ran in; safe to call twice, and without a call."""


class Weighted(NamedTuple):
    """A reward, and how much it counts beside others."""

    weight: float
    reward: Reward


@dataclass(frozen=True, slots=True)
class Rated:
    """What a reply is worth to a model, and where that is from.

    reward: None if it is unknown; then `problem` says why, unless the votes do. calls: keys of calls.sqlite, in hex.
    """

    reward: float | None
    votes: tuple[Values, ...] = ()
    calls: tuple[str, ...] = ()
    problem: str | None = None


def groups_of(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Iterator[tuple[str, slice]]:
    """The hash of each prompt, and where the replies to it are: equal prompts side by side are one.

    Raises UsageError if there is not a prompt for each reply, or a text is none that can be sent.
    """
    if len(prompts) != len(replies):
        raise UsageError(f"{len(replies)} replies came with {len(prompts)} prompts: each reply needs its own")
    for text in (*replies, *(turn["content"] for prompt in prompts for turn in prompt)):
        if not text.isascii() and LONE.search(text):
            raise UsageError(f"a text holds half a character, which cannot be sent as UTF-8: {text!r:.60}")
    start = 0
    hashes = list(map(prompt_hash, prompts))
    for end in range(1, len(hashes) + 1):
        if end == len(hashes) or hashes[end] != hashes[start]:
            yield hashes[start], slice(start, end)
            start = end


def reply_id(prompt: str, *replies: str) -> str:
    """32 hex digits that name replies to a prompt, of which the hash is given."""
    digest = hashlib.sha256(prompt.encode())
    for reply in replies:
        digest.update(hashlib.sha256(reply.encode()).digest())
    return digest.hexdigest()[:32]
