"""What a driver plays with: models bound to roles, flows, and what a flow came to."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cai.calls.limits import Limiter
from cai.calls.model import Batching, Call, Model, call_seed
from cai.calls.prices import Price
from cai.folder.journal.payloads import canonical_call
from cai.records import Completion, Request, Sampling, Usage, Values

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

    def question(self, request: Request, index: int, row: str, seed: int) -> tuple[Call, Values, bytes]:
        """A request as it is put to the model, and the text that its key is the hash of; seed: of the run."""
        own = call_seed(seed, self.drawn_as(row), request.role, index)
        call = Call(request, row, index, own, self.sampling, request.sample)
        payload = self.model.payload(call)
        return call, payload, canonical_call(self.model.provider, self.model.name, payload, call.sample)


@dataclass(slots=True)
class Played(Generic[T]):
    """What a flow returned, and what it took."""

    result: T
    calls: tuple[str, ...]  # hex keys in the order asked
    models: dict[str, str]  # by role, as the server named them
    usage: Usage
