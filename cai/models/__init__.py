"""The one seam between the method and any language model, and the way from a spec like `openai:NAME` to a model.

Knows providers by name; each lives in its own file and is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from cai.errors import UsageError
from cai.records import Call, Completion


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do; asking for more raises `UsageError` before the first call."""

    chat: bool = True
    completion: bool = False  # continues raw text: base models, few-shot templates
    logprobs: int = 0  # alternatives per token it can list; 0: none
    scoring: bool = False  # log-probability of a given continuation
    seeds: bool = False  # the same seed and payload give the same reply (as far as its arithmetic does)
    prefill: bool = False  # continues a started assistant turn
    reward: bool = False  # gives a conversation a number, and no words


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

    def payload(self, call: Call) -> dict[str, Any]:
        """The exact JSON-able request; raises CallRejected("too_long", …) where the model knows it cannot fit."""

    async def start(self) -> None:
        """Load weights or open connections; called once before the first `send`, in the loop that will send."""

    async def send(self, payload: dict[str, Any]) -> Completion:
        """Ask once."""

    async def close(self) -> None:
        """Release what `start` took; safe to call twice."""

    def count_tokens(self, text: str) -> int | None:
        """Exact tokens of `text`, or None where only the server knows (or nothing is loaded)."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a hosted model; none of it enters a call's key or a file."""

    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0  # seconds for one call, connect to last byte


def _local(name: str, connection: Connection) -> Model:
    from cai.models.inprocess.local import LocalModel

    return LocalModel(name)


def _openai(name: str, connection: Connection) -> Model:
    from cai.models.remote.openai import OpenAIModel

    return OpenAIModel(name, connection)


def _anthropic(name: str, connection: Connection) -> Model:
    from cai.models.remote.anthropic import AnthropicModel

    return AnthropicModel(name, connection)


def _hf(name: str, connection: Connection) -> Model:
    from cai.models.inprocess.hf import HFModel

    return HFModel(name)


def _reward(name: str, connection: Connection) -> Model:
    from cai.models.inprocess.reward import RewardModel

    return RewardModel(name)


def _recorded(name: str, connection: Connection) -> Model:
    if Path(name).is_dir() or name.endswith(".sqlite"):
        from cai.models.replayed import ReplayedModel

        return ReplayedModel(name)
    from cai.models.recorded import RecordedModel

    return RecordedModel(name)


PROVIDERS: dict[str, Callable[[str, Connection], Model]] = {
    "local": _local,
    "openai": _openai,
    "anthropic": _anthropic,
    "hf": _hf,
    "reward": _reward,
    "recorded": _recorded,
}


def open_model(spec: str, connection: Connection | None = None) -> Model:
    """The model that `spec` names: `local`, `local:PATH`, or `PROVIDER:NAME`; loads and asks nothing yet."""
    provider, _, name = spec.partition(":")
    if provider not in PROVIDERS:
        close = get_close_matches(provider, PROVIDERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PROVIDERS)}"
        raise UsageError(f"unknown model provider {provider!r} in {spec!r}; {hint}")
    if not name and provider != "local":
        raise UsageError(f"model {spec!r} names no model: write {provider}:NAME")
    return PROVIDERS[provider](name, connection or Connection())
