"""Runs over prompts: how their source is read, counted and named."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cai.calls.model import Model
from cai.engine.templates import Templates
from cai.records import Place, Record
from cai.runs.run import Run
from cai.runs.settings import PromptSettings
from cai.sources.files import describe, read_prompts

Prompts = str | Path | Iterable[Any] | None
Row = TypeVar("Row", bound=Record)


class PromptRun(Run[Row]):
    """A run over prompts: a file, `hf:…`, an iterable, or None for the built-in set."""

    def __init__(
        self,
        prompts: Prompts,
        settings: PromptSettings,
        name: str,
        templates: Templates,
        players: Mapping[str, Model],
        identity: Mapping[str, Any],
    ) -> None:
        self.prompts = prompts
        super().__init__(prompts, settings, name, templates, players, identity)

    def items(self) -> Iterator[Place]:
        """The prompts, from the first, up to `limit`."""
        settings = self.settings
        prompts = read_prompts(self.prompts, format=settings.format, field=settings.prompt_field)
        return itertools.islice(enumerate(prompts), settings.limit)

    @property
    def countable(self) -> bool:
        """Whether the prompts can be read twice."""
        return self.prompts is None or is_file(self.prompts)


def source_of(prompts: Prompts, settings: PromptSettings) -> dict[str, Any]:
    """What the identity of a run says of its prompts; raises SourceError if they cannot be read at all."""
    read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
    return {"what": describe(prompts), "format": settings.format, "field": settings.prompt_field}


def is_file(source: Any) -> bool:
    """Whether a source is the path of a file."""
    return isinstance(source, str | Path) and Path(source).is_file()


def described(source: Any, limit: int | None) -> str:
    """What a source is called, for people to read."""
    name = "from Python"
    if source is None:
        name = "the built-in set"
    elif isinstance(source, str | Path):
        name = str(source)
    return name if limit is None else f"{name}, the first {limit:,}"
