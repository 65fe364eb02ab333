"""Whole jobs as iterators of rows: what the command line and Python both call.

Knows how a job ends: its training rows are cut, also when a model stops it early. Knows no formulas and prints nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cai.calls.feed import in_thread
from cai.constitution.principles import Constitution
from cai.errors import CaiError, RunError
from cai.export.export import export_run
from cai.folder.run import RunFolder
from cai.records import Candidates, Label, Record, Revision
from cai.runs import generate as generating
from cai.runs import label as labelling
from cai.runs import sample as sampling
from cai.runs.label import LabelSetup, calibrate_gold
from cai.runs.pairs import Source
from cai.runs.run import Prompts, Setup
from cai.runs.session import Job
from cai.runs.settings import GenerateSettings, LabelSettings, SampleSettings, make_settings

log = logging.getLogger("cai")
THRESHOLDS = {"min_confidence", "agreement", "calibration"}  # of which one decides
Row = TypeVar("Row", bound=Record)


async def finished_rows(job: Job[Row]) -> AsyncGenerator[Row, None]:
    """The rows of a job, whose training rows are cut at the end; also when a model ends it early."""
    try:
        async with aclosing(job.rows()) as rows:
            async for row in rows:
                yield row
    except RunError:
        raise
    except CaiError:
        if job.info.get("rows"):
            try:
                _cut(job)
            except CaiError as second:  # why the run stopped matters more
                log.warning("training rows were not cut: %s", second)
        raise
    _cut(job)


def _cut(job: Job[Any]) -> None:
    """Cut as the run's last export did, but for what this command says itself."""
    if job.setup.cuts:
        said, before = job.setup.cut_options(), dict(job.info.get("export") or {})
        if THRESHOLDS & said.keys():
            before = {name: value for name, value in before.items() if name not in THRESHOLDS}
        job.cut = export_run(job.folder, **before | said)


def jobs_of(setup: Setup[Any]) -> Iterator[Job[Any]]:
    """The jobs of a run, each to be played to its end before the next: of a label run with gold pairs, these first."""
    spent = 0.0
    if isinstance(setup, LabelSetup) and setup.settings.gold is not None:
        if not setup.settings.force:  # before anything is paid for: is the folder this run's?
            RunFolder(setup.out, setup.identity, setup.task().rows_file).close()
        gold = setup.gold_setup()
        job = Job(gold, gold.out)
        yield job
        spent = job.info["cost_usd"] or 0.0
        setup = setup.calibrated(calibrate_gold(setup))
    yield Job(setup, setup.out, spent=spent)


def run_job(job: Job[Any]) -> None:
    """Play a job to its end and cut its training rows; what was finished before an error is cut, too."""

    async def play() -> None:
        async with aclosing(finished_rows(job)) as rows:
            async for _ in rows:
                pass

    asyncio.run(play())


async def agenerate(
    prompts: Prompts, constitution: str | Path | Constitution, **settings: Any
) -> AsyncGenerator[Revision, None]:
    """The asynchronous twin of `generate`; close it (`contextlib.aclosing`) where it is not read to its end."""
    async with aclosing(_rows(_generate(prompts, constitution, settings))) as rows:
        async for row in rows:
            yield row


def generate(prompts: Prompts, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Revision]:
    """Critique and revise every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set.
    settings: the fields of `GenerateSettings`. With `out`, rows, drops and calls are kept in that folder, and the same
    call again goes on where it stopped (rows finished before are in the folder and not repeated); without it nothing is
    kept. What can be checked is checked at once; errors of models and of a damaged source come while iterating.
    Prompts that are dropped are counted in a warning of the logger "cai". Works inside a running event loop, too.
    """
    setup = _generate(prompts, constitution, settings)
    return in_thread(lambda: _rows(setup))


async def asample(
    prompts: Prompts, model: str | Sequence[str] = "local", **settings: Any
) -> AsyncGenerator[Candidates, None]:
    """The asynchronous twin of `sample`; close it (`contextlib.aclosing`) where it is not read to its end."""
    async with aclosing(_rows(_sample(prompts, model, settings))) as rows:
        async for row in rows:
            yield row


def sample(prompts: Prompts, model: str | Sequence[str] = "local", **settings: Any) -> Iterator[Candidates]:
    """Draw several replies to every prompt; a lazy iterator of rows, in the order in which they finish.

    model: a spec, or several for contrast. settings: the fields of `SampleSettings`, such as `n`, replies of each
    model; the rest is as for `generate`.
    """
    setup = _sample(prompts, model, settings)
    return in_thread(lambda: _rows(setup))


async def alabel(
    source: Source, constitution: str | Path | Constitution, **settings: Any
) -> AsyncGenerator[Label, None]:
    """The asynchronous twin of `label`; close it (`contextlib.aclosing`) where it is not read to its end."""
    async with aclosing(_rows(_label(source, constitution, settings))) as rows:
        async for row in rows:
            yield row


def label(source: Source, constitution: str | Path | Constitution, **settings: Any) -> Iterator[Label]:
    """Judge pairs of replies under a constitution; a lazy iterator of labels, in the order in which they finish.

    source: the folder of a generate or sample run, a file of pairs, or an iterable of their rows (docs/judging.md).
    settings: the fields of `LabelSettings`, such as `judge`. A label tells what the judge believes of every pair;
    which pairs are kept for training is decided when they are cut, at the end of a run with `out`, and by
    `export_run`. The rest is as for `generate`.
    """
    setup = _label(source, constitution, settings)
    return in_thread(lambda: _rows(setup))


def _generate(prompts: Prompts, constitution: str | Path | Constitution, settings: dict[str, Any]) -> Setup[Revision]:
    return generating.resolve(prompts, make_settings(GenerateSettings, {"constitution": constitution, **settings}))


def _sample(prompts: Prompts, model: str | Sequence[str], settings: dict[str, Any]) -> Setup[Candidates]:
    return sampling.resolve(prompts, make_settings(SampleSettings, {"model": model, **settings}))


def _label(source: Source, constitution: str | Path | Constitution, settings: dict[str, Any]) -> Setup[Label]:
    return labelling.resolve(source, make_settings(LabelSettings, {"constitution": constitution, **settings}))


async def _rows(setup: Setup[Row]) -> AsyncGenerator[Row, None]:
    """The rows of a Python run; without `out` its folder goes away afterwards."""
    kept = setup.settings.out is not None
    if not kept:
        out = tempfile.mkdtemp(prefix="cai-")
        setup = replace(setup, settings=setup.settings.model_copy(update={"out": out}))
    try:
        for job in jobs_of(setup):
            try:
                async with aclosing(finished_rows(job) if kept else job.rows()) as rows:
                    async for row in rows:
                        if job.setup.cuts or not isinstance(setup, LabelSetup):  # gold pairs are not what was asked for
                            yield row
            finally:
                _warn_of_drops(job, kept)
    finally:
        if not kept:
            shutil.rmtree(setup.out, ignore_errors=True)


def _warn_of_drops(job: Job[Any], kept: bool) -> None:
    if job.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(job.dropped.items()))
        where = f"see {job.folder / 'dropped.jsonl'}" if kept else "name out=… to see which"
        total, unit = sum(job.dropped.values()), job.task.unit
        log.warning("%d of %d %ss were dropped: %s; %s", total, job.read, unit, reasons, where)
