"""The way from a spec like `openai:NAME` to a model.

Knows providers by name; each lives in its own file and is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from cai.calls.model import Connection, Model
from cai.errors import UsageError


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
