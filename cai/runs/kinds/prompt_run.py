"""A run over prompts: which they are, and what its identity says of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial

from cai.calls.model import Model
from cai.engine.templates.sets import Templates
from cai.records import Object, Place
from cai.runs.kind import Row
from cai.runs.kinds.settings import PromptSettings
from cai.runs.run import Run
from cai.sources.files import Source, examine, is_prompt, read_prompts


class PromptRun(Run[Row]):
    """A run over prompts; identity: what decides the rows besides the prompts and how replies are sampled."""

    keeps_missing = False

    def __init__(
        self,
        prompts: Source | None,
        settings: PromptSettings,
        name: str,
        templates: Templates,
        players: Mapping[str, Model],
        identity: Object,
    ) -> None:
        read_prompts(prompts, format=settings.format, field=settings.prompt_field)  # reads nothing yet, but looks
        content, records = examine([prompts] if is_prompt(prompts) else prompts)
        source = {"what": content, "format": settings.format, "field": settings.prompt_field}
        sampled = {"system": settings.system, "sampling": asdict(settings.sampling), "seed": settings.seed}
        identity = {"command": self.command, "source": source, **identity, **sampled}
        super().__init__(prompts, settings, name, templates, players, identity)
        self.check_models()
        if records is not None:
            total = min(records, settings.limit or records)
            self.total = total if self.shard is None else self.shard.size(total)

    def everything(self) -> Iterator[Place]:
        """All prompts with their positions, from the first."""
        settings = self.settings
        prompts = partial(read_prompts, self.source, format=settings.format, field=settings.prompt_field)
        return self.again(lambda: enumerate(prompts()))

    def items(self) -> Iterator[Place]:
        """The prompts with their positions, from the first, up to `limit`."""
        return itertools.islice(self.everything(), self.settings.limit)
