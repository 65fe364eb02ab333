"""What any reward is: a number for each of a batch of replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cai.records import Message


class Reward(Protocol):
    """Rates replies to conversations, several at once.

    name: what tables and logs call it. The replies to one prompt come side by side, under equal prompts. A number of
    None is unknown: it is no reward of 0, and leaves the mean of the other replies to its prompt alone.
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
