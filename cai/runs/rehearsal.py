"""Plays the items of a run with stand-ins for the answers, and counts what is asked; no model is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cai.calls.decisions import undecided
from cai.calls.earlier import Earlier
from cai.calls.flow import Driver
from cai.calls.model import Model
from cai.calls.prices import CHARACTERS_PER_TOKEN, TYPICAL_ANSWER, Price, Tally, count_tokens
from cai.calls.seats import Seat
from cai.engine.screen import BASELINE
from cai.errors import CallRejected, RowDropped
from cai.folder.journal.payloads import call_key
from cai.folder.journal.store import Store
from cai.records import BadPrompt, Completion, Item, Request, Role
from cai.runs.batching import FLOWS
from cai.runs.resume.answered import Answered
from cai.runs.run import Run
from cai.runs.settings import Divisible, RunSettings

EVEN = math.log(0.5)
UNLIKELY = -99.0
Counts = dict[str, Counter[str]]  # the figures by player
Folders = Mapping[Path, Answered]


class Plannable(Protocol):
    """What can be counted: a run, or several that are played one after the other."""

    out: Path
    unit: str
    bounded: bool
    settings: Any

    def parts(self) -> Iterator[Any]:
        """The runs that are counted."""

    def planned(self) -> dict[str, tuple[Model, Price | None]]:
        """Their models by player, and what their tokens cost."""

    def plan_notes(self) -> Iterator[str]:
        """What a reader of a plan should know."""


class StandIn(Driver):
    """Counts what flows ask, and answers with `length` tokens, or as many as a request allows.

    A screen finds that a reply goes against every principle, a gate lets none pass, and with `split` is asked for a
    word, too. A judge finds both letters equally likely, but one who accepts revisions prefers those: then the
    next reply is another one, which is screened again. In words it prefers the same reply in both orders, or with
    `split` the one that comes first, so that votes are asked for again. players: by role, whose `counts` these are.
    requests: what tells apart those about the same item so far; an equal one is not counted again, as a run has its
    answer. What the journal has an answer to is not counted, either.
    """

    def __init__(
        self,
        seats: Mapping[Role, Seat],
        store: Store | None,
        seed: int,
        players: Mapping[Role, str],
        counts: Counts,
        length: int,
        requests: set[Any],
        *,
        split: bool,
    ) -> None:
        super().__init__(seats, store, seed=seed, budget=None, tally=Tally())
        self._players, self._counts, self._length, self._requests = players, counts, length, requests
        self._split = split
        self.waves = 0  # how often something new was asked for at once

    async def ask_all(
        self, numbered: list[tuple[Request, int]], row: str, order: int
    ) -> list[tuple[bytes, Completion]]:
        """Stand-ins for the answers; a judge sees the two replies swapped in the second half of its requests."""
        answers = []
        known = len(self._requests)
        for number, (request, index) in enumerate(numbered):
            earlier = self._answer(request, index, row)
            if earlier is not None:
                answers.append((b"", earlier))
                continue
            length = self._count(request)
            letter = "A" if self._split or number < len(numbered) // 2 else "B"
            size = round(length * CHARACTERS_PER_TOKEN) - len("\nA")
            # Unlike any other; a vote is read from its first or last line, in less time than from all of it.
            text = f"{letter}\n{len(self._requests)}".ljust(size, "x") + f"\n{letter}"
            if request.decisions:
                text = undecided(request.decisions)
            listed = {"A": EVEN, "B": EVEN}
            if self._players[request.role] == "accept" and not self._split:
                listed = {name: 0.0 if name == letter else UNLIKELY for name in listed}
            if request.role == "gate":  # which lets no reply pass, and at most is asked for a word, too
                listed = {} if self._split and request.top_logprobs else {"Yes": 0.0, "No": UNLIKELY}
            elif request.role == "screen":  # it finds that ordinary replies keep to every principle, and others to none
                word, other = ("No", "Yes") if number % 2 == (row != BASELINE) else ("Yes", "No")
                text = f"{word} {text}"
                listed = {word: 0.0, other: UNLIKELY}
                if request.score:
                    listed = {name: listed[name] for name in ("Yes", "No")}
            scores = tuple(islice(cycle(listed.values()), len(request.score))) or None
            answer = Completion(text, "stop", "stand-in", logprobs=(listed,) if listed else None, scores=scores)
            answers.append((b"", answer))
        self.waves += len(self._requests) > known
        return answers

    def _answer(self, request: Request, index: int, row: str) -> Completion | None:
        """The answer that the folder has."""
        found = None
        if self.earlier is not None:
            with suppress(CallRejected):
                call, payload, text = self.question(request, index, row)
                found = self.earlier.find(self.seats[request.role].model, call, payload, call_key(text))
        return None if found is None else found[1]

    def _count(self, request: Request) -> int:
        """Count a request that is new; returns how long its answer is."""
        player = self._players[request.role]
        length = min(self._length, request.max_tokens or self._length)
        texts = [turn["content"] for turn in request.messages]
        asked: list[Any] = [request.prefill, request.score, request.top_logprobs, request.sample, request.index]
        asked.append(request.decisions)
        if self._split and request.role == "screen":  # a reply may be another one in each round
            asked.append(len(self._requests))
        key = (player, request.text, *asked, *texts)
        if key not in self._requests:
            self._requests.add(key)
            written = 0 if request.score or request.decisions else length
            self._counts[player].update(calls=1, input_tokens=count_tokens(request), output_tokens=written)
        return length


class Rehearsal(NamedTuple):
    """What was found beside the counts.

    statuses: how many items are new, finished and unusable. waves: how often the run waits for answers, if it asks
    about all items at once. misfit: the first record that is not an item.
    """

    statuses: Counter[str]
    waves: int
    misfit: BadPrompt | None


async def rehearse(run: Plannable, likely: Counts, most: Counts) -> Rehearsal:
    """Count what is asked about new items."""
    statuses = Counter[str]()
    waves = Counter[Path]()  # by folder
    misfit: BadPrompt | None = None
    before = 0  # waves in which it is prepared
    parts = list(run.parts())
    with ExitStack() as opened:
        folders = {part.out: opened.enter_context(closing(Answered(part))) for part in parts}
        for part in parts:
            for counts, share in ((likely, TYPICAL_ANSWER), (most, 1.0)):
                for _ in range(_workers(part.settings)):  # each has its own store
                    drivers = _stand_ins(part, counts, share, set(), folders)
                    await part.prepare([*drivers])
            before += max(driver.waves for driver in drivers)
            for position, item in part.items():
                status = folders[part.out].status(item)
                if not part.is_own(position):
                    continue
                if part.unit == run.unit:
                    statuses[status] += 1
                if misfit is None and isinstance(item, BadPrompt):
                    misfit = item
                if status == "new":
                    await _rehearse(part, item, position, likely, TYPICAL_ANSWER, set(), folders, waves)
                    await _rehearse(part, item, position, most, 1.0, set(), folders, Counter())
            waves[part.out] *= math.ceil(statuses["new"] / FLOWS)
            if 0 < part.asked_first < statuses["new"]:  # the others wait for what these show
                waves[part.out] *= 2
    return Rehearsal(statuses, before + waves.total(), misfit)


def _workers(settings: RunSettings) -> int:
    """How many processes play a run."""
    if not isinstance(settings, Divisible):
        return 1
    return settings.workers or 1


async def _rehearse(
    run: Run[Any],
    item: Item,
    position: int,
    counts: Counts,
    share: float,
    requests: set[Any],
    folders: Folders,
    waves: Counter[Path],
) -> None:
    """Count what is asked about an item, and the tokens, if an answer has this share of the tokens that it may have."""
    drivers = _stand_ins(run, counts, share, requests, folders)
    with suppress(RowDropped):  # nothing is asked about two replies that are the same
        row = await run.play([*drivers], item, position)
        run.kept(row)
        for later, (place, pair) in run.follow_ups(row):
            if isinstance(pair, BadPrompt):
                continue
            if later.out in folders:
                folders[later.out].follow(pair)
            await _rehearse(later, pair, place, counts, share, requests, folders, waves)
    waves[run.out] = max(waves[run.out], *(driver.waves for driver in drivers))


def _stand_ins(run: Run[Any], counts: Counts, share: float, requests: set[Any], folders: Folders) -> list[StandIn]:
    """What plays the flows of a run; at most, if answers may have all their tokens."""
    length = round(run.settings.max_tokens * share)
    folder = folders.get(run.out)
    store = None if folder is None else folder.store
    drivers: list[StandIn] = []
    for players, sampling, seed in run.seats():
        limiter: Any = None  # nothing is sent
        seats = {}
        for role, player in players.items():
            seats[role] = Seat(run.players[player], limiter, sampling, None, run.drawn_as[role])
        driver = StandIn(seats, store, seed, players, counts, length, requests, split=share == 1.0)
        if folder is not None and (store is not None or folder.others):
            driver.earlier = Earlier(store, folder.others, copies=False)
            if folder.info:
                driver.earlier.twins = run.twins(folder.info)
        drivers.append(driver)
    return drivers
