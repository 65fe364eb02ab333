"""The one seam between the method and any language model: what a model must be able to do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from cai.errors import CallRejected, ModelError, UsageError
from cai.records import Abilities, Completion, Request, Role, Sampling, Values


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to a model: whose it is, and how to sample."""

    request: Request
    row: str  # row id
    index: int  # n-th request of this role in its flow, from 0
    seed: int  # from (run seed, row id, role, index), in [0, 2**31)
    sampling: Sampling
    sample: int = 0  # tells equal payloads apart if several replies to one prompt are wanted

    @property
    def temperature(self) -> float:
        """The request's own temperature, else that of the run."""
        if self.request.temperature is None:
            return self.sampling.temperature
        return self.request.temperature

    @property
    def max_tokens(self) -> int:
        """The longest answer the request wants, else that of the run."""
        return self.request.max_tokens or self.sampling.max_tokens


class Model(Protocol):
    """One language model behind one endpoint or in this process.

    `payload` is pure and complete: everything that decides the answer and nothing else (no URL, no key), so that its
    hash names the call. `send` either returns a `Completion` or raises one of `errors.ModelError`; it never retries.
    """

    provider: str
    name: str  # what the provider calls it; for local weights it includes their hash
    endpoint: str  # calls to one endpoint share limits; never part of a call's key
    can: Abilities
    concurrency: int  # requests in flight when the user names no number
    context: int | None  # tokens of prompt and reply together; None: unknown before asking

    def payload(self, call: Call) -> Values:
        """The exact JSON-able request; raises CallRejected("too_long", …) if it is known not to fit."""

    async def start(self) -> None:
        """Load weights or open connections; called once before the first `send`, in the loop that will send."""

    async def send(self, payload: Values) -> Completion:
        """Ask once."""

    async def close(self) -> None:
        """Release what `start` took; safe to call twice."""


class Batching(Protocol):
    """What sends calls to one model as batches."""

    share: float  # what a call costs in a batch, of its price

    def ask(self, key: bytes, payload: Values) -> Completion | None:
        """The answer to a call; None: it is to be sent by itself. Raises what `Model.send` may, and Parked."""

    def owes(self, key: bytes) -> bool | None:
        """Whether an earlier session sent a call, whose cost is not set aside; None: nobody did."""

    def tell(self, key: bytes, arrival: asyncio.Future[None]) -> None:
        """Have a future done once there is something for a call that was asked, be it an error that `ask` raises."""

    def stop(self, error: BaseException) -> None:
        """Have an error raised to whoever asks."""


@runtime_checkable
class ListsTokens(Protocol):
    """A model whose server may be able to list the log probabilities of tokens that are named to it."""

    async def list_tokens(self, letters: Sequence[str]) -> None:
        """Ask from now on for these letters wherever one token is asked for with its alternatives, if that can be."""


class TakesPriorities(Protocol):
    """A model whose server may take calls in another order than they come in."""

    def with_priority(self, payload: Values, order: int) -> Values:
        """The payload as it is sent for a flow of this age: smaller goes first. It is no part of a call's key."""


@runtime_checkable
class Guards(Protocol):
    """A model that says how likely each of its labels is for a reply.

    labels: as they are scored, each with 1 if it says that the reply is unsafe, else 0.
    """

    labels: Mapping[str, float]


@runtime_checkable
class Priced(Protocol):
    """A model that tables of prices have under other names than its own, or whose tokens cost nothing."""

    @property
    def price_names(self) -> tuple[str | None, str] | None:
        """What tables call its provider, None if that is known by the endpoint, and it; None: it costs nothing."""


@runtime_checkable
class HidesSecrets(Protocol):
    """A model whose server may send secrets of its connection back; they are left out of what it returns."""

    @property
    def hidden(self) -> int:
        """Answers of this session that held one."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server is started for a model that has none.

    command: what starts it; None: it is looked for. arguments: what it is told besides. keep: it outlives this process.
    """

    command: str | None = None
    arguments: tuple[str, ...] = ()
    keep: bool = False
    timeout: float = 1800.0  # seconds until it must be ready, a download of the weights included


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a hosted model; none of it enters a call's key or a file.

    own_url: the address that the spec of one model has, whose key is that of its host alone. serving: for models whose
    server is started here.
    """

    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0  # seconds for one call, connect to last byte
    own_url: str | None = None
    serving: Serving = field(default_factory=Serving)


async def send_in_turn(model: Model, payload: Values, order: int) -> Completion:
    """Ask once, for a flow of this age."""
    with_priority = getattr(model, "with_priority", None)  # of TakesPriorities; isinstance would cost more than a turn
    if with_priority is not None:
        payload = with_priority(payload, order)
    return await model.send(payload)


def secrets_hidden(models: Iterable[Model]) -> int:
    """Answers of these models in which a server sent a secret of its connection back."""
    return sum(model.hidden for model in models if isinstance(model, HidesSecrets))


def check_answer(request: Request, done: Completion) -> None:
    """Raise CallRejected for an answer that is not what was asked for, be it new or from the store."""
    count = len(done.scores or ())
    if count != len(request.score):
        problem = f"the answer has {count} scores, and {len(request.score)} were asked for"
        raise CallRejected("model_error", problem, billed=True)


def spec_of(model: Model) -> str:
    """`provider:name`, as rows and identities name a model."""
    return f"{model.provider}:{model.name}"


def check_ability(model: Model, *, completes: bool) -> None:
    """Raise UsageError if a model cannot answer what a template set asks; completes: the set has text continued."""
    if model.can.reward or model.can.guard:
        raise UsageError(f"{spec_of(model)} only rates replies, and writes nothing")
    if completes and not model.can.completion:
        raise UsageError(f"{spec_of(model)} cannot continue text: use chat templates, or a model with completions")
    if not completes and not model.can.chat:
        raise UsageError(f"{spec_of(model)} has no chat template: it is a base model, use --templates fewshot")


def check_temperature(model: Model, sampling: Sampling) -> None:
    """Raise UsageError for a temperature that the model cannot be sent: what is recorded must be what was asked for."""
    highest = model.can.temperature
    spec, temperature = spec_of(model), sampling.temperature
    if "temperature" in sampling.extra_body:  # sent as it is, or left out
        return
    if highest is None and temperature != 1:
        raise UsageError(f"{spec} takes no temperature, and {temperature:g} was asked for: leave out --temperature")
    if highest is not None and temperature > highest:
        raise UsageError(f"temperature {temperature:g} is outside what {spec} takes: 0 to {highest:g}")


def temperature_words(models: Iterable[Model], sampling: Sampling) -> str:
    """The temperature that models draw at, for people to read, and which are not sent it."""
    if "temperature" not in sampling.extra_body:
        fixed = [model for model in models if model.can.temperature is None]
        return f"temperature {sampling.temperature:g}{_not_sent(fixed)}"
    if sampling.extra_body["temperature"] is None:
        return "temperature as the server sets it"
    return f"temperature {sampling.extra_body['temperature']}"


def seed_words(models: Iterable[Model], sampling: Sampling, seed: int) -> str:
    """The seed of a run, for people to read, and which models are not sent one that follows from it."""
    return f"seed {seed}{_not_sent([model for model in models if not model.can.seed or 'seed' in sampling.extra_body])}"


def _not_sent(models: Sequence[Model]) -> str:
    specs = ", ".join(dict.fromkeys(map(spec_of, models)))
    return f" (not sent to {specs})" if specs else ""


def call_seed(seed: int, row: str, role: Role, index: int) -> int:
    """The sampling seed of one call, in [0, 2**31): from what is asked for whom, never from when."""
    text = f"{seed}\0{row}\0{role}\0{index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) >> 1


def lost_row(model: Model, error: ModelError, effort: str) -> CallRejected:
    """What is written of a row that a passing fault has cost: it names no address."""
    return CallRejected("model_error", f"{str(error).replace(model.endpoint, 'the server')} ({effort})")
