"""Writes the dataset card of a run folder, README.md: what the rows are, what made them and how far to trust them.

Pure: what the cut counted and the content of run.json in, text out. The text is in `card.md.jinja`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cai.export.cut import Cut
from cai.export.options import DEFAULTS, ExportOptions
from cai.judge.certify import threshold
from cai.records import Object
from cai.texts.wording import one_line, render_card, without_path, words_of

TEMPLATE = Path(__file__).with_name("card.md.jinja")
TAGS = {"revisions": [], "preferences": ["preference"], "best replies": ["best-of-n"]}  # by kind of rows
SPLITS = {"": "train", ".eval": "test"}  # by what a file's name has between its stem and .jsonl
FILES = {"calibration": "calibration.json", "benign": "BENIGN"}  # options whose value is a file
Info = Object  # the content of run.json, and its `identity`


def dataset_card(info: Info, cut: Cut, load_from: str = ".") -> str:
    """The text of README.md.

    info: the content of run.json. load_from: what load_dataset is given, a folder or a name on the hub.
    """
    facts, identity, options = cut.facts, info["identity"], cut.options
    dropped = {stage: reasons for stage, reasons in facts.dropped.items() if reasons}
    law = cut.binding["constitution"]
    under = "a reward model"
    if law is not None:
        under = law["name"]
    data_files = {kind: _data_files(kind, facts.files) for kind in cut.files}
    kinds = [kind for kind, files in data_files.items() if files]
    certified = None
    if cut.calibration is not None and options.agreement is not None:
        certified = threshold(cut.calibration, options.agreement)
    # An empty file has no columns to load; but without any config `datasets` would load run.json.
    configs = [{"config_name": kind, "data_files": data_files[kind]} for kind in kinds or data_files]
    front = {
        "pretty_name": one_line(f"{cut.kind.capitalize()} under {under}"),
        "license": "unknown",
        "task_categories": ["text-generation"],
        "tags": ["constitutional-ai", "rlaif", *TAGS[cut.kind], "synthetic", "cai-toolkit"],
        "configs": configs,
    }
    return render_card(
        TEMPLATE,
        front,
        cut=cut,
        info=info,
        under=under,
        dropped=dropped,
        source=_source(identity["source"]),
        models=_models(identity, cut.binding),
        certified=certified,
        lost=sum(reasons.total() for stage, reasons in dropped.items() if stage not in cut.stages),
        kinds=kinds,
        load_from=load_from,
        commands=_commands(info, options),
        json=lambda value: orjson.dumps(value).decode(),
    )


def _data_files(kind: str, rows: Mapping[str, int]) -> list[dict[str, str]]:
    """The files of one kind that have rows, with their splits."""
    names = {split: f"{kind}{side}.jsonl" for side, split in SPLITS.items()}
    return [{"split": split, "path": name} for split, name in names.items() if rows.get(name)]


def _source(source: Any) -> str:
    """What the run read, from its identity."""
    if isinstance(source, str):
        return source
    if "what" in source:
        return str(source["what"])
    return ", ".join(f"{key} {value}" for key, value in source.items())


def _models(identity: Info, judging: Info) -> list[tuple[str, str]]:
    """Each role with a model that was asked."""
    models = identity.get("models", ())
    if isinstance(models, Mapping):
        asked = list(models.items())
    else:
        asked = [("assistant", spec) for spec in models]
    if "judge" in judging:
        asked.append(("judge", judging["judge"]))
    return asked


def _commands(info: Info, options: ExportOptions) -> str:
    """The commands that made the run, if run.json has it, and its training rows."""
    lines = [shlex.join(["cai", "export", "RUN", *words(options)])]
    if "command" in info:
        command = shlex.split(info["command"])
        lines.insert(0, shlex.join(word if " " in word or "\n" in word else without_path(word) for word in command))
    return "\n".join(lines)


def words(options: ExportOptions) -> list[str]:
    """The command line options of what is not the default; files by what they are, and not by their path."""
    values = {}
    for name, default in DEFAULTS.items():
        value = getattr(options, name)
        if value != default and name != "parquet":
            values[name] = FILES.get(name, value)
    return words_of(values)
