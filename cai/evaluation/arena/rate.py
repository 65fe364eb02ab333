"""A run in which one model rates single replies: a judge with a scale, or a guard model with its labels.

How it is asked about a reply is up to its `Rater`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from cai.calls.flow import Driver
from cai.calls.model import ListsTokens, Model, spec_of
from cai.calls.seats import Flow
from cai.engine.levels import Grade
from cai.engine.readability import CHECKED, JudgeCheck
from cai.engine.templates.sets import load_templates
from cai.errors import CaiError, UsageError
from cai.evaluation.arena.arena import Arena
from cai.folder.lines import PAIR_BITS, read_rows
from cai.folder.run import RunFolder
from cai.records import Candidates, ConstitutionRef, Entry, Object, Place, Protocol, Rating, Values
from cai.runs.kind import Seats
from cai.runs.run import Run
from cai.runs.settings import RunSettings
from cai.sources.conversations import prompt_hash


class Rater(ABC):
    """One model that rates, and how it is asked.

    binding: what decides its answers besides sampling, for the identity of the run, such as
    `{"judge": spec, "protocol": "score"}`. constitution, templates: what its rows record. listed: the tokens that hold
    its answer, with the protocol logprob. player: what a plan calls the model. wanted, advice: what it should answer,
    and what to do if it does not.
    """

    model: Model
    protocol: Protocol
    binding: Values
    constitution: ConstitutionRef | None = None
    templates: str | None = None
    listed: tuple[str, ...] = ()
    player = "judge"
    wanted = "with a level"
    advice = "name another judge"

    @abstractmethod
    def ask(self, entry: Entry) -> Flow[Grade]:
        """The questions about one reply, in the role of the judge."""

    @abstractmethod
    def check(self) -> None:
        """Raise UsageError if the model, which may know only once it is loaded, cannot be asked so."""


class RateRun(Run[Rating]):
    """Rates replies.

    entries: the replies with their positions, counted now and read when the run is played. origin: what the identity
    says of them.
    """

    command = "rate"
    settings_class = RunSettings
    unit = "rating"
    outcome = "rating made"

    def __init__(
        self, rater: Rater, settings: RunSettings, entries: Callable[[], Iterator[Place]], origin: Object
    ) -> None:
        identity = {
            "command": "rate",
            "source": dict(origin),
            "binding": rater.binding,
            "extra_body": dict(settings.extra_body),
            # Of other answers than words only the level is read.
            "max_tokens": settings.max_tokens if rater.protocol == "vote" else None,
            "seed": settings.seed,
        }
        templates = load_templates(settings.templates)
        super().__init__((), settings, "ratings", templates, {rater.player: rater.model}, identity)
        self.rater, self._entries = rater, entries
        self.total = sum(1 for _ in entries())
        self.readable = JudgeCheck(rater.advice, needed=False)  # a plan needs no check

    def seats(self) -> list[Seats]:
        """The model, as the judge."""
        return [({"judge": self.rater.player}, self.settings.sampling, self.settings.seed)]

    def items(self) -> Iterator[Place]:
        """The replies, from the first."""
        return self._entries()

    def check_models(self) -> None:
        """Raise UsageError if the model cannot be asked; some know only after loading."""
        self.rater.check()

    async def begin(self, folder: RunFolder) -> list[Driver]:
        """Look at the ratings of an earlier session, too: can the model be read?"""
        drivers = await super().begin(folder)
        model = self.rater.model
        if self.rater.listed and isinstance(model, ListsTokens):
            await model.list_tokens(self.rater.listed)
        self.readable = JudgeCheck(self.rater.advice, wanted=self.rater.wanted, unit="ratings")
        for row in folder.first_rows(CHECKED):
            self.kept(row)
        return drivers

    async def play(self, drivers: list[Driver], item: Entry, position: int) -> Rating:
        """One reply to its rating."""
        await self.readable.admitted(position)
        try:
            played = await drivers[0].play(item.id, position, self.rater.ask(item))
        except CaiError:  # this reply shows nothing of the model
            self.readable.leave(position)
            raise
        grade, rater = played.result, self.rater
        return Rating(
            id=item.id,
            position=position,
            key=item.key,
            prompt_id=item.prompt_id,
            prompt=item.messages,
            reply=item.reply,
            contestant=item.contestant,
            model=item.model,
            sample=item.sample,
            asked=item.asked,
            protocol=rater.protocol,
            p=grade.p,
            mass=grade.mass,
            value=grade.value,
            problem=grade.problem,
            constitution=rater.constitution,
            templates=rater.templates,
            models=played.models,
            seed=self.settings.seed,
            usage=played.usage,
            calls=played.calls,
        )

    def kept(self, row: Rating) -> None:
        """Stops the run if the model cannot be read."""
        mass = float(row.value is not None) if row.mass is None else row.mass
        self.readable.see([mass], row.problem)

    def texts(self, row: Rating) -> tuple[str, str]:
        """The reply and its rating."""
        return row.reply, rating_in_words(row)

    @staticmethod
    def shown(row: Rating) -> Iterator[tuple[str, str]]:
        """The reply and its rating, for people to read."""
        yield "prompt", row.prompt[-1]["content"]
        yield "reply", row.reply
        yield row.asked, rating_in_words(row)

    def facts(self) -> Values:
        """What will run, for people to read; each with its label."""
        return {
            "method": f"every reply is rated by itself, protocol {self.rater.protocol}, {self.seed_words()}",
            "judge": spec_of(self.rater.model),
        }


def rating_in_words(row: Rating) -> str:
    """What the model makes of a reply, for people to read."""
    if row.value is None:
        return f"invalid: {row.problem}"
    shares = ", ".join(f"{name} {share:.2f}" for name, share in row.p.items())
    return f"{row.value:.2f}" + (f" ({shares})" if shares else "")


def entries(arena: Arena, asked: Sequence[str], folder: str = "replies") -> Iterator[Place]:
    """The usable replies of all contestants in a run of the arena, each once for everything that is asked of it."""
    names = [contestant.name for contestant in arena.contestants]
    for row, _ in arena.replies(folder):
        yield from entries_of(row, names, asked)


def entries_of(row: Candidates, contestants: Sequence[str], asked: Sequence[str]) -> Iterator[Place]:
    """The same of one row; replies that cannot be used, such as truncated ones, are left out."""
    each = len(row.replies) // len(contestants)
    prompt = prompt_hash(row.prompt)
    if len(row.replies) * len(asked) > 1 << PAIR_BITS:
        raise UsageError(f"{len(row.replies) * len(asked):,} ratings a prompt are too many: lower -n")
    for (number, reply), (place, name) in itertools.product(enumerate(row.replies), enumerate(asked)):
        if reply.problem is not None:
            continue
        contestant = contestants[number // each]
        position = row.position << PAIR_BITS | number * len(asked) + place
        words: tuple[Any, ...] = (prompt, contestant, reply.sample, name, reply.text)
        yield (
            position,
            Entry(
                id=f"{row.id}:{contestant}:{reply.sample}:{name}",
                position=position,
                key=sha256("\0".join(map(str, words)).encode("utf-8", "surrogatepass")).hexdigest()[:32],
                prompt_id=row.id,
                messages=row.prompt,
                reply=reply.text,
                contestant=contestant,
                model=reply.model,
                sample=reply.sample,
                asked=name,
            ),
        )


def read_ratings(arena: Arena, folder: str) -> Iterator[Rating]:
    """The rows of a run of ratings, in input order; none if it has not begun."""
    return read_rows(arena.out / folder / "ratings.jsonl", Rating)
