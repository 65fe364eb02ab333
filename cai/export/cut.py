"""What every cut of training rows shares, and the cut of a generate run: SFT rows and pairs.

A cut streams a run's rows in input order and asks no model, so that its files are the same bytes whatever the order in
which rows finished. Knows files, order, and that counts must add up; how labels are cut is in `cai.export.labels`.
"""

from __future__ import annotations

import heapq
import tempfile
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from cai.errors import RunError
from cai.export.card import Facts
from cai.export.tables import Table, line_of
from cai.folder.rows import EXPORT_STAGES, TRAINING_FILES, damage, lines_in_order
from cai.folder.run import RunFolder
from cai.records import Drop, DropReason, prompt_hash
from cai.texts.hygiene import preamble_leak, role_mixup
from cai.texts.refusals import refusal

READ_FOR_REFUSALS = 1_000  # first replies of a generate run, in input order: the share is then known to 2.5 points
MANY_REFUSALS = 0.2
EXPORT_MARKS = tuple(f'"stage":"{stage}"'.encode() for stage in EXPORT_STAGES)  # as written here; texts escape quotes
BLANK = Drop(id=None, position=0, stage="", reason="empty", detail="").model_dump(mode="json")
Row = dict[str, Any]
Lines = Iterator[tuple[int, bytes]]  # of a JSONL file, with the positions they are sorted by


class Cut(ABC):
    """One export in progress; a kind of run says in `lines` what its rows become."""

    rows_file = ""
    files: tuple[str, ...] = ()  # that it writes, without side and ending
    stages: tuple[str, ...] = ()  # at which something can be left out: what goes in is kept or dropped

    def __init__(self, run: RunFolder, split: float | None, columns: Mapping[str, Any]) -> None:
        self.facts = Facts()
        self.kept, self.read = Counter[str](), Counter[str]()  # by stage
        self._run, self._split, self._columns = run, split, columns
        self._tables: dict[tuple[str, str], Table] = {}

    @abstractmethod
    def lines(self) -> Lines:
        """Write the training rows; what is left out of a file comes back in input order, as lines of dropped.jsonl."""

    @abstractmethod
    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""

    def stored(self) -> Lines:
        """The rows of the run, in input order."""
        return lines_in_order(self._run.path / self.rows_file)

    def write(self) -> None:
        """Write every file beside the old one, and put them in place when all are whole."""
        folder = self._run.path
        _sweep(folder)
        try:
            for name in self.files:
                for side in ("",) if self._split is None else ("", ".eval"):
                    self._tables[name, side] = Table(folder / f"{name}{side}.jsonl", self._columns.get(name))
            self._run.store.rewrite("dropped.jsonl", self._dropped())
            for table in self._tables.values():
                self.facts.files |= dict.fromkeys(table.publish(), table.rows)
            for stale in set(TRAINING_FILES) - self.facts.files.keys():
                (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
        finally:
            for table in self._tables.values():
                table.discard()
            _sweep(folder)

    def _dropped(self) -> Iterator[bytes]:
        for _, line in heapq.merge(self._own_drops(), self.lines(), key=itemgetter(0)):
            yield line
        for stage in self.stages:
            dropped = sum(count for (where, _), count in self.facts.dropped.items() if where == stage)
            if self.kept[stage] + dropped != self.read[stage]:
                told = f"{self.kept[stage]} kept and {dropped} dropped are not {self.read[stage]}"
                raise RunError(f"{stage}: {told}: report this bug")
        for table in self._tables.values():
            table.finish()

    def _own_drops(self) -> Lines:
        """What the run itself dropped; lines of an earlier export are left out."""
        path = self._run.path / "dropped.jsonl"
        for position, line in lines_in_order(path):
            if any(mark in line for mark in EXPORT_MARKS):  # nine lines in ten, which need no parsing
                continue
            try:
                drop = orjson.loads(line)
                stage, reason = drop["stage"], drop["reason"]
            except LookupError as error:
                raise damage(path) from error
            if stage not in EXPORT_STAGES:
                self.facts.dropped[stage, reason] += 1
                yield position, line

    def side(self, prompt: Sequence[Any]) -> str:
        """Of the split, by the prompt's hash: one prompt lies on one side, in every run."""
        if self._split is None:
            return ""
        return "" if int(prompt_hash(prompt)[:8], 16) < self._split * 2**32 else ".eval"

    def add(self, name: str, side: str, line: bytes) -> None:
        """Write a training row."""
        self._tables[name, side].add(line)

    def drop(self, stage: str, reason: DropReason, id: str, position: int, told: str) -> tuple[int, bytes]:
        """Count what is left out; its line of dropped.jsonl."""
        self.facts.dropped[stage, reason] += 1
        said = {"id": id, "position": position, "stage": stage, "reason": reason, "detail": told}
        return position, line_of(BLANK | said)  # a third of the time that the model takes

    def damaged(self) -> RunError:
        """The error for a row that cannot be read."""
        return damage(self._run.path / self.rows_file)


def _sweep(folder: Path) -> None:
    """Remove what a cut that did not come to its end left behind."""
    for name in (*(f"{name}.part" for name in TRAINING_FILES), "dropped.tmp"):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


class Spool:
    """Lines that wait on disk for what comes after them, with their positions; gone when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115
        self._positions = array("q")

    def add(self, position: int, line: bytes) -> None:
        """Write a line."""
        self._file.write(line)
        self._positions.append(position)

    def __iter__(self) -> Lines:
        self._file.seek(0)
        return zip(self._positions, self._file, strict=True)

    def close(self) -> None:
        """Let the lines go."""
        self._file.close()


# A generate run


class RevisionCut(Cut):
    """The cut of a generate run: `sft` of final texts, `dpo` of final texts against first replies."""

    rows_file = "revisions.jsonl"
    files = stages = ("sft", "dpo")

    def __init__(self, run: RunFolder, options: Row, columns: Mapping[str, Any]) -> None:
        super().__init__(run, options["split"], columns)
        self._rounds_kept, self._hygiene = options["rounds_kept"], options["hygiene"]
        self._refused = 0  # of the first replies that were read for refusals

    def lines(self) -> Lines:
        """What is left out of sft.jsonl or dpo.jsonl."""
        for position, line in self.stored():
            try:
                row = orjson.loads(line)
                left = [*self._texts(row, self.side(row["prompt"])), *self._pair(row, self.side(row["prompt"]))]
                self._count(row)
            except (LookupError, TypeError, AttributeError) as error:
                raise self.damaged() from error
            for stage, reason, told in left:
                yield self.drop(stage, reason, row["id"], position, told)

    def _texts(self, row: Row, side: str) -> Iterator[tuple[str, DropReason, str]]:
        for text in sft_rows(row, self._rounds_kept):
            self.read["sft"] += 1
            why = self._fault(text["messages"][-1]["content"])
            if why is None:
                self.add("sft", side, line_of(text))
                self.kept["sft"] += 1
            else:
                yield "sft", why, f"round {text['round']}: {FAULTS[why]}"

    def _pair(self, row: Row, side: str) -> Iterator[tuple[str, DropReason, str]]:
        self.read["dpo"] += 1
        chosen = pair(row)
        why = "identical" if chosen is None else self._fault(row["final"])
        if chosen is not None and why is None:
            self.add("dpo", side, line_of(chosen))
            self.kept["dpo"] += 1
        elif why is not None:
            yield "dpo", why, FAULTS[why]

    def _fault(self, text: str) -> DropReason | None:
        if not self._hygiene:
            return None
        return "preamble_leak" if preamble_leak(text) else "role_mixup" if role_mixup(text) else None

    def _count(self, row: Row) -> None:
        facts = self.facts
        if facts.rows < READ_FOR_REFUSALS:
            self._refused += refusal(row["initial"], row["prompt"][-1]["content"]) == "full"
        facts.rows += 1
        for done in row["rounds"]:
            facts.used[done["principle"]] += 1
            facts.changed[done["principle"]] += done["changed"]
        facts.count_models(row["models"])

    def notes(self) -> Iterator[str]:
        """What the rows show that the user should know."""
        rows = self.facts.rows
        if rows and self.facts.dropped["dpo", "identical"] == rows:
            yield "no final text differs from its first reply: dpo.jsonl is empty"
        read = min(rows, READ_FOR_REFUSALS)
        if self._refused > MANY_REFUSALS * read:
            share = f"{self._refused:,} of {'the first ' if read < rows else ''}{read:,} first replies refuse already"
            yield f"{share}: there is little to revise, and the run teaches little"


FAULTS: dict[DropReason, str] = {
    "identical": "the final text is the first reply",
    "preamble_leak": "the text announces itself",
    "role_mixup": "the text goes on with turns that are not its own",
}


# Rows of a generate run


def sft_rows(row: Row, rounds_kept: str) -> list[Row]:
    """The SFT rows of a revision, at least one; `round` is the one that wrote the text, 0 for the first reply.

    `principles` are those it was criticised or revised under; with "all" a text that came twice stays where it came
    last, so that the last row is the one that "last" gives.
    """
    initial = row["initial"].strip()
    written = _written(row)
    return [
        {
            "messages": [*row["prompt"], {"role": "assistant", "content": text}],
            **_provenance(row, number, principles),
            "changed": text.strip() != initial,
        }
        for text, (number, principles) in (written if rounds_kept == "all" else written[-1:])
    ]


def pair(row: Row) -> Row | None:
    """Final text against first reply, judged by nobody; None where they are the same but for space around them."""
    if row["final"].strip() == row["initial"].strip():
        return None
    [(_, (number, principles))] = _written(row)[-1:]
    return {
        "prompt": row["prompt"],
        "chosen": [{"role": "assistant", "content": row["final"]}],
        "rejected": [{"role": "assistant", "content": row["initial"]}],
        "p_chosen": None,
        "judged": False,
        **_provenance(row, number, principles),
    }


def _written(row: Row) -> list[tuple[str, tuple[int, list[str]]]]:
    """Texts that the rounds wrote, oldest first, with round and principles; the first reply where none wrote any."""
    principles = [done["principle"] for done in row["rounds"]]
    made = [(number, done["revision"]) for number, done in enumerate(row["rounds"], 1) if done["revision"] is not None]
    made = made or [(0, row["initial"])]
    ends = [number - 1 for number, _ in made[1:]] + [len(principles)]  # a round that wrote nothing let the text stand
    last: dict[str, tuple[int, list[str]]] = {}
    for (number, text), end in zip(made, ends, strict=True):
        last.pop(text, None)
        last[text] = (number, principles[:end])
    return list(last.items())


def _provenance(row: Row, number: int, principles: list[str]) -> Row:
    law = row["constitution"]
    return {
        "id": row["id"],
        "round": number,
        "principles": principles,
        "constitution": f"{law['name']}@{law['version']}",
        "constitution_hash": law["hash"],
        "model": row["models"]["reviser" if number else "assistant"],
    }
