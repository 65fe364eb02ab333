"""Cuts training rows from the stored rows of a run, and the dataset card that goes with them: one door for every run.

What an export can be told is in `cai.export.options`, how rows are cut in `cai.export.cut` and `cai.export.labels`.
Asks no model, and knows nothing of the command line.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from cai.errors import RunError
from cai.export.best import BestCut, BestSummary, best_card
from cai.export.card import Facts
from cai.export.cut import Cut
from cai.export.hub import Hub
from cai.export.labels import Choice, LabelCut
from cai.export.options import DEFAULTS, calibration_of, check_options, filters_of, fitting, words
from cai.export.revisions import RevisionCut
from cai.export.run_cards import dataset_card, label_card
from cai.export.tables import schemas
from cai.folder.files import write_atomically
from cai.folder.rows import TRAINING_FILES
from cai.folder.run import RunFolder, reopen
from cai.judge.calibration_report import FILE
from cai.judge.certify import Calibration
from cai.records import Record

ROWS = {"generate": "revisions.jsonl", "label": "labels.jsonl", "sample": "candidates.jsonl"}
FILTERS = ("min_confidence", "calibration", "agreement", "order_flip", "max_length_ratio", "benign", "hygiene")
Row = dict[str, Any]


class ExportSummary(Record):
    """What an export wrote."""

    folder: Path
    rows: int  # finished rows of the run
    files: dict[str, int]  # rows by name of the training file
    dropped: dict[str, int]  # lines of dropped.jsonl by reason: the run's own and the export's
    left_out: dict[str, dict[str, int]]  # the export's by stage and reason
    pairs: int | None = None  # kept, of a label run
    best: BestSummary | None = None  # of a best-of run
    invalid_rate: float | None = None  # share of the votes that could not be read
    flip_rate: float | None = None  # of the others, the share that prefers the same place in both orders
    mean_bias: float | None = None  # of the others, in nats towards the first reply
    chosen_longer: float | None = None  # share of the kept pairs of unequal length whose chosen reply is the longer one
    notes: tuple[str, ...]  # what the user should know
    url: str | None  # where the files were pushed to

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        width = max(map(len, self.files))
        told = [
            f"{self.folder / name!s:<{len(str(self.folder)) + 1 + width}}  {n:>9,}" for name, n in self.files.items()
        ]
        if self.pairs is not None:
            longer = (
                ""
                if self.chosen_longer is None
                else f"; the chosen reply is the longer one in {self.chosen_longer:.0%}"
            )
            told.append(f"{self.pairs:,} of {self.rows:,} pairs kept{longer}")
            told += self._votes()
            stages = {stage: reasons for stage, reasons in self.left_out.items() if reasons}
            own = Counter(self.dropped) - sum((Counter(reasons) for reasons in stages.values()), Counter[str]())
            stages |= {"run": dict(own)} if own else {}
        else:
            if self.best is not None:
                told += [*self.best.lines(), *self._votes()]
            stages = {"": self.dropped} if self.dropped else {}
        for stage, reasons in stages.items():
            counts = ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
            told.append(f"left out{f' of {stage}' if stage else ''}: {counts} (dropped.jsonl)")
        told += [f"note: {note}" for note in self.notes]
        return told if self.url is None else [*told, f"pushed to {self.url}"]

    def _votes(self) -> Iterator[str]:
        """What both orders tell of the judge."""
        if self.invalid_rate is not None:
            flips = "" if self.flip_rate is None else f"; {self.flip_rate:.0%} of the others flip with the order"
            bias = "" if self.mean_bias is None else f", mean bias {self.mean_bias:+.2f} nats towards the first reply"
            yield f"votes: {self.invalid_rate:.1%} invalid{flips}{bias}"


def export_run(
    folder: str | Path,
    *,
    split: float | None = None,
    parquet: bool = False,
    hygiene: bool = True,
    rounds_kept: str = "last",
    min_confidence: float | None = None,
    calibration: str | Path | Calibration | Mapping[str, Any] | None = None,
    agreement: float | None = None,
    pairing: str = "all",
    order_flip: bool = False,
    max_length_ratio: float | None = None,
    benign: str | Path | None = None,
    dead_zone: float | None = None,
    target: int | None = None,
    push: str | None = None,
    private: bool = True,
) -> ExportSummary:
    """Cut the training rows of a run anew from its stored rows; docs/run-folders.md lists their columns.

    split: the share of prompts, above 0 and below 1, that trains; the others go to `*.eval.*`. hygiene: leave out what
    has a fault of form; `cai.export.pairs` lists the faults of pairs. push: `org/name` of a dataset on the Hugging Face
    hub, which gets the training files and the card.

    Of a generate run. rounds_kept: "last" gives one SFT row per prompt, the final revision; "all" one for every text
    that a round wrote.

    Of a label run. min_confidence: what the judge must be sure of, on the scale of `confidence` (after temperature);
    None: the one that `calibration`, a calibration.json, certifies for `agreement` with people, else 0.7. agreement
    alone takes the calibration.json in the folder. pairing: all, best-worst (of samples) or final (round, of a generate
    run). order_flip: leave out pairs whose votes follow the place. max_length_ratio: in characters. benign: a file of
    prompts that must not be refused. dead_zone: p above it makes a reply of kto.jsonl desirable, below 1 - dead_zone
    undesirable; None: the threshold of pairs. target: keep at most so many pairs; None: as the run was told.

    Files of an earlier export are replaced or removed. Raises UsageError for options that do not fit the run, RunError
    for a folder that holds nothing to cut, is in use or damaged, and CaiError where the hub refuses.
    """
    options = {
        "split": split, "parquet": parquet, "hygiene": hygiene, "rounds_kept": rounds_kept,
        "min_confidence": min_confidence, "calibration": calibration, "agreement": agreement, "pairing": pairing,
        "order_flip": order_flip, "max_length_ratio": max_length_ratio, "benign": benign, "dead_zone": dead_zone,
        "target": target,
    }  # fmt: skip
    check_options(options)
    command = _command(Path(folder))
    options = fitting(options, command)
    hub = None if push is None else Hub(push, private)
    columns = schemas(command) if parquet else {}
    with _open(Path(folder), command) as run:
        cut = _write(run, options, columns, push)
        url = None if hub is None else hub.push(run.path, [*cut.facts.files, "README.md"], TRAINING_FILES)
    return _summary(run, cut, url, tuple([*_notes(run.info, cut.facts, split), *cut.notes()]))


@contextmanager
def _open(folder: Path, command: str) -> Iterator[RunFolder]:
    """The run of a folder, until it was cut; where that fails for its disk, the error advises what an export can do."""
    try:
        with closing(reopen(folder, command, ROWS[command])) as run:
            yield run
    except RunError as error:
        if not isinstance(cause := error.__cause__, OSError):
            raise
        told = f"cannot write to {folder}: {cause.strerror or cause}; make room or permission there, and export again"
        raise RunError(told) from error


def _write(run: RunFolder, options: Row, columns: Mapping[str, Any], push: str | None) -> Cut:
    """Write the training rows, their card, and into run.json the options."""
    if options.get("agreement") is not None and options["calibration"] is None and (run.path / FILE).exists():
        options["calibration"] = str(run.path / FILE)
    cut = _cut_of(run, options, columns)
    cut.write()
    cut.facts.options = words(options)
    make_card = {"generate": dataset_card, "label": label_card, "sample": best_card}[run.identity["command"]]
    write_atomically(run.path / "README.md", make_card(run.info, cut.facts, load_from=push or ".").encode())
    _remember(run, options)
    return cut


def _summary(run: RunFolder, cut: Cut, url: str | None, notes: tuple[str, ...]) -> ExportSummary:
    facts = cut.facts
    dropped, left_out = Counter[str](), {stage: dict[str, int]() for stage in cut.stages}
    for (stage, reason), count in sorted(facts.dropped.items()):
        dropped[reason] += count
        if stage in left_out:
            left_out[stage][reason] = count
    judged = facts.judged
    return ExportSummary(
        folder=run.path,
        rows=facts.rows,
        files=facts.files,
        dropped=dict(dropped),
        left_out=left_out,
        pairs=cut.kept["pairs"] if isinstance(cut, LabelCut) else None,
        best=cut.summary() if isinstance(cut, BestCut) else None,
        invalid_rate=None if judged is None else judged.invalid_rate,
        flip_rate=None if judged is None else judged.flip_rate,
        mean_bias=None if judged is None else judged.mean_bias,
        chosen_longer=None if judged is None else judged.longer_share,
        notes=notes,
        url=url,
    )


def _notes(info: Mapping[str, Any], facts: Facts, split: float | None) -> Iterator[str]:
    if info.get("stopped") is not None:
        yield f"the run is unfinished ({info['stopped']}): run its command again to go on; these are the rows so far"
    if not facts.rows:
        yield "the run has no finished row: the training files are empty"
    for kind in dict.fromkeys(name.partition(".")[0] for name in facts.files):
        sides = [] if split is None else [facts.files[f"{kind}{side}.jsonl"] for side in ("", ".eval")]
        if any(sides) and not all(sides):
            empty = "train" if not sides[0] else "eval"
            yield f"--split {split} leaves the {empty} side of {kind} empty: there are only {sum(sides):,} rows"


def _command(folder: Path) -> str:
    """What made the run in a folder; "generate" where that cannot be told, so that opening it says why."""
    try:
        identity = orjson.loads((folder / "run.json").read_bytes())["identity"]
        command = identity["command"]
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder} is not a run folder: it has no run.json; name the --out of a cai generate or cai label"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / 'run.json'} cannot be read ({error}); restore it, and export again") from error
    except (LookupError, TypeError):
        return "generate"
    if command == "sample" and identity.get("best_of") is None:
        raise RunError(
            f"{folder} is a run of cai sample: nobody has judged its replies; label them first: cai label {folder}"
        )
    return command if command in ROWS else "generate"


def _remember(run: RunFolder, options: Row) -> None:
    """Have the run, when it goes on, end with the same cut; a calibration is told by its path and its content, too."""
    export = {name: _plain(value) for name, value in options.items()}
    before: Row = {"export": {**DEFAULTS[run.identity["command"]], **DEFAULTS[""]}, "calibration": None, **run.info}
    before["export"] = {**export, **before["export"]}  # what an older version did not know was not asked for
    given = options.get("calibration")
    now: Row = {"export": export, "calibration": None if given is None else _origin(given)}
    changed = {name: value for name, value in now.items() if value != before[name]}
    if changed:
        run.write_info(**changed)


def _plain(value: Any) -> Any:
    """An option as JSON."""
    if isinstance(value, Calibration):
        return value.model_dump(mode="json")
    return str(value) if isinstance(value, Path) else value


def _origin(calibration: str | Path | Calibration | Mapping[str, Any]) -> Row:
    """Where a calibration came from, and the sha256 of its file; of one made in Python, of its JSON."""
    if isinstance(calibration, str | Path):
        path = Path(calibration)
        path = path / FILE if path.is_dir() else path
        return {"path": str(calibration), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    content = _plain(calibration) if isinstance(calibration, Calibration) else calibration
    return {"path": None, "sha256": hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()}


def _cut_of(run: RunFolder, options: Row, columns: Mapping[str, Any]) -> Cut:
    if run.identity["command"] == "generate":
        return RevisionCut(run, options, columns)
    if run.identity["command"] == "sample":
        return BestCut(run, options, columns)
    made = calibration_of(run.identity, options["calibration"])
    filters = filters_of(run.identity, **{name: options[name] for name in FILTERS} | {"calibration": made})
    source, target = run.identity.get("source"), options["target"]
    choice = Choice(
        filters,
        options["pairing"],
        options["dead_zone"],
        run.info.get("settings", {}).get("target") if target is None else target,
        source.get("n") if isinstance(source, Mapping) else None,
    )
    cut = LabelCut(run, choice, options["split"], columns)
    cut.judged.calibration, cut.judged.agreement = made, options["agreement"]
    return cut
