"""Cuts training rows from the stored rows of a run, with the dataset card that goes with them."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from cai.disk.reading import exists
from cai.disk.writing import write_atomically
from cai.errors import RunError, UsageError
from cai.export.best_replies import BestCut, BestSummary, PickedCut
from cai.export.cut import Cut
from cai.export.hub import Hub
from cai.export.options import DEFAULTS, OF_PAIRS, ONLY, ExportOptions
from cai.export.pairs import Row
from cai.export.preferences import PreferenceCut
from cai.export.revisions import RevisionCut
from cai.folder.info import find_info
from cai.folder.kinds import TRAINING_FILES
from cai.folder.run import RunFolder
from cai.folder.shards.join import read_run
from cai.judge.certify import FILE
from cai.judge.metrics import share
from cai.records import Object, Record
from cai.sources.files import path_of
from cai.sources.yamlfile import make_settings
from cai.texts.wording import one_line, option, render_card, report_lines, settings_as_keywords, without_path, words_of

CARD = Path(__file__).with_name("card.md.jinja")
CUTS: dict[str, type[Cut]] = {"generate": RevisionCut, "label": PreferenceCut}  # at the end of a run, by its command
THRESHOLDS = {"min_confidence", "agreement", "calibration"}  # only one of them decides
TAGS = {"revisions": [], "preferences": ["preference"], "best replies": ["best-of-n"]}  # by kind of rows
SPLITS = {".jsonl": "train", ".eval.jsonl": "test"}  # by how the name of a file ends
NEWER = ("best", "sft_format", "sft_reasoning")  # options than 0.1.0
FILES = {"calibration": "calibration.json", "benign": "BENIGN"}  # options whose value is a file


class ExportSummary(Record):
    """What an export wrote."""

    folder: Path
    rows: int  # finished rows of the run
    files: dict[str, int]  # rows by name of the training file
    dropped: dict[str, int]  # lines of dropped.jsonl by reason: the run's own and the export's
    left_out: dict[str, dict[str, int]]  # the export's by stage and reason
    pairs: int | None = None  # kept, of a label run
    best: BestSummary | None = None  # of best replies
    invalid_rate: float | None = None  # share of the votes that could not be read
    flip_rate: float | None = None  # of the others, the share that prefers the same place in both orders
    mean_bias: float | None = None  # of the others, in nats towards the first reply
    chosen_longer: float | None = None  # share of the kept pairs of unequal length whose chosen reply is the longer one
    notes: tuple[str, ...]  # what the user should know
    url: str | None = None  # where the files were pushed to

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        left_out = {stage: Counter(reasons) for stage, reasons in self.left_out.items()}
        losses = {"dropped during the run": Counter(self.dropped) - sum(left_out.values(), Counter())}
        losses |= {f"left out of {stage}": reasons for stage, reasons in left_out.items()}
        return report_lines(__file__, summary=self, losses=losses)


@settings_as_keywords(ExportOptions)
def export_run(folder: str | Path, *, push: str | None = None, private: bool = True, **options: Any) -> ExportSummary:
    """Cut the training rows of a run from its stored rows again; docs/run-folders.md lists their columns.

    push: `org/name` of a dataset on the Hugging Face hub, which gets the
    training files and the card; private: whether nobody else may read it there.

    Files of an earlier export are replaced or removed. Raises UsageError for options that do not fit the run, RunError
    for a folder that holds nothing to cut, is in use or damaged, and CaiError if the hub refuses.
    """
    chosen = make_settings(ExportOptions, options)
    path = Path(folder)
    info = read_run(path, "name the --out of a cai generate or cai label")
    kind = _cut_of(path, info, chosen)
    check_options(chosen, info["identity"]["command"])
    hub = Hub(push, private) if push is not None else None
    with closing(RunFolder(path, info["identity"])) as run:
        summary = _write(run, kind, chosen, load_from=push or ".")
        if hub is None:
            return summary
        url = hub.push(run.path, [*summary.files, "README.md"], TRAINING_FILES)
        return summary.model_copy(update={"url": url})


def cut_again(run: RunFolder, stated: Object) -> ExportSummary:
    """Cut the training rows of an open run as its last export did, except for the options stated here."""
    options = last_options(run.path, run.info)
    if THRESHOLDS & stated.keys():
        options = {name: value for name, value in options.items() if name not in THRESHOLDS}
    chosen = make_settings(ExportOptions, {**options, **stated})
    return _write(run, _cut_of(run.path, run.info, chosen), chosen)


def last_options(folder: Path, info: Object) -> Row:
    """The options of the last export, as run.json has them; RunError for those that no export takes."""
    options = dict(info.get("export") or {})
    try:
        make_settings(ExportOptions, options)
    except UsageError as error:
        raise RunError(f"{folder / 'run.json'} is damaged (export: {error}); cut its rows with cai export") from None
    return options


def _cut_of(folder: Path, info: Row, options: ExportOptions) -> type[Cut]:
    """How the rows of a run are cut; raises RunError if they cannot be."""
    identity = info["identity"]
    command = identity["command"]
    if "best_of" in identity and info.get("stopped") is not None:
        raise RunError(
            f"{folder} is an unfinished best-of run of version 0.1.0, which cannot be resumed: start anew with "
            "cai sample PROMPTS --best-of N --judge SPEC --out NEW"
        )
    if options.best:
        return BestCut
    if "best_of" in identity:
        return PickedCut
    if command in CUTS:
        return CUTS[command]
    if command == "sample":
        labels = folder / "labels"
        advice = f"its replies have not been judged; label them first: cai label {folder}"
        if find_info(labels) is not None:
            advice = f"--best cuts the best of its replies; their pairs are cut by: cai export {labels}"
        raise RunError(f"{folder} is a run of cai sample: {advice}")
    raise RunError(
        f"{folder} is a run of cai {command}, which has no training rows: name the --out of a cai generate, a "
        "cai label, or a cai sample --best-of"
    )


def _write(run: RunFolder, kind: type[Cut], options: ExportOptions, load_from: str = ".") -> ExportSummary:
    """Write the training rows of an open run and their card, and the options into run.json."""
    if options.agreement is not None and options.calibration is None and (run.path / FILE).exists():
        options = options.model_copy(update={"calibration": str(run.path / FILE)})
    options = options.model_copy(update=_whole_paths(options))
    cut = kind(run, options)
    cut.write()
    write_atomically(run.path / "README.md", dataset_card(run.info, cut, load_from).encode())
    _remember(run, cut)
    facts = cut.facts
    dropped = Counter[str]()
    for _, reasons in sorted(facts.dropped.items()):
        dropped.update(dict(sorted(reasons.items())))
    return ExportSummary(
        folder=run.path,
        rows=facts.rows,
        files=facts.files,
        dropped=dict(dropped),
        left_out={stage: dict(sorted(facts.dropped[stage].items())) for stage in cut.stages},
        pairs=cut.kept.get("pairs"),
        best=cut.best,
        invalid_rate=share(facts.asked - facts.votes, facts.asked),
        flip_rate=facts.flip_rate,
        mean_bias=facts.mean_bias,
        chosen_longer=facts.longer_share,
        notes=tuple(cut.notes()),
    )


def _whole_paths(options: ExportOptions) -> Row:
    """The options that name a file which is there, by its whole path: the run may be cut again from another folder."""
    named = {name: path_of(str(value)) for name in FILES if isinstance(value := getattr(options, name), str | Path)}
    return {name: str(path.absolute()) for name, path in named.items() if exists(path)}


def _remember(run: RunFolder, cut: Cut) -> None:
    """Write into run.json by which options and labels the rows were cut, so that a resumed run ends with the same cut.

    A calibration is stored by its path and the hash of its content. Options that an older version did not have are
    compared as if they had been at their defaults.
    """
    export = options_of(cut.options, run.identity["command"])
    calibration = export.get("calibration")
    origin: Row | None = None  # of the calibration; one made in Python has no path
    if isinstance(calibration, str):
        path = Path(calibration)
        if path.is_dir():
            path = path / FILE
        origin = {"path": calibration, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    elif calibration is not None:
        text = orjson.dumps(calibration, option=orjson.OPT_SORT_KEYS)
        origin = {"path": None, "sha256": hashlib.sha256(text).hexdigest()}
    changed: Row = {}
    if export != {name: DEFAULTS[name] for name in export} | (run.info.get("export") or {}):
        changed["export"] = export
    if origin != run.info.get("calibration"):
        changed["calibration"] = origin
    if cut.judging != run.info.get("labels"):
        changed["labels"] = cut.judging
    if changed:
        run.write_info(**changed)


# Options


def check_options(options: ExportOptions, command: str) -> None:
    """Raise UsageError for options that do not fit this kind of run, or each other."""
    changed = [name for name, default in DEFAULTS.items() if getattr(options, name) != default]
    commands = [command]
    if options.best and command == "sample":
        commands.append("label")  # its labels are in the folder `labels`
    for other, names in ONLY.items():
        wrong = [option(name) for name in changed if name in names]
        if wrong and other not in commands:
            raise UsageError(f"{', '.join(wrong)}: only for runs of cai {other}; this is a run of cai {command}")
    if options.agreement is not None and options.min_confidence is not None:
        raise UsageError("--agreement chooses the threshold and --min-confidence states it: give one of them")
    if command == "label" and not options.best and "sft_format" in changed:
        raise UsageError("--sft-format: a label run has an sft.jsonl only with --best")
    wrong = [option(name) for name in changed if name in OF_PAIRS]
    if options.best and wrong:
        raise UsageError(f"{', '.join(wrong)}: only for pairs; --best takes one reply to each prompt")


def options_of(options: ExportOptions, command: str) -> Row:
    """The options that fit this kind of run, as JSON; those that are newer than 0.1.0 only if they are set."""
    others = {name for name in NEWER if getattr(options, name) == DEFAULTS[name]}
    if options.best:
        others |= ONLY["generate"] | OF_PAIRS
    else:
        others = others.union(*(names for other, names in ONLY.items() if other != command))
    return options.model_dump(mode="json", exclude=others)


# The dataset card


def dataset_card(info: Object, cut: Cut, load_from: str = ".") -> str:
    """The text of README.md.

    info: the content of run.json. load_from: what load_dataset is given, a folder or a name on the hub.
    """
    facts, identity, options = cut.facts, info["identity"], cut.options
    dropped = {stage: reasons for stage, reasons in facts.dropped.items() if reasons}
    law = cut.binding["constitution"]
    under = "a reward model" if law is None else law["name"]
    source = identity["source"]
    if not isinstance(source, str):
        source = source.get("what") or ", ".join(f"{key} {value}" for key, value in source.items())
    data_files = {
        kind: [{"split": split, "path": kind + end} for end, split in SPLITS.items() if facts.files.get(kind + end)]
        for kind in cut.files
    }
    kinds = [kind for kind, files in data_files.items() if files]
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
        CARD,
        front,
        cut=cut,
        info=info,
        under=under,
        dropped=dropped,
        source=source,
        lost=sum(reasons.total() for stage, reasons in dropped.items() if stage not in cut.stages),
        kinds=kinds,
        load_from=load_from,
        commands=_commands(info, options),
        json=lambda value: orjson.dumps(value).decode(),
    )


def _commands(info: Object, options: ExportOptions) -> str:
    """The commands that made the run, if run.json has it, and its training rows.

    Options at their defaults are left out; files are named by what they are, and not by their path, a server as `URL`.
    """
    changed = {name: getattr(options, name) for name in DEFAULTS if name != "parquet"}
    changed = {name: FILES.get(name, value) for name, value in changed.items() if value != DEFAULTS[name]}
    lines = [shlex.join(["cai", "export", "RUN", *words_of(changed)])]
    if info.get("command") is not None:
        words = ["cai"]
        for before, word in pairwise(shlex.split(info["command"])):
            words.append(word if before == "--system" else without_path(word))
        lines.insert(0, shlex.join(words))
    return "\n".join(lines)
