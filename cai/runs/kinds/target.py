"""`cai label --target`: draws further replies to prompts without a kept pair, until enough pairs are kept."""

from __future__ import annotations

import itertools
import logging
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from cai.calls.feed import Feed
from cai.calls.flow import Driver
from cai.calls.seats import Played
from cai.engine.revise import Ask, sample
from cai.engine.templates.sets import Templates
from cai.errors import RowDropped, UsageError
from cai.export.options import Filters
from cai.export.pairings import POSITION, place_of
from cai.export.pairs import reason
from cai.folder.lines import PAIR_BITS, lines_in_order, reading
from cai.records import Candidate, Contest, Label, Place, Prompt, Sampling, Values
from cai.runs.kinds.pairs import replies_of_run, run_info
from cai.runs.kinds.pairs_of_row import later_reply, pair_of_replies, placed
from cai.runs.kinds.settings import LabelSettings
from cai.sources.files import Source

log = logging.getLogger("cai")


class Target:
    """Further replies to the prompts of a sample run, drawn as its own were, until `target` pairs are kept.

    Raises UsageError if the source is not a sample run, or further replies to it cannot be drawn.
    """

    def __init__(self, source: Source, settings: LabelSettings, templates: Templates) -> None:
        info = run_info(source)
        if info is None or info["identity"]["command"] != "sample":
            raise UsageError(
                "--target draws further replies to the prompts of a sample run: name the --out of a cai sample"
            )
        identity, specs = info["identity"], info["settings"]["model"]
        self.model = specs[0]
        if settings.model is not None:
            self.model = settings.model
        elif len(specs) > 1:
            named = f"{len(specs)} models ({', '.join(specs)})"
            raise UsageError(f"--target: the sample run has {named}: say which by --model")
        if identity["templates"] not in (None, templates.hash):
            raise UsageError(
                "--target: the sample run had other templates: name those as --templates, with a judge.jinja"
            )
        drawn = identity["sampling"]
        self.sampling = Sampling(drawn["temperature"], drawn["max_tokens"], drawn["extra_body"])
        self.seed = identity["seed"]
        self._ask = Ask(templates, None, system=identity["system"])
        self._replies = identity["n"] * len(identity["models"])  # to a prompt, that the sample run drew
        self._others = identity["n"] * (len(specs) - 1)  # of them by other models, which number theirs by themselves
        self._source = source
        self._settings: Any = settings  # target and max_candidates are set
        self._filters = Filters()
        self._kept: list[int] = []  # places of all kept pairs, sorted
        self._served: dict[int, int] = {}  # place of a prompt with a kept pair → the least reply that made one
        self._pass = 0

    async def complete(self, driver: Driver, item: Contest) -> tuple[Contest, list[Played[list[Candidate]]]]:
        """A pair with the replies that it lacks, and what it took to draw them; RowDropped if one cannot be used."""
        drawn = []
        for side in ("a", "b"):
            if getattr(item, side) is not None:
                continue
            origin = getattr(item, f"{side}_from")  # such as "sample 4"
            number = int(origin.removeprefix("sample ")) - self._others
            prompt = Prompt(id=item.prompt_id, messages=item.messages)
            played = await driver.play(prompt.id, item.position, sample(prompt, self._ask, [number]))
            [reply] = played.result
            if reply.problem is not None:
                problem = f"{origin} of prompt {prompt.id} is {reply.problem}"
                raise RowDropped(reply.problem, "assistant", problem, played.calls)
            changes: Values = {side: reply.text, f"{side}_model": reply.model}
            item = replace(item, **changes)
            drawn.append(played)
        return item, drawn

    def read(self, path: Path, filters: Filters, is_finished: Callable[[int], bool]) -> None:
        """Count the labels of an earlier session, but for those that are to grow.

        filters: which pairs are kept, then and now.
        """
        self._filters = filters
        with reading(path):
            for position, line in lines_in_order(path):
                if is_finished(position):
                    self._add(orjson.loads(line))

    def add(self, row: Label) -> None:
        """Count a label."""
        self._add(row.model_dump(mode="json"))

    def _add(self, row: Values) -> None:
        if reason(row, self._filters) is None:
            insort(self._kept, place_of(row, self._replies))
            unit, later = row["position"] >> PAIR_BITS, later_reply(row["position"])
            self._served[unit] = min(later, self._served.get(unit, later))

    def ends_before(self, position: int) -> bool:
        """Whether as many pairs are kept as are wanted before this one of the present pass.

        By place and not by count: a pair that was on its way when a run was killed comes before others that were not.
        """
        wanted: int = self._settings.target
        return len(self._kept) >= wanted and self._kept[wanted - 1] < self._pass << POSITION | position

    def more(self) -> Feed[Place] | None:
        """The pairs of the next pass; None if every prompt has as many replies as it may have, or a pair."""
        settings = self._settings
        self._pass += 1
        if len(self._kept) >= settings.target:
            return None
        places = self._pairs(self._pass, dict(self._served))
        first = next(places, None)
        if first is not None:
            return Feed(itertools.chain([first], places))
        log.warning(
            "%d pairs are kept, --target %d is not reached: every other prompt has its %d replies",
            len(self._kept), settings.target, settings.max_candidates,
        )  # fmt: skip
        return None

    def _pairs(self, turn: int, served: Mapping[int, int]) -> Iterator[Place]:
        """The pairs of the `turn`-th further reply with all replies before it, of the prompts that are not served.

        served: the least reply of each prompt that made a kept pair with one before it. Only those before the `turn`-th
        count: so a run that was stopped within this turn resumes with the same pairs.
        """
        for row in replies_of_run(self._source, self._settings.limit):
            new = len(row.replies) + turn - 1
            if served.get(row.position, new) < new or new >= self._settings.max_candidates:
                continue
            texts: dict[int, str | None] = {
                number: reply.text for number, reply in enumerate(row.replies) if reply.problem is None
            }
            texts |= dict.fromkeys(range(len(row.replies), new))
            pairs = (pair_of_replies(row.id, row.prompt, earlier, (new, None)) for earlier in texts.items())
            yield from placed(pairs, row.position)
