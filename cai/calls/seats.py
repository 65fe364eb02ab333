"""What a driver plays with: models bound to roles, flows, and what a flow came to."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cai.calls.limits import Limiter
from cai.calls.model import Batching, Model
from cai.calls.prices import Price
from cai.records import Completion, Request, Sampling, Usage

T = TypeVar("T")
Flow = Generator[list[Request], list[Completion], T]


@dataclass(frozen=True, slots=True)
class Seat:
    """A model bound to a role."""

    model: Model
    limiter: Limiter
    sampling: Sampling
    price: Price | None  # None: not known; then the cost of its calls is not known either
    drawn_as: Callable[[str], str] = str  # the name from which the seeds of a row's calls follow, by its id
    batches: Batching | None = None  # through which its calls go if they can


@dataclass(slots=True)
class Played(Generic[T]):
    """What a flow returned, and what it took."""

    result: T
    calls: tuple[str, ...]  # hex keys in the order asked
    models: dict[str, str]  # by role, as the server named them
    usage: Usage
