"""The drivers of a run: its models in their seats, with their limiters, batches and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.calls.batches.waves import Batches
from cai.calls.flow import Driver
from cai.calls.limits import Limiter
from cai.calls.roles import Roles
from cai.calls.seats import Seat
from cai.errors import RunError
from cai.folder.journal.store import cost_of
from cai.folder.run import RunFolder
from cai.records import Values


def seated(run: Any, folder: RunFolder, batches: Mapping[int, Batches], common: Values) -> list[Driver]:
    """What plays the flows of a run, for each of its seats; those of one model share a limiter, and its batches.

    batches: by the ids of their models. common: further keywords of all drivers.
    """
    settings = run.settings
    limiters = {
        id(model): Limiter(settings.concurrency or model.concurrency, settings.rpm, settings.tpm, run.tally)
        for model in run.models
    }
    drivers = []
    roles = Roles()
    for players, sampling, seed in run.seats():
        seats = {}
        for role, player in players.items():
            model = run.players[player]
            seats[role] = Seat(
                model, limiters[id(model)], sampling, run.prices[player], run.drawn_as[role], batches.get(id(model))
            )
        driver = Driver(seats, folder.store, seed=seed, roles=roles, **common)
        if driver.earlier is not None:
            driver.earlier.twins = run.twins(folder.info)
        drivers.append(driver)
    return drivers


def most_in_flight(drivers: Sequence[Driver]) -> int:
    """How many calls to one model may be in flight."""
    return max(seat.limiter.concurrency for driver in drivers for seat in driver.seats.values())


def known_cost(folder: Path) -> float:
    """USD that the calls of a folder cost; RunError if that is not known, since no cap could be kept."""
    cost = cost_of(folder)
    if cost is None:
        raise RunError(f"--max-cost cannot hold: {folder} has calls of no known price; name another --out")
    return cost
