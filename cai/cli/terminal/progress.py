"""The line that shows how a run goes: the time left first, and what is waited for while nothing is finished."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cai.cli.terminal.console import SEPARATOR, is_live, live_line, show
from cai.errors import CaiError
from cai.texts.wording import clock, plural

if TYPE_CHECKING:
    from cai.runs.run import Run

LINE_EVERY = 10.0  # seconds between progress lines if stderr is not a terminal
LEFT = f" left{SEPARATOR}"
RECENT = 60.0  # seconds over which rates are taken: a run changes its pace as servers do


class Mark(NamedTuple):
    """How far a run was at a time; or what was done in some seconds."""

    seconds: float
    finished: float = 0
    through: float = 0  # finished or dropped
    written: float = 0  # tokens of answers
    read: float = 0  # tokens of what was asked


class Pace:
    """How fast a run goes now: over the last minute, or if nothing happened in it, since its model was there."""

    def __init__(self) -> None:
        self._begun = Mark(0.0)
        self._marks = deque([self._begun])

    def begin(self, now: Mark) -> None:
        """Count from now on."""
        self._begun = now
        self._marks = deque([now])

    def since(self, now: Mark) -> Mark:
        """What was done of late."""
        marks = self._marks
        if now.seconds - marks[-1].seconds >= 1.0:
            marks.append(now)
        while len(marks) > 1 and now.seconds - marks[1].seconds >= RECENT:
            marks.popleft()
        before = marks[0]
        if before[1:] == now[1:]:
            before = self._begun
        return Mark(max(1e-3, now.seconds - before.seconds), *map(sub, now[1:], before[1:]))


class Progress:
    """The line that shows how a run goes; `total` is known once its items are counted."""

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        self.total = run.total
        self._began = time.monotonic()
        self._pace = Pace()

    def count(self) -> None:
        """Count the items in a thread of its own, if their source can be read twice."""
        source = self.run.source
        if self.total is None and isinstance(source, str | Path) and Path(source).exists():
            threading.Thread(target=self._count, name="cai-count", daemon=True).start()

    def _count(self) -> None:
        with suppress(CaiError):  # a damaged source is reported by the run itself, which reads it too
            self.total = sum(1 for _ in self.run.own())

    def line(self) -> str:
        """How the run stands now."""
        return progress_line(self.run, self.total, time.monotonic() - self._began, self._pace)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line: live in a terminal, elsewhere as a plain line now and then."""
        if is_live():
            with live_line(self.line):
                yield
            return
        over = threading.Event()

        def repeat() -> None:
            while not over.wait(LINE_EVERY):
                show([self.line()])

        thread = threading.Thread(target=repeat, name="cai-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def progress_line(run: Run[Any], total: int | None, seconds: float, pace: Pace | None = None) -> str:
    """How a run stands after so many seconds; the time left is known once the first prompt is through."""
    tally = run.tally
    through = run.finished + run.dropped.total()
    now = Mark(seconds, run.finished, through, tally.output_tokens, tally.input_tokens)
    pace = pace or Pace()
    if tally.waiting and not through:
        pace.begin(now)
    recent = pace.since(now)
    left = None
    if total is not None:
        left = max(0, total - through - run.skipped)
    said = SEPARATOR.join(_parts(run, total, left, through, recent))
    if left is None or not recent.through:
        return timed(seconds, said)
    return timed(seconds, f"{clock(left * recent.seconds / recent.through)}{LEFT}{said}")


def timed(seconds: float, said: str) -> str:
    """A line with the time that has gone: after the time left if the line begins with that, else at its beginning."""
    left, is_known, rest = said.partition(LEFT)
    if is_known:
        return f"  {left} left after {clock(seconds)}{SEPARATOR}{rest}"
    return f"  {clock(seconds)}  {said}"


def _parts(run: Run[Any], total: int | None, left: int | None, through: int, recent: Mark) -> Iterator[str]:
    """What is said, the most important first: a narrow terminal shows no more than these."""
    tally = run.tally
    if tally.waiting:
        yield tally.waiting
    elif tally.in_flight and not tally.answered:
        yield "waiting for the first answer"
    if through + run.skipped or not tally.waiting:
        yield _position(run, total, through)
    rate = recent.finished / recent.seconds
    if rate >= 1:
        yield f"{rate:,.1f} rows/s"
    elif recent.finished:
        yield f"{60 * rate:.1f} rows/min"
    if tally.cost or run.settings.max_cost is not None:
        yield _cost(run, left, through)
    # A judge that is asked for probabilities writes nothing: then what it reads shows how fast it is.
    tokens = recent.written or recent.read
    for count, name in ((tokens / recent.seconds, "tokens/s"), (tally.in_flight, "in flight")):
        if count:
            yield f"{count:,.0f} {name}"
    for count, name in ((run.dropped.total(), "dropped"), (tally.retries, "retries"), (tally.throttled, "throttled")):
        if count:
            yield f"{count:,} {name}"


def _position(run: Run[Any], total: int | None, through: int) -> str:
    position = f"{through + run.skipped:,}"
    if total is not None:
        position += f"/{total:,}"
    return f"{position} {plural(run.unit)}"


def _cost(run: Run[Any], left: int | None, through: int) -> str:
    """What the run has cost, the cap, and what it will come to if the rest costs as much as what is through."""
    spent, cap = run.tally.cost, run.settings.max_cost
    if run.budget is not None:  # which counts earlier sessions, too
        spent = run.budget.spent
    words = f"${spent:,.4f}"
    if cap is not None:
        words += f" of at most ${cap:,g}"
    if left and through and run.tally.cost:
        words += f", about ${spent + left * run.tally.cost / through:,.2f} in all"
    return words
