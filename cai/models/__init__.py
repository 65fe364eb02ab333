"""The backends by name, and the way from a spec such as `openai:NAME` to a model.

A backend is one file and one entry in PROVIDERS; its file is imported when a model of it is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from cai.errors import UsageError
from cai.texts.wording import nearest

if TYPE_CHECKING:
    from cai.calls.model import Connection, Model
    from cai.calls.prices import Price


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast models of a provider typically are, for `cai plan`; rates are tokens per second."""

    writes: float
    reads: float = inf
    wait: float = 0.0  # seconds until an answer begins
    streams: bool = True  # the rates are those of one request in flight; False: of all together

    def seconds(self, calls: int, input_tokens: int, output_tokens: int, concurrency: int) -> float:
        """Estimate how long `calls` calls with so many tokens in all take."""
        work = output_tokens / self.writes + input_tokens / self.reads + calls * self.wait
        return work / concurrency if self.streams else work


@dataclass(frozen=True, slots=True)
class Provider:
    """A backend.

    open: makes the model of the NAME in `provider:NAME`; it loads and asks nothing yet.
    spec: how --help writes a model of it.
    free: its tokens cost no money, and it has no use for a URL or headers.
    speed: None if that depends on the model and the machine.
    writes: its models write text. judges: they can choose between two replies.
    """

    open: Callable[[str, Connection], Model]
    spec: str
    free: bool = False
    speed: Speed | None = None
    writes: bool = True
    judges: bool = True


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


def _guard(name: str, connection: Connection) -> Model:
    from cai.models.inprocess.guard import GuardModel

    return GuardModel(name)


def _recorded(name: str, connection: Connection) -> Model:
    from cai.models.recorded import RecordedModel, ReplayedModel

    if Path(name).is_dir() or name.endswith(".sqlite"):
        return ReplayedModel(name)
    return RecordedModel(name)


# The embedded model at 16 in flight on two laptop cores (benchmarks/README.md).
EMBEDDED = Speed(writes=250, reads=900, streams=False)
HOSTED = Speed(writes=60, wait=0.5)  # an assumption
PROVIDERS: dict[str, Provider] = {
    "local": Provider(_local, "local, local:NAME", free=True, speed=EMBEDDED),
    "openai": Provider(_openai, "openai:NAME", speed=HOSTED),
    "anthropic": Provider(_anthropic, "anthropic:NAME", speed=HOSTED),
    "hf": Provider(_hf, "hf:NAME", free=True),
    "recorded": Provider(_recorded, "recorded:FILE", free=True, speed=Speed(writes=inf)),
    "reward": Provider(_reward, "reward:NAME", free=True, writes=False),
    "guard": Provider(_guard, "guard:NAME", free=True, writes=False, judges=False),
}
SPECS = ", ".join(provider.spec for provider in PROVIDERS.values() if provider.writes)
JUDGE_SPECS = ", ".join(provider.spec for provider in PROVIDERS.values() if provider.judges)


def open_model(spec: str, connection: Connection | None = None) -> Model:
    """The model that `spec` names: `local`, `local:NAME`, or another `PROVIDER:NAME`; loads and asks nothing yet."""
    provider, _, name = spec.partition(":")
    if provider not in PROVIDERS:
        raise UsageError(f"unknown model provider {provider!r} in {spec!r}; {nearest(provider, PROVIDERS)}")
    if not name and provider != "local":
        raise UsageError(f"model {spec!r} names no model: write {provider}:NAME")
    if connection is None:
        from cai.calls.model import Connection

        connection = Connection()
    return PROVIDERS[provider].open(name, connection)


def provider_of(model: Model) -> Provider:
    """The entry of the provider that a model names."""
    return PROVIDERS[model.provider]


def open_models(specs: Mapping[str, str], connection: Connection) -> dict[str, Model]:
    """The model of every player by its spec, each opened once; raises UsageError if a key could go astray."""
    opened = {spec: open_model(spec, connection) for spec in dict.fromkeys(specs.values())}
    hosted = {model.provider for model in opened.values() if not provider_of(model).free}
    if len(hosted) > 1 and (connection.base_url is not None or connection.headers):
        raise UsageError(
            f"--base-url and --header would go to {' and '.join(sorted(hosted))} alike, keys included: set "
            "OPENAI_BASE_URL or ANTHROPIC_BASE_URL instead, or use one provider"
        )
    return {player: opened[spec] for player, spec in specs.items()}


def prices_of(models: Mapping[str, Model], stated: str | None, max_cost: float | None) -> dict[str, Price | None]:
    """The price of every player's tokens; raises UsageError if a cap could not hold."""
    from cai.calls.model import spec_of
    from cai.calls.prices import FREE, known_price, parse_price

    price = parse_price(stated) if stated is not None else None
    prices: dict[str, Price | None] = {}
    for player, model in models.items():
        prices[player] = FREE if provider_of(model).free else price or known_price(model)
        if max_cost is not None and prices[player] is None:
            name = spec_of(model)
            raise UsageError(f"--max-cost cannot hold: no listed price for {name}; state it with --price IN,OUT")
    return prices
