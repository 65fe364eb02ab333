"""Further replies for `cai label --target`: which prompts need one, and how it is drawn."""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from cai.calls.flow import Driver, Played
from cai.engine.ask import Ask
from cai.engine.candidates import Sampled, sample
from cai.engine.templates import Templates
from cai.errors import UsageError
from cai.export.pairs import Filters, extra_pass, reason
from cai.folder.rows import PAIR_BITS, reading
from cai.records import Contest, Label, Place, Prompt, Sampling
from cai.runs.pairs import later_reply, pair_of_replies, replies_of_run, run_info
from cai.runs.settings import LabelSettings
from cai.sources.files import Source

log = logging.getLogger("cai")


@dataclass(frozen=True)
class Further:
    """How further replies to the prompts of a sample run are drawn: as its own were."""

    model: str
    others: int  # replies of its other models: the next number of this model is that much lower
    system: str | None
    sampling: Sampling
    seed: int
    replies: int  # to a prompt, that the sample run drew

    async def draw(self, driver: Driver, templates: Templates, item: Contest, origin: str) -> Played[Sampled]:
        """The reply that `origin` names, such as "sample 4"."""
        number = int(origin.removeprefix("sample ")) - self.others
        prompt = Prompt(id=item.prompt_id, messages=item.messages)
        ask = Ask(templates, None, system=self.system)
        return await driver.play(prompt.id, item.position, sample(prompt, ask, [number]))


def further_of(source: Source, settings: LabelSettings, templates: Templates) -> Further:
    """How further replies are drawn; raises UsageError if the source is not a sample run."""
    info = run_info(source)
    if info is None or info["identity"]["command"] != "sample":
        raise UsageError(
            "--target draws further replies to the prompts of a sample run: name the --out of a cai sample"
        )
    identity, specs = info["identity"], info["settings"]["model"]
    if settings.model is None and len(specs) > 1:
        raise UsageError(f"--target: the sample run has {len(specs)} models ({', '.join(specs)}): say which by --model")
    if identity["templates"] not in (None, templates.hash):
        raise UsageError("--target: the sample run had other templates: name those as --templates, with a judge.jinja")
    return Further(
        model=specs[0] if settings.model is None else settings.model,
        others=identity["n"] * (len(specs) - 1),
        system=identity["system"],
        sampling=Sampling(**identity["sampling"]),
        seed=identity["seed"],
        replies=identity["n"] * len(identity["models"]),
    )


class Target:
    """How far a run is on its way to `target` kept pairs, and which prompts have none."""

    def __init__(self, source: Source, settings: LabelSettings, further: Further, filters: Filters) -> None:
        self._source, self._settings, self._further, self._filters = source, settings, further, filters
        self._wanted = settings.target or 0
        self._kept: list[tuple[int, int]] = []  # pass and position of every kept pair, sorted
        self._served: dict[int, int] = {}  # place of a prompt with a kept pair → the least reply that made one
        self._pass = 0

    def read(self, path: Path) -> None:
        """Count the labels of an earlier session."""
        if not path.exists():
            return
        with reading(path), path.open("rb") as file:
            for line in file:
                self._add(orjson.loads(line))

    def add(self, row: Label) -> None:
        """Count a label."""
        self._add(row.model_dump(mode="json"))

    def _add(self, row: dict[str, Any]) -> None:
        if reason(row, self._filters) is None:
            insort(self._kept, (extra_pass(row, self._further.replies), row["position"]))
            unit, later = row["position"] >> PAIR_BITS, later_reply(row["position"])
            self._served[unit] = min(later, self._served.get(unit, later))

    def ends_before(self, position: int) -> bool:
        """Whether as many pairs are kept as are wanted before this one of the present pass.

        By place and not by count: a pair that was on its way when a run was killed comes before others that were not.
        """
        return len(self._kept) >= self._wanted and self._kept[self._wanted - 1] < (self._pass, position)

    def more(self) -> Iterator[Place] | None:
        """The pairs of the next pass; None if every prompt has as many replies as it may have, or a pair."""
        self._pass += 1
        if len(self._kept) >= self._wanted:
            return None
        places = self._pairs(self._pass, dict(self._served))
        first = next(places, None)
        if first is None:
            log.warning(
                "%d pairs are kept, --target %d is not reached: every other prompt has its %d replies",
                len(self._kept), self._wanted, self._settings.max_candidates,
            )  # fmt: skip
            return None

        def rest() -> Iterator[Place]:
            yield first
            yield from places

        return rest()

    def _pairs(self, turn: int, served: Mapping[int, int]) -> Iterator[Place]:
        """The pairs of the `turn`-th further reply with all replies before it, of the prompts that are not served.

        served: the least reply of each prompt that made a kept pair with one before it. Only those before the `turn`-th
        count: so a run that was stopped within this turn resumes with the same pairs.
        """
        most = self._settings.max_candidates or 0
        for unit, prompt_id, messages, replies in replies_of_run(self._source, self._settings.limit):
            new = len(replies) + turn - 1
            if served.get(unit, new) < new or new >= most:
                continue
            texts: dict[int, str | None] = {n: text for n, (text, problem) in enumerate(replies) if problem is None}
            texts |= dict.fromkeys(range(len(replies), new))
            for number, text in texts.items():
                pair = pair_of_replies(prompt_id, messages, (number, text), (new, None))
                position = unit << PAIR_BITS | pair.position
                yield position, replace(pair, position=position)
