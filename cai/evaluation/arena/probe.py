"""A run in which models say how probable they find texts: each probe is a context, and what may follow it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from cai.calls.flow import Driver
from cai.calls.model import check_ability, spec_of
from cai.calls.prices import total_usage
from cai.calls.seats import Flow
from cai.engine.templates.sets import load_templates
from cai.errors import UsageError
from cai.folder.lines import PAIR_BITS, read_rows
from cai.models import open_models
from cai.records import Completion, Object, Place, Probe, Probed, Request, Turns, Values
from cai.runs.kind import Seats
from cai.runs.kinds.sample import all_of
from cai.runs.run import Run
from cai.runs.settings import RunSettings
from cai.texts.wording import counted

UNASKED = Completion("", "stop", "")  # of a model that a probe does not name


def probe(id: str, context: Turns | str, *continuations: str, **options: Any) -> Probe:
    """A probe; context: a conversation, or a text to be continued. options: `by_token`, `models`."""
    key = sha256(orjson.dumps([id, context, continuations, options])).hexdigest()[:32]
    if isinstance(context, str):
        return Probe(id, key, (), context, continuations, **options)
    return Probe(id, key, context, None, continuations, **options)


def numbered(probes: Iterable[Probe]) -> list[tuple[int, Probe]]:
    """Probes with the positions of prompts."""
    return [(number << PAIR_BITS, probe) for number, probe in enumerate(probes)]


class ProbeRun(Run[Probed]):
    """Asks every model how probable it finds the continuations of each probe.

    probes: with their positions. specs: the models, whose order is that of the columns. origin: what the identity says
    of the probes, if more may come; None: they are all there. Raises UsageError for a model that gives no
    probabilities.
    """

    command = "probe"
    settings_class = RunSettings
    unit = "probe"
    outcome = "probe scored"

    def __init__(
        self,
        probes: Sequence[tuple[int, Probe]],
        specs: Sequence[str],
        settings: RunSettings,
        origin: Object | None = None,
    ) -> None:
        players = open_models({f"model {number}": spec for number, spec in enumerate(specs, 1)}, settings.connection)
        content: Any = origin
        if content is None:
            content = sha256("".join(probe.key for _, probe in probes).encode()).hexdigest()[:16]
        identity: Values = {"command": "probe", "probes": content, "models": list(map(spec_of, players.values()))}
        super().__init__(probes, settings, "probe", load_templates(None), players, identity)
        self.total = len(probes)
        self.check_models()

    def seats(self) -> list[Seats]:
        """Each model is asked."""
        return [({"assistant": player}, self.settings.sampling, self.settings.seed) for player in self.players]

    def check_models(self) -> None:
        """Raise UsageError if a model cannot score texts, or the contexts of these probes."""
        completes = {probe.text is not None for _, probe in self.source}
        for model in self.models:
            if not model.can.scoring:
                raise UsageError(f"{spec_of(model)} gives no probabilities of texts: use hf: or local:")
            for kind in completes:
                check_ability(model, completes=kind)

    def items(self) -> Iterator[Place]:
        """The probes."""
        return iter(self.source)

    async def play(self, drivers: list[Driver], item: Probe, position: int) -> Probed:
        """One probe to what each model says of it; raises RowDropped if one of them cannot be asked."""
        numbers = range(len(drivers)) if item.models is None else item.models
        playing = [drivers[number].play(item.id, position, _score(item)) for number in numbers]
        played = await all_of(playing, drivers[0].live)
        answers = dict(zip(numbers, (part.result for part in played), strict=True))
        columns = [answers.get(number, UNASKED) for number in range(len(drivers))]
        return Probed(
            id=item.id,
            position=position,
            key=item.key,
            prompt=item.messages,
            text=item.text,
            continuations=item.continuations,
            sizes=tuple(len(text.encode()) for text in item.continuations),
            logprobs=tuple(answer.scores for answer in columns),
            tokens=tuple(answer.logprobs for answer in columns) if item.by_token else None,
            models=tuple(answer.model or None for answer in columns),
            usage=total_usage([part.usage for part in played]),
            calls=tuple(call for part in played for call in part.calls),
        )

    def texts(self, row: Probed) -> tuple[str, str]:
        """The context and its first continuation."""
        context = row.prompt[-1]["content"] if row.text is None else row.text
        return context, row.continuations[0]

    @staticmethod
    def shown(row: Probed) -> Iterator[tuple[str, str]]:
        """The context, and each continuation with what the models say of it, for people to read."""
        yield "context", row.prompt[-1]["content"] if row.text is None else row.text
        for number, text in enumerate(row.continuations):
            sums = [f"{each[number]:.2f}" for each in row.logprobs if each is not None]
            yield f"text {number + 1}", f"{text.strip()} (log-probability {', '.join(sums)})"

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        texts = sum(len(probe.continuations) for _, probe in self.source)
        return {
            "probes": f"{counted(len(self.source), 'context')} with {counted(texts, 'continuation')}",
            "method": "log-probability of each continuation",
            "model": ", ".join(map(spec_of, self.players.values())),
        }


def _score(item: Probe) -> Flow[Completion]:
    request = Request("assistant", item.messages, item.text, score=item.continuations, top_logprobs=int(item.by_token))
    [answer] = yield [request]
    return answer


def read_probed(folder: Path) -> Iterator[Probed]:
    """The rows of a run of probes, in the order of the probes; none if it has not begun."""
    return read_rows(folder / "probes.jsonl", Probed)
