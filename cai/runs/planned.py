"""What a plan can ask a run: its items, and what it would ask of which model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cai.calls.model import Model
from cai.calls.prices import Price
from cai.records import Place, Request


class Planned(ABC):
    """A run as a plan sees it."""

    unit: str = "prompt"  # what the items are called
    settings: Any
    out: Path
    identity: dict[str, Any]
    players: Mapping[str, Model]
    prices: dict[str, Price | None]

    @abstractmethod
    def items(self) -> Iterator[Place]:
        """The items with their positions, from the first."""

    @abstractmethod
    def imagined(self, item: Any, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player, if every answer were `answer`."""

    @property
    def countable(self) -> bool:
        """Whether the source can be read twice."""
        return False

    def parts(self) -> Iterator[Planned]:
        """The runs that a plan counts."""
        yield self

    def planned(self) -> dict[str, tuple[Model, Price | None]]:
        """The models that a plan counts, by player, and what their tokens cost."""
        return {player: (model, self.prices[player]) for player, model in self.players.items()}

    @property
    def most_waves(self) -> int | None:
        """How often an item may be asked what a plan counts once; None: not known."""
        return 1

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        return iter(())
