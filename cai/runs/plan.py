"""What a run would ask and cost: its items are played with stand-ins for the answers, and no model is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

from cai.calls.model import spec_of
from cai.calls.prices import CHARACTERS_PER_TOKEN, TYPICAL_ANSWER
from cai.models import provider_of, speed_of
from cai.records import BadPrompt, Object, Record, Values
from cai.runs.rehearsal import Counts, Plannable, rehearse
from cai.runs.run import Run
from cai.texts.wording import plural, report_lines
from cai.weights.embedded import missing_weights

FIGURES = ("calls", "input_tokens", "output_tokens")


class RoleEstimate(Record):
    """What one role is asked; tokens of answers that are as long as they typically are."""

    model: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None  # None: no listed price
    price_per_million: tuple[float, float] | None = None  # USD, input and output


class Estimate(Record):
    """What a run would ask; the `most` fields take every answer to be max_tokens long, and critiques to find faults."""

    out: str
    unit: str  # what is counted: prompts, or pairs
    prompts: int
    unusable: int  # records that are not prompts, and repeated prompts and ids
    finished: int  # of the prompts, those that the folder is through with; they are not counted below
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None
    most_calls: int | None = (
        None  # None, as in the next three: a target decides how many, which shows as pairs are judged
    )
    most_input_tokens: int | None = None
    most_output_tokens: int | None = None
    most_cost_usd: float | None = None
    seconds: float | None
    waves: int | None = None  # of batches, one after the other; None: calls are sent by themselves
    roles: dict[str, RoleEstimate]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The estimate for people to read."""
        return report_lines(__file__, plan=self)


def estimate(run: Plannable) -> Estimate:
    """Count what a run would ask, streaming through its items."""
    likely = {player: Counter[str]() for player in run.planned()}
    most = {player: Counter[str]() for player in run.planned()}
    statuses, waves, misfit = asyncio.run(rehearse(run, likely, most))
    roles = _roles(run, likely)
    sums = _sums(roles)
    bounds = _sums(_roles(run, most))
    most_sums = {f"most_{name}": value for name, value in bounds.items()}
    return Estimate(
        out=str(run.out),
        unit=plural(run.unit),
        prompts=statuses["new"] + statuses["finished"],
        unusable=statuses["unusable"],
        finished=statuses["finished"],
        seconds=None if run.settings.batch else _seconds(run, sums),
        waves=waves if run.settings.batch else None,
        roles=roles,
        notes=tuple(_notes(run, bounds["cost_usd"], misfit)),
        **sums,
        **(most_sums if run.bounded else {}),
    )


def _roles(run: Plannable, counts: Counts) -> dict[str, RoleEstimate]:
    """What each player is asked, and what that costs."""
    roles = {}
    for player, (model, price) in run.planned().items():
        offer = provider_of(model).batches
        if price is not None and run.settings.batch and offer is not None:
            price = price.share(offer.share)
        figures: Values = {"model": spec_of(model), **counts[player]}
        if price is not None:
            figures["cost_usd"] = price.cost(counts[player]["input_tokens"], counts[player]["output_tokens"])
            figures["price_per_million"] = (price.input * 1e6, price.output * 1e6)
        roles[player] = RoleEstimate(**figures)
    return roles


def _sums(roles: Mapping[str, RoleEstimate]) -> Values:
    """The figures of all roles together; the cost is None if a price is not known."""
    sums: Values = {name: sum(getattr(role, name) for role in roles.values()) for name in FIGURES}
    costs = [role.cost_usd for role in roles.values()]
    sums["cost_usd"] = None if None in costs else sum(filter(None, costs))
    return sums


def _seconds(run: Plannable, sums: Object) -> float | None:
    """A rough time, as if the slowest model answered every call; None if the speed of one is not known."""
    settings = run.settings
    seconds = sums["calls"] / settings.rpm * 60 if settings.rpm else 0.0
    for model, _ in run.planned().values():
        speed = speed_of(model)
        if speed is None:
            return None
        concurrency = settings.concurrency or model.concurrency
        calls, read, written = (sums[name] for name in FIGURES)
        seconds = max(seconds, speed.seconds(calls, read, written, concurrency))
    return seconds


def _notes(run: Plannable, most_cost: float | None, misfit: BadPrompt | None) -> Iterator[str]:
    settings = run.settings
    if misfit is not None:
        yield f"record {misfit.line} is the first that cannot be used: {misfit.problem}"
    if isinstance(run, Run):
        yield from run.folder_notes()
    yield (
        f"tokens are counted as {CHARACTERS_PER_TOKEN:g} bytes each, answers as {TYPICAL_ANSWER:.0%} of --max-tokens "
        f"{settings.max_tokens}; nothing was asked of any model"
    )
    yield from missing_weights([spec_of(model) for model, _ in run.planned().values()])
    yield from run.plan_notes()
    unpriced = sorted({spec_of(model) for model, price in run.planned().values() if price is None})
    if unpriced:
        yield f"no listed price for {', '.join(unpriced)}: state it with --price IN,OUT"
    elif most_cost is not None and settings.max_cost is not None and most_cost > settings.max_cost:
        yield f"--max-cost {settings.max_cost:g} may stop the run before its end: it could come to ${most_cost:,.2f}"
