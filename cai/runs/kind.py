"""The interface of a kind of run: its items, how to play and show each one, and what a plan counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, get_args

from cai.calls.feed import Feed
from cai.calls.flow import Driver
from cai.calls.model import Call, Model, check_ability, check_temperature
from cai.calls.prices import Price
from cai.engine.templates.sets import Templates
from cai.folder.growth import refusals
from cai.folder.info import ANEW, find_info
from cai.folder.kinds import kind_of
from cai.folder.lines import PAIR_BITS
from cai.folder.shards.layout import Shard
from cai.records import Object, Place, Record, Role, Sampling, Values
from cai.runs.settings import RunSettings

Row = TypeVar("Row", bound=Record)
Seats = tuple[Mapping[Role, str], Sampling, int]  # players by role, how they draw, and the seed of their calls


class RunKind(ABC, Generic[Row]):
    """What a session needs to know of a kind of run, and what `cai plan` counts.

    players: the models by what they do, such as critic. prices: of their tokens, None if unknown. identity: what
    decides the rows. out: the folder. total: items that it plays; None: not known before they are read. shard: which
    part of the items it plays; None: all.
    """

    command: ClassVar[str]  # a key of `records.KINDS`
    settings_class: ClassVar[type[RunSettings]]
    unit = "prompt"  # what the items are called
    outcome = "row kept"  # and those that are finished
    bounded = True  # whether a plan can say what is asked at most
    asked_first = 0  # items whose answers the others wait for, if there are more
    is_replanned = False  # whether other items are played once a setting is raised
    drawn_as: Mapping[Role, Callable[[str], str]] = dict.fromkeys(get_args(Role), str)  # whence chance follows, by id
    replaces = False  # whether a pair may take the place of another one of its prompt
    keeps_missing = True  # whether the folder may hold items that are not in the source any more
    may_be_unusable = False  # whether a source of which no item can be used is no error

    settings: Any
    out: Path
    identity: Values
    players: Mapping[str, Model]
    models: Sequence[Model]
    templates: Templates
    prices: dict[str, Price | None]
    total: int | None = None
    shard: Shard | None = None
    info: Values  # of run.json, once it is played
    stopped: str | None

    @abstractmethod
    def items(self) -> Iterator[Place]:
        """The items with their positions, from the first."""

    def everything(self) -> Iterator[Place]:
        """The items of the source with their positions, whatever `limit` says; may be read again."""
        return self.items()

    def is_own(self, position: int) -> bool:
        """Whether no other shard plays the item at a position; all pairs of a prompt are in one shard."""
        if self.shard is None:
            return True
        return self.shard.has(position >> PAIR_BITS if kind_of(self.command).pairs else position)

    def own(self) -> Iterator[Place]:
        """The items that it plays itself."""
        return (place for place in self.items() if self.is_own(place[0]))

    def is_besides(self, position: int, there: Object) -> bool:
        """Whether an item never was in the source, by its position and the identity that the folder has."""
        return False

    async def prepare(self, drivers: list[Driver]) -> None:
        """Ask what must be known before the first item."""

    @abstractmethod
    async def play(self, drivers: list[Driver], item: Any, position: int) -> Row:
        """One item to its row; raises RowDropped if only this item is lost."""

    @abstractmethod
    def texts(self, row: Row) -> tuple[str, ...]:
        """Two texts of a row that show together what was done, and what was said of the first one."""

    @staticmethod
    @abstractmethod
    def shown(row: Any) -> Iterator[tuple[str, str]]:
        """The texts of a row with their labels, for people to read."""

    @abstractmethod
    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is finished; `folder` is ready for a shell."""
        return iter(())

    # What a kind of run may change

    def seats(self) -> list[Seats]:
        """Which player has which role; several if one question goes to several models."""
        names: Any = {name: name for name in self.players}
        return [(names, self.settings.sampling, self.settings.seed)]

    def sessions(self) -> Iterator[Any]:
        """The runs that it takes, each to be played to its end before the next is asked for."""
        yield self

    def twins(self, info: Object) -> Callable[[Call], Iterable[Call]]:
        """What finds the calls that asked the same as another one in earlier sessions; info: the run.json of those."""
        return lambda call: ()

    def check_models(self) -> None:
        """Raise UsageError if a model lacks a required capability; some report it only after loading."""
        for model in self.models:
            check_ability(model, completes=self.templates.completes)
            check_temperature(model, self.settings.sampling)

    def kept(self, row: Row) -> None:
        """Called with every row once it is on disk; raises ModelStopped if the run must end."""

    def enough(self, position: int) -> bool:
        """Whether neither the item at this position nor one after it is wanted."""
        return False

    def more(self) -> Feed[Place] | None:
        """Items that come up once all others are finished; None: there are none."""
        return None

    def cut_options(self) -> Values:
        """The options of the cut that this command states."""
        return {}

    # A plan

    def follow_ups(self, row: Row) -> Iterator[tuple[Any, Place]]:
        """What another run plays because of a row; each item comes with that run."""
        return iter(())

    def parts(self) -> Iterator[Any]:
        """The runs that a plan counts."""
        yield self

    def planned(self) -> dict[str, tuple[Model, Price | None]]:
        """The models that a plan counts, by player, and what their tokens cost."""
        return {player: (model, self.prices[player]) for player, model in self.players.items()}

    def is_resumed(self) -> bool:
        """Whether the folder holds this run, which may have grown since, and it is not started over."""
        info = None if self.settings.force else find_info(self.out, ANEW)
        return info is not None and not refusals(info["identity"], self.identity)

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        return iter(())


def results(run: RunKind[Any], parts: Sequence[RunKind[Any]]) -> Values:
    """The run.json of a run, with what its parts so far took together."""
    infos = [part.info for part in parts if part.info]
    usage = Counter[str]()
    for info in infos:
        usage.update(info["usage"])
    costs = [info["cost_usd"] for info in infos]
    took = {"stopped": parts[-1].stopped, "usage": usage, "cost_usd": None if None in costs else sum(costs)}
    return (run.info or infos[0]) | took | {"seconds": round(sum(info["seconds"] for info in infos), 3)}
