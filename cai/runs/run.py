"""A run: what it asks of whom, and where it keeps what comes out.

What an item is and how it is played is up to each kind of run. Prints nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from cai.calls.again import check_reused
from cai.calls.feed import Again
from cai.calls.model import Model, seed_words
from cai.engine.templates.sets import Templates
from cai.folder.identity import identity_hash
from cai.folder.shards.layout import check_place
from cai.models import prices_of
from cai.records import Object, Place
from cai.runs.batching import check_batches
from cai.runs.kind import Row
from cai.runs.resume.extension import RUNS, additions, advice, folder_of, refused
from cai.runs.session import Session
from cai.runs.settings import RunSettings
from cai.sources.files import is_read_once
from cai.texts.wording import printable


class Run(Session[Row]):
    """A run that is resolved and checked.

    crew: who plays it in other processes; None: this process does. make: makes it again from its settings, there.
    """

    def __init__(
        self,
        source: Any,
        settings: RunSettings,
        name: str,
        templates: Templates,
        players: Mapping[str, Model],
        identity: Object,
    ) -> None:
        super().__init__()
        self.source = source
        self.settings = settings  # of the class that belongs to the kind of run
        self.templates, self.players, self.identity = templates, players, dict(identity)
        self.models = list({id(model): model for model in players.values()}.values())  # every model once
        self.prices = prices_of(players, settings.price, settings.max_cost)
        if settings.batch:
            check_batches(self.models)
        identity_hash(identity)  # raises UsageError for what cannot be written down
        self._name = name
        self._out: Path | None = None
        self.shard = settings.part
        if settings.out is not None:
            self._out = self._own_folder(Path(settings.out))
        if settings.reused:
            check_reused(settings.reused, self.out)
        if isinstance(source, str | Path | None):
            words = [] if source is None else [str(source)]
            self.command_line = printable(shlex.join(["cai", self.command, *words, *settings.words()]))
        self.crew: Callable[[Any], AsyncGenerator[Row, None]] | None = None
        self.make: Callable[[Any], Run[Row]] = partial(type(self), source)
        self.similar: tuple[int, Path] = (0, RUNS)  # how many of its prompts another folder has at most

    def _own_folder(self, out: Path) -> Path:
        """The folder of this run: the one that is named, or inside that, with what else it plays, its shard's."""
        if not self.settings.is_divided:  # else whoever plays its shards looks
            check_place(out, self.shard)
        if self.shard is None:
            return out
        self.cuts = False  # what is cut depends on all shards
        self.part_of = out
        return self.shard.folder(out)

    @property
    def out(self) -> Path:
        """The folder: the one that is named, else the one that the run extends, or a new one."""
        if self._out is None:
            self._out = self._own_folder(folder_of(self, self._name))
        return self._out

    @out.setter
    def out(self, path: Path) -> None:
        self._out = path

    async def rows(self) -> AsyncGenerator[Row, None]:
        """The rows as they finish, each safe on disk; those of an earlier session are not repeated.

        Raises ModelStopped or RunError if the run cannot continue; what was finished is kept.
        """
        async with aclosing(super().rows() if self.crew is None else self.crew(self)) as rows:
            async for row in rows:
                yield row

    def again(self, make: Callable[[], Iterator[Place]]) -> Iterator[Place]:
        """The items of the source; those of a source that can be read only once are kept until the run begins."""
        if not is_read_once(self.source):
            return make()
        if self._once is None:
            self._once = Again(make())
        return iter(self._once)

    def folder_notes(self) -> Iterator[str]:
        """Why the folder refuses the run, and where it could take answers from."""
        yield from filter(None, (refused(self), advice(self)))

    def seed_words(self) -> str:
        """The seed, and which models are not sent one, for people to read."""
        return seed_words(self.models, self.settings.sampling, self.settings.seed)

    def describe(self) -> Iterator[str]:
        """What will run, for people to read."""
        for name, value in self.facts().items():
            yield f"{name:14}{value}"
        yield f"folder        {self.out}"
        if self.shard is not None:
            yield f"shard         number {self.shard.number} of {self.shard.count}, counted from 0"
        if self.settings.is_divided:
            yield f"played by     {self.settings.workers_in_words}"
        others = advice(self)
        if others:
            yield f"not used      {others}"
        changes = "; ".join(additions(self))
        if changes:
            yield f"extended      {changes}"
