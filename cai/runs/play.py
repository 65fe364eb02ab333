"""The Python functions that play runs, each with an asynchronous twin."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from cai.calls.feed import in_thread
from cai.constitution.principles import Constitution
from cai.errors import UsageError
from cai.records import Candidates, Label, Record, Revision
from cai.runs.generate import GenerateRun
from cai.runs.inputs import Prompts
from cai.runs.label import LabelRun
from cai.runs.pairs import Source
from cai.runs.run import Run
from cai.runs.sample import SampleRun
from cai.runs.settings import GenerateSettings, LabelSettings, SampleSettings, make_settings

log = logging.getLogger("cai")
Row = TypeVar("Row", bound=Record)


def generate(prompts: Prompts, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Revision]:
    """Critique and revise a reply to every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set.
    settings: the fields of `GenerateSettings`. With `out`, rows, drops and calls are kept in that folder, and the same
    call again resumes (rows finished before are in the folder and not repeated); without it nothing is kept.

    What can be checked is checked at once; errors of models and of a damaged source come while iterating. Prompts that
    are dropped are counted in a warning of the logger "cai". Works inside a running event loop, too.
    """
    run = _generation(prompts, constitution, settings)
    return in_thread(lambda: _rows(run))


async def agenerate(
    prompts: Prompts, constitution: str | Path | Constitution, **settings: Any
) -> AsyncGenerator[Revision, None]:
    """The asynchronous twin of `generate`; close it (`contextlib.aclosing`) if it is not read to its end."""
    async with aclosing(_rows(_generation(prompts, constitution, settings))) as rows:
        async for row in rows:
            yield row


def sample(prompts: Prompts, model: str | Sequence[str] = "local", **settings: Any) -> Iterator[Candidates]:
    """Draw several replies to every prompt; a lazy iterator of rows, in the order in which they finish.

    model: a spec, or several for contrast. settings: the fields of `SampleSettings`, such as `n`, replies of each
    model. With `best_of`, `judge` and `out` the replies are labelled once all are drawn, and the best reply to each
    prompt is in sft.jsonl of the folder. The rest is as for `generate`.
    """
    run = _sampling(prompts, model, settings)
    return in_thread(lambda: _rows(run))


async def asample(
    prompts: Prompts, model: str | Sequence[str] = "local", **settings: Any
) -> AsyncGenerator[Candidates, None]:
    """The asynchronous twin of `sample`; close it (`contextlib.aclosing`) if it is not read to its end."""
    async with aclosing(_rows(_sampling(prompts, model, settings))) as rows:
        async for row in rows:
            yield row


def label(source: Source, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Label]:
    """Judge pairs of replies under a constitution; a lazy iterator of labels, in the order in which they finish.

    source: the folder of a generate or sample run, a file of pairs, or an iterable of their rows (docs/judging.md).
    settings: the fields of `LabelSettings`, such as `judge`. A label says what the judge believes of a pair; which
    pairs are kept for training is decided when they are cut, at the end of a run with `out`, and by `export_run`. The
    rest is as for `generate`.
    """
    run = _labelling(source, constitution, settings)
    return in_thread(lambda: _rows(run))


async def alabel(
    source: Source, constitution: str | Path | Constitution, **settings: Any
) -> AsyncGenerator[Label, None]:
    """The asynchronous twin of `label`; close it (`contextlib.aclosing`) if it is not read to its end."""
    async with aclosing(_rows(_labelling(source, constitution, settings))) as rows:
        async for row in rows:
            yield row


def _generation(prompts: Prompts, constitution: str | Path | Constitution, settings: Mapping[str, Any]) -> GenerateRun:
    return GenerateRun(prompts, make_settings(GenerateSettings, {"constitution": constitution, **settings}))


def _sampling(prompts: Prompts, model: str | Sequence[str], settings: Mapping[str, Any]) -> SampleRun:
    run = SampleRun(prompts, make_settings(SampleSettings, {"model": model, **settings}))
    if run.labels is not None and run.settings.out is None:
        raise UsageError("best_of needs out: a folder for the replies, their labels, and sft.jsonl with the best")
    return run


def _labelling(source: Source, constitution: str | Path | Constitution, settings: Mapping[str, Any]) -> LabelRun:
    return LabelRun(source, make_settings(LabelSettings, {"constitution": constitution, **settings}))


async def _rows(run: Run[Row]) -> AsyncGenerator[Row, None]:
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
