"""A dataset as a trainer needs it: found, read, counted, checked, and split into rows that train and the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import orjson

from cai.engine.asked import shipped_ngrams
from cai.errors import InputError, RunError, UsageError
from cai.folder.info import find_info
from cai.folder.kinds import kind_of
from cai.folder.shards.join import read_run
from cai.records import Turns, Values
from cai.sources.files import Source, built_in_prompts, existing, path_of
from cai.texts.hygiene import LEARNED, MANY_REFUSALS, READ_FOR_REFUSALS, said_in
from cai.texts.refusals import ENGLISH, refusal
from cai.texts.wording import rendered, report_lines
from cai.training.data.conditioned import UnderPrinciples
from cai.training.data.rowfile import file_of, read_rows
from cai.training.data.rows import Skipped, TrainingRow, last_words, named, reasons_of
from cai.training.setup.methods import METHODS

SPLIT = 0.95  # share of the prompts that train, if no file holds others back
LONGER = 0.8  # share of pairs whose chosen reply is the longer one (or the shorter one) that is worth a warning
FEW_PAIRS = 10  # of fewer, such a share says nothing
WARNINGS = Path(__file__).with_name("warnings.txt.jinja")


@dataclass(frozen=True)
class TrainingData:
    """The rows of a dataset; `read` = train + eval + dropped.

    Raises InputError if nothing could be learnt from the rows that train, or measured on the others.
    """

    method: str
    files: tuple[tuple[str, str], ...]  # source and content of the file, and of the one whose rows are evaluated
    train: tuple[TrainingRow, ...]
    eval: tuple[TrainingRow, ...]
    dropped: tuple[Skipped, ...]
    read: int
    origins: Mapping[str, list[str]]  # constitutions, judges and models that the rows name
    run_notes: tuple[str, ...]  # what the user should know of the run they come from
    principles: tuple[str, ...] = ()  # under which the rows are, in words; none: the rows name none

    def __post_init__(self) -> None:
        source, train, held = self.files[0][0], self.train, self.eval
        rows = train if self.held_back == "file" else (*train, *held)
        if not rows:
            first = next(drop for drop in self.dropped if drop.file == source)
            raise InputError(
                f"no row can train ({_counts(self.dropped)}); the first: {first.detail}", source, first.line or None
            )
        if len(rows) == 1:
            raise InputError("only one row can train; there must be two or more", source)
        if len({row.key for row in rows}) == 1:
            raise InputError(f"all of its {len(rows):,} rows answer one prompt; there must be others", source)
        if not train:
            raise InputError(f"the split leaves none of its {len(rows):,} rows to train; raise it", source)
        if METHODS[self.method].rows == "graded" and len({row.label for row in train}) == 1:
            raise InputError(
                f"every reply that trains has the label {train[0].label}; {self.method} needs both", source
            )
        shared = {row.key for row in train} & {row.key for row in held}
        if shared:
            example = next(row for row in held if row.key in shared)
            raise InputError(
                f"{len(shared):,} of its prompts are in {source} too ({named(example.id)}): what it measures would be "
                "remembered, not learnt; take them out of one of the two",
                self.files[-1][0],
            )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """All that the user should know before training."""
        method = METHODS[self.method]
        pairs = self.train if method.rows == "pairs" else ()
        lengths = [[len(reply.strip()) for reply in row.replies] for row in pairs]
        rows = [row for row in self.train if row.label is not False and row.reply]
        replies = [row.reply for row in rows]
        asked = shipped_ngrams()
        faults = {}
        for name, fault in LEARNED.items():
            if not method.scores:  # a model that writes would learn to make the faults
                faults[name] = sum(fault.is_in(row.reply, _said_in(row.prompt), asked) for row in rows)
        text = rendered(
            WARNINGS,
            data=self,
            longer=sum(chosen > rejected for chosen, rejected in lengths),
            shorter=sum(chosen < rejected for chosen, rejected in lengths),
            few_pairs=FEW_PAIRS,
            much=LONGER,
            probabilities=[row.p_chosen for row in self.train if row.p_chosen is not None],
            replies=replies,
            faults=faults,
            learned=LEARNED,
        )
        return (*self.run_notes, *text.split("\n")[:-1])

    @property
    def held_back(self) -> Literal["file", "split", "nothing"]:
        """Where the rows to evaluate come from."""
        if not self.eval:
            return "nothing"
        return "file" if len(self.files) > 1 else "split"

    def facts(self, train: int, held: int, drops: Iterable[Skipped]) -> Values:
        """What training.json keeps of the data; train, held: rows that fit the length; drops: all others."""
        told = {"principles": self.principles} if self.principles else {}
        return {
            **told,
            "files": [{"source": source, "content": content} for source, content in self.files],
            "read": self.read,
            "train": train,
            "eval": held,
            "dropped": reasons_of(drops),
            "held_back": self.held_back,
            "origins": self.origins,
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """The data in words, for people."""
        return report_lines(__file__, data=self, drops=_counts(self.dropped))


def _counts(drops: Iterable[Skipped]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons_of(drops).items()))


def load_rows(
    data: Source,
    method: str,
    *,
    eval_data: str | Path | None = None,
    split: float | None = None,
    under: UnderPrinciples | None = None,
) -> TrainingData:
    """The rows that `method` trains on, from a run folder, a file, `hf:org/name` or an iterable of records.

    A run folder finds its own file (of prompts its rows), and any file its `.eval` twin. Without one, `split` (share of
    the prompts that train, 0.95 by default, 1 keeps none back) puts each prompt on the side that `cai export --split`
    would. Of equal prompts without replies the first one trains. under: makes rows under principles, of a run folder
    from its labels.
    Raises UsageError or RunError for a run that `method` cannot train on, InputError for rows of another kind and for a
    dataset that is empty, one row, one prompt, all of one label, or has a prompt on both sides.
    """
    source, command, notes = data, "", list[str]()
    folder = file_of(data)
    if folder is not None and folder.is_dir():
        source, command, notes = training_file_of(folder, method, of_votes=under is not None)
    first = read_rows(source, method, command, under)
    principles = () if under is None else under.principles  # not those of the file that holds rows to evaluate
    files = [first]
    twin = eval_data or twin_of(source)
    if twin is None:
        share = SPLIT if split is None else split
        if not 0 < share <= 1:
            raise UsageError(f"split {split} must be above 0 and at most 1: it is the share of the prompts that train")
        train = [row for row in first.rows if trains(row.key, share)]
        held = [row for row in first.rows if not trains(row.key, share)]
    else:
        if split is not None:
            raise UsageError(f"split {split}: {twin} is there to evaluate on; name one of them")
        second = read_rows(twin, method, command, under)
        if not second.rows:
            detail = second.drops[0].detail
            raise InputError(f"none of its {second.read:,} rows can be evaluated: {detail}", second.source)
        files.append(second)
        train, held = first.rows, second.rows
    if folder is not None and command == "generate" and METHODS[method].rows == "chat":
        first.first_replies += _first_replies(folder / "revisions.jsonl")
    return TrainingData(
        method=method,
        files=tuple((file.source, file.content) for file in files),
        train=tuple(train),
        eval=tuple(held),
        dropped=tuple(drop for file in files for drop in file.drops),
        read=sum(file.read for file in files),
        origins=first.origins,
        run_notes=(*notes, *_of_refusals(first.first_replies[:READ_FOR_REFUSALS])),
        principles=principles,
    )


def _of_refusals(replies: Sequence[tuple[str, str]]) -> Iterator[str]:
    refused = sum(refusal(reply, prompt) == "full" for reply, prompt in replies)
    if refused > MANY_REFUSALS * len(replies):
        yield (
            f"your initial model refuses: {refused:,} of {len(replies):,} first replies are full refusals, from "
            f"which little can be learned ({ENGLISH})"
        )


def trains(key: str, share: float) -> bool:
    """Whether the prompt of that hash is among the `share` that trains: the rule of `cai export --split`."""
    return int(key[:8], 16) < share * 2**32


# Files


def training_file_of(folder: Path, method: str, *, of_votes: bool = False) -> tuple[Path, str, list[str]]:
    """The file of a run folder, the run's command, and what is to know of it; of_votes: the one with the votes."""
    info = read_run(folder, "name a run, or one file of rows")
    command = info["identity"]["command"]
    labels = folder / "labels"  # of a best-of run
    fitting = METHODS[method]
    if fitting.rows == "prompts":
        return folder / kind_of(command).rows_file, command, []
    path = folder / f"{fitting.file}.jsonl"
    fits = fitting.file in kind_of(command).training
    if of_votes:
        path = folder / "labels.jsonl"
        fits = command == "label"
    what = "it has replies without labels"
    if command == "sample":  # only the best of judged replies train
        judged = find_info(labels) is not None
        if judged and not fits:
            raise UsageError(f"{folder} has only the best reply to each prompt: name its labels, {labels}")
        fits = fits and (path.exists() or judged or "best_of" in info["identity"])
    judged_pairs = command != "generate" or "accept" in info["identity"]
    if not judged_pairs:
        fits = fits and not fitting.scores  # a reward model learns from judged pairs only
        what = "its replies are not judged"
    if not fits:
        raise UsageError(f"{folder} is a run of cai {command}: {what}; label them first: cai label {folder}")
    if not path.exists():
        words = f"cai export {folder}"
        if fitting.rows == "chat" and command != "generate" and "best_of" not in info["identity"]:
            words += " --best"
        raise RunError(f"{folder} has no {path.name} yet: {words} cuts it from the finished rows")
    notes = []
    stopped = info.get("stopped") or (info.get("labels") or {}).get("stopped")
    if stopped is not None:
        notes.append(f"the run is unfinished ({stopped}): these are the rows so far")
    if not judged_pairs and fitting.rows == "pairs":
        notes.append(
            f"nobody judged these pairs: the revision is assumed to be better; to ask a judge: cai label {folder}"
        )
    return path, command, notes


def twin_of(source: Any) -> Path | None:
    """The file beside a file that holds its eval rows, if there are any: a split of few rows can leave none."""
    path = file_of(source)
    if path is None:
        return None
    stem = Path(path.name.removesuffix(".gz")).stem
    if stem.endswith(".eval"):
        return None
    twin = path.with_name(path.name.replace(stem, f"{stem}.eval", 1))
    return twin if twin.exists() and twin.stat().st_size else None


def check_there(source: Any) -> None:
    """Raise SourceError for a path without a run folder or a file of records, unless it names built-in prompts."""
    path = file_of(source)
    if path is None or str(path) in built_in_prompts() or path_of(str(path)).is_dir():
        return
    existing(path_of(str(path)))


def _first_replies(path: Path) -> Iterator[tuple[str, str]]:
    """The first replies of a generate run, each with the text that it answers."""
    if path.exists():
        with path.open("rb") as lines:
            for line in islice(lines, READ_FOR_REFUSALS):
                row = orjson.loads(line)
                yield row["initial"], last_words(row["prompt"])


def _said_in(prompt: str | Turns) -> str:
    """What the user says in a prompt."""
    return prompt if isinstance(prompt, str) else said_in(prompt)
