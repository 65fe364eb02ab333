"""Training rows as a trainer needs them: counted, checked, and split into those that train and the others.

Knows what makes a dataset unfit to train on, or worth a note. Knows nothing of tokenizers, models or trainers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from cai.errors import InputError, UsageError
from cai.texts.hygiene import LEARNED
from cai.texts.refusals import MANY_REFUSALS
from cai.training.data.files import Drop, count_first_replies, of_folder, read_rows, twin_of
from cai.training.data.rows import Method, TrainingRow, named

SPLIT = 0.95  # share of the prompts that train, where no file holds others back
LONGER = 0.8  # share of pairs whose chosen reply is the longer one (or the shorter one) that is worth a warning


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The rows of a dataset, checked; `read` = train + eval + dropped."""

    method: Method
    files: tuple[tuple[str, str], ...]  # source and content of each file
    train: tuple[TrainingRow, ...]
    eval: tuple[TrainingRow, ...]
    dropped: tuple[Drop, ...]
    read: int
    held_back: Literal["file", "split", "nothing"]  # where the eval rows come from
    origins: Mapping[str, list[str]]  # constitutions, judges and models that the rows name
    told: tuple[str, ...]  # what is to know of the run they come from
    notes: tuple[str, ...]  # all that the user should know before training

    @property
    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason."""
        return dict(sorted(Counter(drop.reason for drop in self.dropped).items()))

    def of(self, train: Sequence[TrainingRow], held: Sequence[TrainingRow], drops: Iterable[Drop] = ()) -> TrainingData:
        """The same of these rows, with more dropped; raises InputError where they are no longer enough."""
        found = dataclasses.replace(
            self, train=tuple(train), eval=tuple(held), dropped=(*self.dropped, *drops),
            held_back=self.held_back if held else "nothing",
        )  # fmt: skip
        _check(found)
        return dataclasses.replace(found, notes=(*self.told, *_warnings(found)))

    def lines(self) -> Iterator[str]:
        """The data in words, for people."""
        where = {"file": "in a file of their own", "split": "split off by prompt", "nothing": ""}[self.held_back]
        held = f", {len(self.eval):,} to evaluate {where}".rstrip() if self.eval else ", none to evaluate"
        yield f"{self.files[0][0]}: {self.read:,} rows read, {len(self.train):,} train{held}"
        if self.dropped:
            counts = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.items())
            first = self.dropped[0]
            yield f"dropped: {counts}; the first is {first.file}:{first.line}: {first.detail}"
        yield from (f"note: {note}" for note in self.notes)


def load_rows(
    data: str | Path | Iterable[Any], method: Method, *, eval_data: str | Path | None = None, split: float | None = None
) -> TrainingData:
    """The rows that `method` trains on, from a run folder, a file, `hf:org/name` or an iterable of records.

    A run folder finds its own file, and any file its `.eval` twin. Without one, `split` (share of the prompts that
    train, 0.95 by default, 1 keeps none back) puts each prompt on the side that `cai export --split` would.
    Raises UsageError or RunError for a run that cannot train so, InputError for rows of another kind and for a dataset
    that is empty, one row, one prompt, all of one label, or has a prompt on both sides.
    """
    if split is not None and not 0.0 < split <= 1.0:
        raise UsageError(f"split {split} must be above 0 and at most 1: it is the share of the prompts that train")
    source, command, notes = data, None, list[str]()
    if isinstance(data, str | Path) and Path(data).is_dir():
        source, command, notes = of_folder(Path(data), method)
    main = read_rows(source, method, command)
    twin = eval_data if eval_data is not None else twin_of(source)
    files = [main]
    held_back: Literal["file", "split", "nothing"] = "nothing"
    train, held = main.rows, list[TrainingRow]()
    if twin is not None:
        if split is not None:
            raise UsageError(f"split {split}: {twin} is there to evaluate on; name one of them")
        files.append(read_rows(twin, method, command))
        held, held_back = files[1].rows, "file"
        if not held:
            raise InputError(
                f"none of its {files[1].read:,} rows can be evaluated: {files[1].drops[0].detail}", str(twin)
            )
    elif (share := SPLIT if split is None else split) < 1:
        train = [row for row in main.rows if trains(row.key, share)]
        held, held_back = [row for row in main.rows if not trains(row.key, share)], "split"
    if command == "generate" and method == "sft":
        count_first_replies(main, Path(str(data)) / "revisions.jsonl")
    if main.initial and main.refused > MANY_REFUSALS * main.initial:
        notes.append(
            f"your initial model refuses: {main.refused:,} of {main.initial:,} first replies are full refusals, from "
            "which little can be learnt"
        )
    found = TrainingData(
        method=method,
        files=tuple((file.source, file.content) for file in files),
        train=(),
        eval=(),
        dropped=tuple(drop for file in files for drop in file.drops),
        read=sum(file.read for file in files),
        held_back=held_back,
        origins=main.origins,
        told=tuple(notes),
        notes=(),
    )
    return found.of(train, held)


def trains(key: str, share: float) -> bool:
    """Whether the prompt of that hash is among the `share` that trains: the rule of `cai export --split`."""
    return int(key[:8], 16) < share * 2**32


# Checks of the whole


def _check(data: TrainingData) -> None:
    """Raises InputError for a dataset that nothing could be learnt from, or measured on."""
    source, train, held = data.files[0][0], data.train, data.eval
    rows = train if data.held_back == "file" else (*train, *held)
    if not rows:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in data.reasons.items())
        first = next(drop for drop in data.dropped if drop.file == source)
        raise InputError(f"no row can train ({counts}); the first: {first.detail}", source, first.line or None)
    if len(rows) == 1:
        raise InputError("only one row can train; there must be two or more", source)
    if len({row.key for row in rows}) == 1:
        raise InputError(f"all of its {len(rows):,} rows answer one prompt; there must be others", source)
    if not train:
        raise InputError(f"the split leaves none of its {len(rows):,} rows to train; raise it", source)
    if data.method == "kto" and len({row.label for row in train}) == 1:
        what = "desirable" if train[0].label else "undesirable"
        raise InputError(f"every reply that trains is {what}; kto learns from both kinds", source)
    shared = {row.key for row in train} & {row.key for row in held}
    if shared:
        example = next(row for row in held if row.key in shared)
        told = f"{len(shared):,} of its prompts are in {source} too ({named(example.id)}): what it measures would "
        raise InputError(f"{told}be remembered, not learnt; take them out of one of the two", data.files[-1][0])


def _warnings(data: TrainingData) -> Iterator[str]:
    if not data.eval:
        yield "no row is held back: nothing will be evaluated"
    if data.method in ("dpo", "reward"):
        yield from _of_pairs(data.train)
    yield from _of_texts(data.files[0][0], data.train, data.method)
    plain = sum(isinstance(row.prompt, str) for row in chain(data.train, data.eval))
    if plain:
        yield (
            f"{plain:,} rows are plain text: they train without the model's chat template, which cai chat and judges "
            "ask with; write 'prompt' as messages to train with it"
        )


def _of_texts(source: str, rows: Sequence[TrainingRow], method: Method) -> Iterator[str]:
    """Faults that a model trained on these replies would learn to make."""
    if method == "reward":
        return
    learnt = [row.reply for row in rows if row.label is not False]
    counts = {name: sum(map(fault.test, learnt)) for name, fault in LEARNED.items()}
    for name, fault in LEARNED.items():
        if counts[name]:
            yield f"{counts[name]:,} of {len(learnt):,} replies to be learned: the reply {fault.words} ({name}); " + (
                f"list them with: cai audit {source}"
            )


def _of_pairs(rows: Sequence[TrainingRow]) -> Iterator[str]:
    gaps = [len(row.reply.strip()) - len((row.rejected or "").strip()) for row in rows]
    longer, unequal = sum(gap > 0 for gap in gaps), sum(gap != 0 for gap in gaps)
    if unequal >= 10 and not 1 - LONGER < longer / unequal < LONGER:
        which, share = ("longer", longer / unequal) if 2 * longer > unequal else ("shorter", 1 - longer / unequal)
        yield f"the chosen reply is the {which} one in {share:.0%} of the pairs: length may be what is learnt"
    judged = [row.p_chosen for row in rows if row.p_chosen is not None]
    wrong = sum(p < 0.5 for p in judged)
    if wrong:
        yield f"{wrong:,} pairs have p_chosen below 0.5: by it the rejected reply is the better one"
    if judged and len(judged) < len(rows):
        yield f"{len(rows) - len(judged):,} of {len(rows):,} pairs have no p_chosen"
