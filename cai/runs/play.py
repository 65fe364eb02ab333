"""Plays runs: as an iterator of rows, as an asynchronous one, or to the end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import queue
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cai.models import stop_idle_servers
from cai.records import Record
from cai.runs.run import Run
from cai.texts.wording import plural

log = logging.getLogger("cai")
Row = TypeVar("Row", bound=Record)
P = ParamSpec("P")
R = TypeVar("R")
WAITING = 64  # rows that wait for a caller who takes his time


class Rows(Iterator[Row]):
    """The rows of a run, in the order in which they finish; the run begins with the first `next`.

    prepare: called with each run that it takes, before that is played.
    """

    def __init__(self, run: Run[Row], prepare: Callable[[Run[Any]], None] = lambda part: None) -> None:
        self.run, self.prepare = run, prepare
        self._rows = in_thread(lambda: rows_of(run, prepare))

    def __next__(self) -> Row:
        return next(self._rows)

    def close(self) -> None:
        """Stop the run; what was finished is kept."""
        self._rows.close()


def twin(door: Callable[P, Rows[Row]]) -> Callable[P, AsyncGenerator[Row, None]]:
    """The asynchronous form of a function that gives rows, for code that has a running event loop of its own."""

    @wraps(door)
    async def rows(*args: P.args, **keywords: P.kwargs) -> AsyncGenerator[Row, None]:
        made = door(*args, **keywords)
        async with aclosing(rows_of(made.run, made.prepare)) as source:
            async for row in source:
                yield row

    signature = inspect.signature(door)
    row = signature.return_annotation.removeprefix("Rows")  # such as [Revision]
    rows.__signature__ = signature.replace(return_annotation=f"AsyncGenerator{row}")  # type: ignore[attr-defined]
    rows.__name__ = rows.__qualname__ = f"a{door.__name__}"
    close = "close it (`contextlib.aclosing`) if it is not read to its end"
    rows.__doc__ = f"The asynchronous twin of `{door.__name__}`; {close}.\n\n{door.__doc__}"
    return rows


async def rows_of(run: Run[Row], prepare: Callable[[Run[Any]], None] = lambda part: None) -> AsyncGenerator[Row, None]:
    """The rows of a run, without those of its other parts; without `out` its folder is removed afterwards."""
    keep = run.settings.out is not None
    if not keep:
        run.out = Path(tempfile.mkdtemp(prefix="cai-"))
        run.cuts = False
    try:
        for part in run.sessions():
            prepare(part)
            try:
                async with aclosing(part.rows()) as rows:
                    async for row in rows:
                        if part is run:
                            yield row
            finally:
                _warn_of_drops(part, keep)
    finally:
        await asyncio.to_thread(stop_idle_servers)
        if not keep:
            shutil.rmtree(run.out, ignore_errors=True)


def _warn_of_drops(run: Run[Any], keep: bool) -> None:
    if not run.dropped:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.dropped.items()))
    advice = f"see {run.out / 'dropped.jsonl'}" if keep else "name out=… to see which"
    total = run.dropped.total()
    log.warning("%d of %d %s were dropped: %s; %s", total, run.read, plural(run.unit), reasons, advice)


def in_thread(make: Callable[[], AsyncGenerator[R, None]]) -> Generator[R, None, None]:
    """An async generator as a plain one, played by a loop in a thread of its own."""
    rows: queue.SimpleQueue[R | None] = queue.SimpleQueue()

    async def play() -> None:
        async with aclosing(make()) as source:
            async for row in source:
                rows.put(row)
                while rows.qsize() >= WAITING:
                    await asyncio.sleep(0.01)

    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    playing = loop.create_task(play())

    def run() -> None:
        try:
            with runner, suppress(BaseException):  # the caller gets the error
                loop.run_until_complete(playing)
        finally:
            rows.put(None)

    thread = threading.Thread(target=run, name="cai-run", daemon=True)
    thread.start()
    try:
        while (row := rows.get()) is not None:
            yield row
        playing.result()
    finally:
        with suppress(RuntimeError):  # the loop is closed: it has ended by itself
            loop.call_soon_threadsafe(playing.cancel)
        thread.join()
