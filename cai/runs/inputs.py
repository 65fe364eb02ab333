"""What a run works with: its prompts, and its models by the part they play with what their tokens cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cai.calls.flow import Driver, Seat
from cai.calls.limits import Limiter, Tally
from cai.calls.model import Connection, Model
from cai.calls.prices import FREE, Budget, Price, known_price, parse_price
from cai.engine.templates import Templates
from cai.errors import RunError, UsageError
from cai.folder.files import identity_hash
from cai.folder.run import RunFolder
from cai.models import open_model, provider_of, spec_of
from cai.records import Place, Role, Sampling
from cai.runs.settings import PromptSettings, RunSettings
from cai.sources.files import describe, read_prompts

Seats = Mapping[Role, Model]
Prompts = str | Path | Iterable[Any] | None


def open_models(settings: RunSettings, specs: Mapping[str, str]) -> dict[str, Model]:
    """The model of every player by its spec, each opened once; raises UsageError if a key could go astray."""
    connection = Connection(settings.base_url, settings.headers, settings.timeout)
    opened = {spec: open_model(spec, connection) for spec in dict.fromkeys(specs.values())}
    hosted = {model.provider for model in opened.values() if not provider_of(model).free}
    if len(hosted) > 1 and (settings.base_url is not None or settings.headers):
        raise UsageError(
            f"--base-url and --header would go to {' and '.join(sorted(hosted))} alike, keys included: set "
            "OPENAI_BASE_URL or ANTHROPIC_BASE_URL instead, or use one provider"
        )
    return {player: opened[spec] for player, spec in specs.items()}


def check_ability(model: Model, templates: Templates) -> None:
    """Raise UsageError if a model cannot answer what a template set asks."""
    spec = spec_of(model)
    if templates.completes and not model.can.completion:
        raise UsageError(f"{spec} cannot continue text: use chat templates, or a model with completions")
    if not templates.completes and not model.can.chat:
        raise UsageError(f"{spec} has no chat template: it is a base model, use --templates fewshot")


def check_identity(identity: Mapping[str, Any]) -> None:
    """Raise UsageError if a setting cannot be written down."""
    try:
        identity_hash(identity)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are no UTF-8 text") from None


def prices_of(settings: RunSettings, models: Mapping[str, Model]) -> dict[str, Price | None]:
    """The price of every player's tokens; raises UsageError if a cap could not hold."""
    stated = None if settings.price is None else parse_price(settings.price)
    prices = {player: _price_of(model, stated) for player, model in models.items()}
    if settings.max_cost is not None:
        for player, price in prices.items():
            if price is None:
                name = spec_of(models[player])
                raise UsageError(f"--max-cost cannot hold: no listed price for {name}; state it with --price IN,OUT")
    return prices


def _price_of(model: Model, stated: Price | None) -> Price | None:
    if provider_of(model).free:
        return FREE
    return stated or known_price(model)


def drivers_of(
    seated: Iterable[tuple[Seats, Sampling, int]],
    prices: Mapping[int, Price | None],
    settings: RunSettings,
    folder: RunFolder,
    tally: Tally,
    spent: float,
) -> list[Driver]:
    """One driver for each way to fill the roles; seats share a limiter if they share a model.

    seated: the models by role, how they draw, and the seed of their calls. prices: by the `id` of the model. spent: USD
    that count towards the cap, besides what the folder has cost.
    """
    store, budget = folder.store, None
    if settings.max_cost is not None:
        cost = store.spent().cost_usd
        if cost is None:
            raise RunError(f"--max-cost cannot hold: {folder.path} has calls of no known price; name another --out")
        budget = Budget(settings.max_cost, spent=cost + spent)
    limiters: dict[int, Limiter] = {}
    drivers = []
    for roles, sampling, seed in seated:
        seats = {}
        for role, model in roles.items():
            if id(model) not in limiters:
                concurrency = settings.concurrency or model.concurrency
                limiters[id(model)] = Limiter(concurrency, settings.rpm, settings.tpm, tally)
            seats[role] = Seat(model, limiters[id(model)], sampling, prices[id(model)])
        drivers.append(Driver(seats, store, seed=seed, budget=budget, tally=tally))
    return drivers


# Prompts


def source_of(prompts: Prompts, settings: PromptSettings) -> dict[str, Any]:
    """What the identity of a run says of its prompts; raises SourceError if they cannot be read at all."""
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    return {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field}


def prompts_of(prompts: Prompts, settings: PromptSettings) -> Iterator[Place]:
    """The prompts with their positions, from the first, up to `limit`."""
    items = read_prompts(prompts, format=settings.format, field=settings.prompt_field)
    return itertools.islice(enumerate(items), settings.limit)


def is_countable(prompts: Prompts) -> bool:
    """Whether prompts can be read twice."""
    return prompts is None or (isinstance(prompts, str | Path) and Path(prompts).is_file())


def described(source: Any, limit: int | None) -> str:
    """What a source is called, for people to read."""
    name = "from Python"
    if source is None:
        name = "the built-in set"
    elif isinstance(source, str | Path):
        name = str(source)
    return name if limit is None else f"{name}, the first {limit:,}"
