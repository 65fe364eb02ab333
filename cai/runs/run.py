"""A kind of job: what it does with each item, and how it is set up, resolved and checked before anything is asked.

What an item is and how it is played is its `Task`'s: a prompt to critique and revise or to answer several times, or a
pair to judge. Knows what every kind can be asked about itself; nothing of how a job is played.
"""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cai.calls.flow import Driver
from cai.calls.model import Model
from cai.calls.prices import Price
from cai.engine.templates import Templates
from cai.errors import CaiError, UsageError
from cai.folder.files import identity_hash
from cai.folder.run import RunFolder
from cai.records import Contest, Item, Place, Prompt, Record, Request, Role, Sampling
from cai.runs.players import check_ability
from cai.runs.settings import PromptSettings, RunSettings
from cai.sources.files import read_prompts

Row = TypeVar("Row", bound=Record)
Seats = Mapping[Role, Model]
Prompts = str | Path | Iterable[Any] | None


class Task(ABC, Generic[Row]):
    """What a job does with each item; made for one session of one run."""

    unit = "prompt"  # what the items are called
    done = "row kept"  # what is said of the finished ones
    rows_file = ""

    @abstractmethod
    def places(self) -> Iterator[Place]:
        """The items with their positions, from the first."""

    def open(self, run: RunFolder) -> None:
        """Look at what an earlier session left; called before the first call, when the models are loaded."""

    @abstractmethod
    async def play(self, drivers: list[Driver], item: Prompt | Contest, position: int) -> Row:
        """One item to its row; raises RowDropped where only this item is lost."""

    @abstractmethod
    def texts(self, row: Row) -> tuple[str, str]:
        """Two texts of a row that show together what was done."""

    def kept(self, row: Row) -> None:
        """Told of every row when it is on disk; raises ModelStopped where going on makes no sense."""

    def enough(self, position: int) -> bool:
        """Whether neither the item at this position nor one after it is wanted."""
        return False

    def more(self, run: RunFolder) -> Iterator[Place] | None:
        """Items that come up once all others are through; None: there are none."""
        return None


@dataclass(frozen=True)
class Setup(ABC, Generic[Row]):
    """A run, resolved and checked; nothing has been read yet, nothing asked and nothing written.

    players: the models by what they are called in a plan, such as critic. seats: which of them play which role; several
    where one question goes to several models.
    """

    name: str  # starts the name of the default folder
    templates: Templates
    players: Mapping[str, Model]
    seats: tuple[Seats, ...]
    prices: Mapping[str, Price | None]  # by player
    identity: dict[str, Any]
    settings: RunSettings

    @property
    def models(self) -> list[Model]:
        """Every model once."""
        return list({id(model): model for model in self.players.values()}.values())

    def price_of(self, model: Model) -> Price | None:
        """What a model's tokens cost; None: not known."""
        return next(self.prices[player] for player, other in self.players.items() if other is model)

    @property
    def out(self) -> Path:
        """The run's folder: as asked, else one named after the job and everything that decides its rows."""
        named = self.settings.out
        return Path(named) if named is not None else Path("runs") / f"{self.name}-{identity_hash(self.identity)}"

    @abstractmethod
    def task(self) -> Task[Row]:
        """The task of one session."""

    def check_models(self) -> None:
        """Raises UsageError where a model cannot do what it is for; some know it only once they are loaded."""

    @abstractmethod
    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""

    def parts(self) -> Iterator[Setup[Row]]:
        """The runs that it takes, itself the last."""
        yield self

    @property
    def most_times(self) -> int | None:
        """How often an item may be asked what a plan counts once; None: nobody knows."""
        return 1

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""
        yield from ()

    def sampling_of(self, seat: int) -> tuple[Sampling, int]:
        """How the models of a seat draw, and the seed of their calls."""
        settings = self.settings
        return Sampling(settings.temperature, settings.max_tokens, dict(settings.extra_body)), settings.seed

    def next_steps(self, folder: str) -> Iterator[str]:
        """What to type when the run is through; `folder` is ready for a shell."""
        yield from ()

    @property
    def cuts(self) -> bool:
        """Whether training rows are cut at the end."""
        return True

    def cut_options(self) -> dict[str, Any]:
        """The options of the first cut."""
        return {}

    @abstractmethod
    def imagined(self, item: Item, answer: str) -> Iterator[tuple[str, Request]]:
        """What would be asked for an item, by player, if every answer were `answer`."""

    @property
    def countable(self) -> bool:
        """Whether the source can be read twice."""
        return False

    def count_items(self, tell: Callable[[int], None]) -> None:
        """Count the items in a thread of its own, and tell."""
        if not self.countable:
            return

        def count() -> None:
            # A damaged source is reported by the run itself, which reads it too.
            with suppress(CaiError):
                tell(sum(1 for _ in self.task().places()))

        threading.Thread(target=count, name="cai-count", daemon=True).start()


@dataclass(frozen=True)
class PromptSetup(Setup[Row]):
    """A run over prompts."""

    settings: PromptSettings
    prompts: Prompts

    def places(self) -> Iterator[Place]:
        """The prompts, from the first, as far as `limit`."""
        items = read_prompts(self.prompts, format=self.settings.format, field=self.settings.prompt_field)
        return limited(enumerate(items), self.settings.limit)

    @property
    def countable(self) -> bool:
        """Whether the prompts can be read twice."""
        return is_countable(self.prompts)

    def check_models(self) -> None:
        """Raises UsageError where a model cannot answer what the templates ask."""
        for model in self.models:
            check_ability(model, self.templates)


def check_identity(identity: Mapping[str, Any]) -> None:
    """Raise UsageError if a setting cannot be written down."""
    try:
        identity_hash(identity)
    except TypeError:  # only text can be at fault: numbers have been checked
        raise UsageError("a setting or file name holds bytes that are no UTF-8 text") from None


def is_countable(prompts: Prompts) -> bool:
    """Whether a source of prompts can be read twice."""
    return prompts is None or (isinstance(prompts, str | Path) and Path(prompts).is_file())


def describe_prompts(prompts: Prompts, limit: int | None) -> str:
    """What a source of prompts is called."""
    named = (
        str(prompts) if isinstance(prompts, str | Path) else "the built-in set" if prompts is None else "from Python"
    )
    return named if limit is None else f"{named}, the first {limit:,}"


def limited(places: Iterator[Place], limit: int | None) -> Iterator[Place]:
    """The first `limit` places; all for None."""
    return itertools.islice(places, limit)
