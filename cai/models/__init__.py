"""The backends by name, and the way from a spec such as `openai:NAME` to a model.

A backend is one file and one entry in PROVIDERS; its file is imported when a model of it is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cai.errors import UsageError
from cai.models.remote.batch.offers import OFFERS, BatchOffer
from cai.models.remote.presets import PRESETS, Preset
from cai.models.specs import check_address, has_address, is_ollamas, not_a_spec, parts_of, without_address
from cai.weights.named import DEFAULT, NAMED, Named

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
    batches: the batches that it takes at a lower price.
    writes: its models write text. judges: they can choose between two replies.
    """

    open: Callable[[str, Connection], Model]
    spec: str
    free: bool = False
    speed: Speed | None = None
    batches: BatchOffer | None = None
    writes: bool = True
    judges: bool = True


def _of_named(model: Named) -> Speed:
    reads, writes = model.speed
    return Speed(writes=writes, reads=reads, streams=False)


def _local(name: str, connection: Connection) -> Model:
    from cai.models.inprocess.local import LocalModel

    return LocalModel(name)


def _openai(name: str, connection: Connection) -> Model:
    from cai.models.remote.openai import OpenAIModel

    return OpenAIModel(name, connection)


def _preset(preset: Preset, name: str, connection: Connection) -> Model:
    from cai.models.remote.addresses import is_stated
    from cai.models.remote.openai import OpenAIModel

    if preset.is_started and not is_stated(preset, connection):
        from cai.models.serving.model import ServedModel

        return ServedModel(name, connection, preset)
    return OpenAIModel(name, connection, preset)


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


OTHER = ", local:".join(name for name in NAMED if name != DEFAULT)
HOSTED = Speed(writes=60, wait=0.5)  # an assumption
PROVIDERS: dict[str, Provider] = {
    "local": Provider(_local, f"local, local:{OTHER}, local:PATH", free=True, speed=_of_named(NAMED[DEFAULT])),
    "openai": Provider(_openai, "openai:NAME", speed=HOSTED, batches=OFFERS["openai"]),
    "anthropic": Provider(_anthropic, "anthropic:NAME", speed=HOSTED, batches=OFFERS["anthropic"]),
    "hf": Provider(_hf, "hf:NAME", free=True),
    "recorded": Provider(_recorded, "recorded:FILE", free=True, speed=Speed(writes=inf)),
    "reward": Provider(_reward, "reward:NAME", free=True, writes=False),
    "guard": Provider(_guard, "guard:NAME", free=True, writes=False, judges=False),
}
PROVIDERS |= {
    name: Provider(
        partial(_preset, preset),
        f"{name}:NAME",
        speed=HOSTED if preset.needs_key else None,
        batches=OFFERS.get(name),
    )
    for name, preset in PRESETS.items()
}


def _specs(ability: str) -> str:
    """How --help writes the models that have an ability, those of the presets in short."""
    able = {name: provider.spec for name, provider in PROVIDERS.items() if getattr(provider, ability)}
    own = [spec for name, spec in able.items() if name not in PRESETS]
    *most, last = PRESETS
    return f"{', '.join(own)}, or PRESET:NAME ({', '.join(most)} or {last}); add @URL for another server"


SPECS = _specs("writes")
JUDGE_SPECS = _specs("judges")


def open_model(spec: str, connection: Connection | None = None) -> Model:
    """The model that `spec` names: `local`, `local:NAME`, `PROVIDER:NAME` or `PROVIDER:NAME@URL`.

    It loads and asks nothing yet.
    """
    provider, name, url = parts_of(spec)
    if provider not in PROVIDERS:
        raise not_a_spec(spec, PROVIDERS)
    if not name and provider != "local":
        raise UsageError(f"model {without_address(spec)!r} names no model: write {provider}:NAME")
    if provider in PRESETS and is_ollamas(provider, name):
        raise UsageError(f"{spec} is a name of Ollama's: did you mean ollama:{spec}?")
    if connection is None:
        from cai.calls.model import Connection

        connection = Connection()
    if not PROVIDERS[provider].free:
        check_address(spec)
    if url is not None:
        connection = _at(url, provider, name, connection)
    return PROVIDERS[provider].open(name, connection)


def _at(url: str, provider: str, name: str, connection: Connection) -> Connection:
    """The connection to the address of a spec."""
    if PROVIDERS[provider].free:
        spec = f"{provider}:{name}".removesuffix(":")
        advice = "leave it out, or name a model of a server, such as openai:NAME@URL"
        raise UsageError(f"{spec} runs in this process and takes no @URL: {advice}")
    if connection.base_url is not None:
        raise UsageError(f"--base-url and the address in {provider}:{name}@… both say where it is asked: leave out one")
    return replace(connection, own_url=url)


@contextmanager
def idle_servers_stopped() -> Iterator[None]:
    """At the end, stop the servers that were started for models which no session asks any more."""
    try:
        yield
    finally:
        stop_idle_servers()


def stop_idle_servers() -> None:
    """Stop the servers that were started for models which no session asks any more."""
    pool = sys.modules.get("cai.models.serving.pool")
    if pool is not None:
        pool.POOL.stop_idle()


def speed_of(model: Model) -> Speed | None:
    """How fast a model is; that of a local one without a name is taken for the embedded model's."""
    for named in NAMED.values():
        if model.provider == "local" and model.name == named.mark:
            return _of_named(named)
    return provider_of(model).speed


def provider_of(model: Model) -> Provider:
    """The entry of the provider that a model names."""
    return PROVIDERS[model.provider]


def open_models(specs: Mapping[str, str], connection: Connection) -> dict[str, Model]:
    """The model of every player by its spec, each opened once; raises UsageError if a key could go astray.

    The base URL is that of the models whose specs have no address, of which there must be one.
    """
    own = {spec for spec in specs.values() if has_address(spec)}
    opened = {}
    for spec in dict.fromkeys(specs.values()):
        is_apart = spec in own and any(map(_is_hosted, set(specs.values()) - own))
        opened[spec] = open_model(spec, replace(connection, base_url=None) if is_apart else connection)
    _check_hosts(opened.values(), connection, pointed=[opened[spec] for spec in opened if spec not in own])
    return {player: opened[spec] for player, spec in specs.items()}


def check_hosts(specs: Iterable[str], connection: Connection) -> None:
    """Raise UsageError if a key could go astray among the models of specs, which are opened at different times."""
    models = [open_model(spec, connection) for spec in specs if _is_hosted(spec)]
    _check_hosts(models, connection, pointed=models)


def _is_hosted(spec: str) -> bool:
    return not PROVIDERS.get(parts_of(spec)[0], PROVIDERS["local"]).free


def _check_hosts(models: Iterable[Model], connection: Connection, pointed: Iterable[Model]) -> None:
    """pointed: the models that the base URL is for."""
    hosted = [model for model in models if not provider_of(model).free]
    readers: dict[str, str] = {}  # of keys: the host that each is sent to
    for model in hosted:
        host = urlsplit(model.endpoint).netloc
        for variable in getattr(model, "key_variables", ()):
            if readers.setdefault(variable, host) != host:
                raise UsageError(f"the key in {variable} would go to {readers[variable]} and {host} alike")
    providers = sorted({model.provider for model in hosted})
    sharing = sorted({model.provider for model in pointed if not provider_of(model).free})
    if connection.base_url is not None and len(sharing) > 1:
        variables = " or ".join(f"{provider.upper()}_BASE_URL" for provider in sharing)
        raise UsageError(
            f"--base-url would go to {' and '.join(sharing)} alike, keys included: set {variables} "
            "instead, or write PROVIDER:NAME@URL"
        )
    places = providers
    if len(providers) == 1:
        places = sorted({urlsplit(model.endpoint).netloc for model in hosted})
    if connection.headers and len(places) > 1:
        raise UsageError(
            f"--header would go to {' and '.join(places)} alike, keys included: leave it out; a key is read from "
            "PROVIDER_API_KEY, that of PROVIDER:NAME@URL from CAI_KEY_<HOST>_<PORT>"
        )


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
