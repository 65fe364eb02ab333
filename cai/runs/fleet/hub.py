"""What the workers of a run say: summed up in the run whose shards they play, and answered."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai import errors
from cai.calls.leases.lender import Lender
from cai.calls.prices import Budget
from cai.errors import CaiError, RunError
from cai.folder.info import find_info
from cai.folder.journal.store import Store
from cai.folder.kinds import kind_of
from cai.folder.shards.layout import Shard, shards_in
from cai.records import Object, Values
from cai.runs.fleet.worker import FIGURES, STOPPED
from cai.runs.run import Run
from cai.runs.seating import known_cost

log = logging.getLogger("cai")
DEATHS = 3  # of a shard's workers without an answer in between, after which nobody tries again
LABELS = "labels"  # of a best-of run, inside its folder
OTHERS = -1  # who has spent what the folders of other runs cost that share the cap


@dataclass
class Standing:
    """How one shard stands."""

    name: str
    folder: Path
    status: Values = field(default_factory=dict)  # of its worker
    before: Counter[str] = field(default_factory=Counter)  # figures of workers that have died
    dropped_before: Counter[str] = field(default_factory=Counter)
    deaths: int = 0  # without an answer in between
    answers: int = 0  # in its stores when its last worker died
    is_over: bool = False
    size: int = 0  # bytes of its rows when the command began
    handed: array[int] = field(default_factory=lambda: array("q"))  # positions of the rows that were handed over
    found: set[int] | None = None  # the same, once its file was read for rows that were not

    def hand(self, row: Any) -> Any:
        """A row that is handed over; None for one that was before."""
        if self.found is not None:
            if row.position in self.found:
                return None
            self.found.add(row.position)
        self.handed.append(row.position)
        return row

    def cost(self) -> float:
        """USD that its calls cost, as its stores say."""
        return known_cost(self.folder) + known_cost(self.folder / LABELS)

    def answers_there(self) -> int:
        """How many answers its stores have."""
        with suppress(RunError):  # on a network file system whoever plays it has it for himself
            return answers_in(self.folder) + answers_in(self.folder / LABELS)
        return 0

    def figures(self) -> Counter[str]:
        """What its workers have done since the command began."""
        sums = Counter(self.before)
        if self.status:
            sums.update(self.status["tally"])
            sums["finished"] += self.status["finished"]
            # A worker that takes the place of another one finds the rows of that.
            done = self.before["finished"] + self.dropped_before.total()
            sums["skipped"] = max(0, self.status["skipped"] - done)
            sums["read"] = self.status["read"]
        return sums

    def dropped(self) -> Counter[str]:
        """What its workers have dropped, by reason."""
        return self.dropped_before + Counter(self.status.get("dropped", {}))

    def bury(self) -> None:
        """Count what a worker has done that has died."""
        sums, dropped = self.figures(), self.dropped()
        self.deaths += 1
        answers = self.answers_there()
        if answers > self.answers:
            self.answers, self.deaths = answers, 1
        for name in ("in_flight", "skipped", "read"):
            del sums[name]
        self.before, self.dropped_before, self.status = sums, dropped, {}


class Hub:
    """Hears the workers of a run, one for each shard at a time; post: sends a message to one of them."""

    def __init__(self, run: Run[Any], shards: Sequence[Standing], post: Callable[[int, Values], object]) -> None:
        self.run, self.shards, self._post = run, shards, post
        self.error: CaiError | None = None  # the first that ended a shard
        self._said: set[str] = set()
        self._kind = kind_of(run.command)
        self.lender: Lender | None = None
        if run.settings.max_cost is not None:
            self.lender = Lender(run.settings.max_cost)
            self.lender.begin(OTHERS, sum(map(known_cost, run.sharing)))
            for number, shard in enumerate(shards):
                self.lender.begin(number, shard.cost())
            run.budget = Budget(self.lender.cap)

    def hear(self, number: int, message: Object) -> Any:
        """Take what a worker says; a row that it hands over."""
        shard = self.shards[number]
        match message:
            case {"status": status}:
                shard.status = status
                self._sum_up()
            case {"lease": said} if self.lender is not None:
                self._answer(self.lender.hear(number, said))
            case {"begin": spent} if self.lender is not None:
                self._answer(self.lender.begin(number, spent))
            case {"log": [level, text]}:
                if text not in self._said:
                    self._said.add(text)
                    log.log(level, "%s: %s", shard.name, text)
            case {"row": row}:
                return shard.hand(self._kind.row.model_validate_json(row))
            case {"end": end}:
                self._end(shard, end)
        return None

    def died(self, number: int, how: str) -> bool:
        """Say that a worker has died; whether another one is to take its place."""
        shard = self.shards[number]
        shard.bury()
        if self.lender is not None:
            with suppress(RunError):  # the next one holds its store already, and says itself what was spent
                self._answer(self.lender.begin(number, shard.cost()))
        self._sum_up()
        if shard.deaths < DEATHS:
            log.warning("%s: its worker has died (%s); another one asks what is missing", shard.name, how)
            return True
        shard.is_over = True
        error = RunError(
            f"{shard.name}: {DEATHS} workers have died, the last without an answer ({how}); what was finished is kept: "
            "if memory was short, name fewer --workers, then run the same command again"
        )
        self._note(error)
        return False

    def begin(self, number: int) -> None:
        """Note what a shard has before its worker begins."""
        shard = self.shards[number]
        file = shard.folder / self._kind.rows_file
        shard.size = file.stat().st_size if file.exists() else 0
        shard.answers = shard.answers_there()

    def left(self, number: int) -> Iterator[Any]:
        """The rows that a worker had finished and not handed over when it died."""
        shard = self.shards[number]
        file = shard.folder / self._kind.rows_file
        if not file.exists():
            return
        shard.found = set(shard.handed)
        with file.open("rb") as rows:
            rows.seek(max(0, shard.size - 1))
            if shard.size:
                rows.readline()  # the end of what was there before
            for line in rows:
                if line.endswith(b"\n"):
                    yield from filter(None, [shard.hand(self._kind.row.model_validate_json(line))])

    def _end(self, shard: Standing, end: Object) -> None:
        match end["error"]:
            case None:
                shard.is_over = True
            case [kind, text] if kind != STOPPED:
                shard.is_over = True
                self._note(error_of(kind, text))
        if end["example"] is not None:
            self.run.show(self._kind.row.model_validate_json(end["example"]))

    def _note(self, error: CaiError) -> None:
        if self.error is None:
            self.error = error

    def _answer(self, answers: list[tuple[int, Values]]) -> None:
        for number, answer in answers:
            self._post(number, {"lease": answer})

    def _sum_up(self) -> None:
        """Bring the run's figures up to date, which the progress line shows."""
        run = self.run
        sums, dropped = Counter[str](), Counter[str]()
        for shard in self.shards:
            sums.update(shard.figures())
            dropped.update(shard.dropped())
        run.read, run.skipped, run.finished = (sums[name] for name in ("read", "skipped", "finished"))
        run.dropped = dropped
        for name in FIGURES:
            setattr(run.tally, name, sums[name])
        playing = [shard.status["waiting"] for shard in self.shards if shard.status and not shard.is_over]
        run.tally.waiting = playing[0] if playing and all(playing) else ""
        if self.lender is not None and run.budget is not None:
            run.budget.spent = sum(self.lender.spent.values())


def error_of(name: str, text: str) -> CaiError:
    """An error of a worker, here."""
    kind = getattr(errors, name, RunError)
    error: CaiError = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def standings(run: Run[Any], size: int) -> list[Standing]:
    """The shards of a run: those that its folder has, else one for each worker.

    Raises RunError for a folder that holds a run without shards.
    """
    there = shards_in(run.out)
    count = there[0].count if there else size
    if not there and find_info(run.out) is not None:
        raise RunError(f"{run.out} holds a run without shards: leave out --workers, or name another --out")
    if count != size:
        log.info("%s has %d shards, of which %d are played at a time", run.out, count, min(count, size))
    whole = [Shard(number, count) for number in range(count)]
    return [Standing(f"shard {shard}", shard.folder(run.out)) for shard in whole]


def answers_in(folder: Path) -> int:
    """How many answers the store of a folder has; 0 if it has none."""
    if not (folder / "calls.sqlite").exists():
        return 0
    with closing(Store(folder, read_only=True)) as store:
        return store.spent().calls
