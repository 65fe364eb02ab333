"""The public functions that make runs (`cai.generate`, …), with a keyword for every setting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cai.constitution.principles import Constitution
from cai.errors import UsageError
from cai.records import Candidates, Label, Revision
from cai.runs.fleet.fleet import divide
from cai.runs.kind import Row
from cai.runs.kinds.generate import GenerateRun
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.sample import SampleRun
from cai.runs.kinds.settings import GenerateSettings, LabelSettings, SampleSettings
from cai.runs.play import Rows, twin
from cai.runs.run import Run
from cai.sources.files import Source
from cai.sources.yamlfile import make_settings
from cai.texts.wording import settings_as_keywords


@settings_as_keywords(GenerateSettings)
def generate(
    prompts: Source | None,
    constitution: str | Path | Constitution,
    **settings: Any,
) -> Rows[Revision]:
    """Critique and revise a reply to every prompt; a lazy iterator of rows, in the order in which they finish.

    prompts: a file, `hf:…`, an iterable of texts, message lists or records, or None for the built-in set. With `out`,
    rows, drops and calls are kept in that folder, and the same call again resumes (rows finished before are in the
    folder and not repeated); without it nothing is kept.

    What can be checked is checked at once; errors of models and of a damaged source come while iterating. Prompts that
    are dropped are counted in a warning of the logger "cai". Works inside a running event loop, too.
    """
    return _rows(GenerateRun(prompts, make_settings(GenerateSettings, {"constitution": constitution, **settings})))


@settings_as_keywords(SampleSettings)
def sample(
    prompts: Source | None,
    model: str | Sequence[str] = "local",
    **settings: Any,
) -> Rows[Candidates]:
    """Draw several replies to every prompt; a lazy iterator of rows, in the order in which they finish.

    model: a spec, or several for contrast. With `best_of`, `judge` and `out` the replies are labelled once all are
    drawn, and the best reply to each prompt is in sft.jsonl of the folder. The rest is as for `generate`.
    """
    run = SampleRun(prompts, make_settings(SampleSettings, {"model": model, **settings}))
    if run.labels is not None and run.settings.out is None:
        raise UsageError("best_of needs out: a folder for the replies, their labels, and sft.jsonl with the best")
    return _rows(run)


@settings_as_keywords(LabelSettings)
def label(
    source: Source,
    constitution: str | Path | Constitution,
    **settings: Any,
) -> Rows[Label]:
    """Judge pairs of replies under a constitution; a lazy iterator of labels, in the order in which they finish.

    source: the folder of a generate or sample run, a file of pairs, or an iterable of their rows (docs/judging.md). A
    label says what the judge believes of a pair; which pairs are kept for training is decided when they are cut, at the
    end of a run with `out`, and by `export_run`. The rest is as for `generate`.
    """
    return _rows(LabelRun(source, make_settings(LabelSettings, {"constitution": constitution, **settings})))


def _rows(run: Run[Row]) -> Rows[Row]:
    """The rows of a run, which workers play if its settings say so."""
    return Rows(run, partial(divide, sends_rows=True))


agenerate = twin(generate)
asample = twin(sample)
alabel = twin(label)
