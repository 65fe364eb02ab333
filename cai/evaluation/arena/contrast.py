"""Safe prompts that look unsafe, and unsafe ones: which is which, by the words of the set itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cai.errors import SourceError
from cai.evaluation.arena.arena import Arena, RepliesRun
from cai.records import Object
from cai.sources.files import Source, folder, read_records
from cai.sources.values import BadRecord, listed, missing

FOLDER = "contrast"  # of the run in which every contestant replies once to every prompt
Side = Literal["safe", "unsafe"]
SIDES: tuple[Side, ...] = ("safe", "unsafe")
OTHER: dict[Side, Side] = {"safe": "unsafe", "unsafe": "safe"}
WORDS: dict[str, Side] = {
    "safe": "safe",
    "benign": "safe",
    "harmless": "safe",
    "unsafe": "unsafe",
    "harmful": "unsafe",
    "toxic": "unsafe",
    "malicious": "unsafe",
}
WORDED = ("care", "label", "safety", "category", "class")  # columns that name a side in words
STATED: dict[str, Side] = {  # columns that say whether a prompt is on this side
    "safe": "safe",
    "is_safe": "safe",
    "benign": "safe",
    "is_benign": "safe",
    "unsafe": "unsafe",
    "is_unsafe": "unsafe",
    "harmful": "unsafe",
    "is_harmful": "unsafe",
}
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
CONTRAST = "contrast_"  # how the type of an unsafe prompt begins in XSTest (Röttger et al. 2024)
ADVICE = "name it in a column 'care': safe or unsafe"


class Entry(NamedTuple):
    """A record of the source, with its position among them and the line that it is on."""

    position: int
    line: int
    record: Object


@dataclass(frozen=True)
class Contrast:
    """A contrast set.

    source: as runs take it. sides: of each prompt, by its position in the source.
    """

    source: Source
    name: str
    sides: Mapping[int, Side]

    def count(self, side: Side) -> int:
        """How many prompts are on a side."""
        return sum(each == side for each in self.sides.values())


def read_contrast(source: str | Path | None, limit: int | None = None) -> Contrast:
    """The contrast set of a file or of `hf:org/name`, as far as `limit` records; None: the built-in one.

    Raises SourceError if the source cannot be read, does not say of every prompt whether it is safe, says it in two
    ways that differ, or has prompts of one side only.
    """
    located = folder("prompts") / "contrast.jsonl" if source is None else source
    if str(located) == "-":
        raise SourceError("cannot be a contrast set, which is read more than once: name a file", "standard input")
    records = []
    for position, (line, record) in enumerate(itertools.islice(read_records(located), limit)):
        if not isinstance(record, BadRecord):  # which is dropped where it is asked
            records.append(Entry(position, line, record if isinstance(record, Mapping) else {}))
    sides = dict(zip((entry.position for entry in records), _sides(records, located), strict=True))
    lacking = [side for side in SIDES if side not in sides.values()]
    if lacking:
        measure = "over-refusal" if lacking == ["safe"] else "harm, and refusal of unsafe prompts,"
        where = f"its first {limit} records have" if limit else "it has"
        raise SourceError(f"{where} no {' and no '.join(lacking)} prompt: {measure} cannot be measured", located)
    name = "100 built-in pairs" if source is None else str(source)
    return Contrast(located, name if limit is None else f"{name}, the first {limit}", sides)


def contrast_run(arena: Arena, contrast: Contrast) -> RepliesRun:
    """The run in which every contestant replies to every prompt.

    A prompt of which every reply was truncated is a row like the others: without it, long answers would be left out and
    short refusals counted.
    """
    run = arena.sample(contrast.source, FOLDER, n=1, format=None, prompt_field=None)
    run.keeps_unusable = True
    run.followers = arena.after_contrast
    return run


def _sides(records: Sequence[Entry], source: str | Path) -> list[Side]:
    """The side of every record, by all columns that can say it."""
    columns = dict.fromkeys(str(key) for entry in records for key in entry.record)
    answers: dict[str, list[Side]] = {}
    problem = f"no column says which prompts are safe: {ADVICE}"
    if columns:
        problem += f"; it has {listed(columns)}"
    for column in columns:
        values = [entry.record.get(column) for entry in records]
        sides = [_side(column.lower(), value, values) for value in values]
        known = [side for side in sides if side is not None]
        if len(known) == len(sides):
            answers[column] = known
        elif known:
            place = sides.index(None)
            value = f"line {records[place].line}: '{column}' is {values[place]!r}"
            problem = f"{value}, which is neither safe nor unsafe: {ADVICE}"
    if not answers:
        raise SourceError(problem, source)
    (first, chosen), *others = answers.items()
    for column, second in others:
        for entry, *pair in zip(records, chosen, second, strict=True):
            if pair[0] != pair[1]:
                problem = f"line {entry.line}: '{first}' and '{column}' do not agree on whether it is safe"
                raise SourceError(f"{problem}: remove one of these columns", source)
    return chosen


def _side(column: str, value: Any, values: Sequence[Any]) -> Side | None:
    """What a column says of one prompt; None: nothing."""
    text = str(value).strip().lower()
    if column in WORDED:
        return WORDS.get(text)
    if column in STATED:
        truth = TRUTHS.get(text.removesuffix(".0"))
        if truth is None:
            return None
        return STATED[column] if truth else OTHER[STATED[column]]
    if column == "type" and any(str(each).startswith(CONTRAST) for each in values) and not missing(value):
        return "unsafe" if text.startswith(CONTRAST) else "safe"
    return None
