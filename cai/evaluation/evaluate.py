"""`cai evaluate`: models against BASE on the same prompts and seeds, judged, and what that says with its intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from cai.disk.reading import exists, read_object
from cai.disk.writing import write_atomically
from cai.errors import ModelStopped, RunError, UsageError
from cai.evaluation.arena.figures import FILE, Evaluation
from cai.evaluation.arena.settings import EvaluateSettings
from cai.evaluation.bench import quietly
from cai.evaluation.run import EvaluateRun
from cai.models import idle_servers_stopped
from cai.runs.run import Run
from cai.sources.files import Source
from cai.sources.yamlfile import make_settings
from cai.texts.wording import settings_as_keywords


@settings_as_keywords(EvaluateSettings)
def evaluate(
    models: str | Sequence[str], against: str = "local", prompts: Source | None = None, **settings: Any
) -> Evaluation:
    """Compare models with BASE on the same prompts and seeds; docs/evaluating.md has the formulas.

    models: folders or specs. against: BASE. prompts: as for `generate`. Replies, labels and figures are kept in the
    folder `out`, and the same call resumes. If a model or the judge stops early, the figures are of what there is, and
    `stopped` says why. Raises UsageError and its kin for whatever keeps the evaluation from beginning.
    """
    names = list(models)
    if isinstance(models, str):
        names = [models]
    run = EvaluateRun(names, prompts, make_settings(EvaluateSettings, {"against": against, **settings}))
    with idle_servers_stopped():
        return play_evaluation(run, quietly)


def play_evaluation(run: EvaluateRun, play: Callable[[Run[Any]], None]) -> Evaluation:
    """Play all runs of an evaluation, or as far as they go, and measure what there is."""
    with run.unmade_if_refused():
        try:
            for part in run.sessions():
                with marked_unfinished(run.out):
                    play(part)
        except ModelStopped as error:
            if not run.has_begun():
                raise
            run.stopped = str(error)
        return run.evaluation()


@contextmanager
def marked_unfinished(folder: Path) -> Iterator[None]:
    """Say in the evaluation.json of an earlier session that its figures are about to be old.

    It is put back if the run is refused, and so changes nothing.
    """
    path = folder / FILE
    if not exists(path):
        yield
        return
    before = path.read_bytes()
    content = read_object(path)
    content["stopped"] = content.get("stopped") or "it was begun again since, and these figures are of before"
    write_atomically(path, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
    try:
        yield
    except (UsageError, RunError):
        write_atomically(path, before)
        raise
