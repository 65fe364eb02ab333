"""Plays runs: as an iterator of rows, as an asynchronous one, or to the end."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cai.calls.feed import in_thread
from cai.records import Record
from cai.runs.run import Run
from cai.runs.settings import RunSettings, make_settings

log = logging.getLogger("cai")
Row = TypeVar("Row", bound=Record)
S = TypeVar("S", bound=RunSettings)
P = ParamSpec("P")


class Rows(Iterator[Row]):
    """The rows of a run, in the order in which they finish; the run begins with the first `next`."""

    def __init__(self, run: Run[Row]) -> None:
        self.run = run
        self._rows = in_thread(lambda: rows_of(run))

    def __next__(self) -> Row:
        return next(self._rows)

    def close(self) -> None:
        """Stop the run; what was finished is kept."""
        self._rows.close()


def twin(door: Callable[P, Rows[Row]]) -> Callable[P, AsyncGenerator[Row, None]]:
    """The asynchronous form of a function that gives rows, for code that has a running event loop of its own."""

    @wraps(door)
    async def rows(*args: P.args, **keywords: P.kwargs) -> AsyncGenerator[Row, None]:
        async with aclosing(rows_of(door(*args, **keywords).run)) as source:
            async for row in source:
                yield row

    rows.__name__ = rows.__qualname__ = f"a{door.__name__}"
    close = "close it (`contextlib.aclosing`) if it is not read to its end"
    rows.__doc__ = f"The asynchronous twin of `{door.__name__}`; {close}.\n\n{door.__doc__}"
    return rows


def settings_in(kind: type[S], values: Mapping[str, Any]) -> S:
    """The settings among the local names of a function with a keyword for each, and those it does not know."""
    return make_settings(kind, {name: values[name] for name in kind.model_fields} | values["unknown"])


async def rows_of(run: Run[Row]) -> AsyncGenerator[Row, None]:
    """The rows of a run, without those of its other parts; without `out` its folder is removed afterwards."""
    keep = run.settings.out is not None
    if not keep:
        run.out = Path(tempfile.mkdtemp(prefix="cai-"))
        run.cuts = False
    try:
        for part in run.sessions():
            try:
                async with aclosing(part.rows()) as rows:
                    async for row in rows:
                        if part is run:
                            yield row
            finally:
                _warn_of_drops(part, keep)
    finally:
        if not keep:
            shutil.rmtree(run.out, ignore_errors=True)


def _warn_of_drops(run: Run[Any], keep: bool) -> None:
    if run.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.dropped.items()))
        where = f"see {run.out / 'dropped.jsonl'}" if keep else "name out=… to see which"
        total = sum(run.dropped.values())
        log.warning("%d of %d %ss were dropped: %s; %s", total, run.read, run.unit, reasons, where)
