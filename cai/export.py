"""Cuts training rows from the stored rows of a run: SFT rows, pairs, and the dataset card that goes with them.

Streams in input order and asks no model, so that the files are the same bytes whatever the order in which rows
finished. Knows what rows mean and which files they become; nothing of prompts, models or the command line.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from cai.card import Facts, dataset_card
from cai.errors import RunError, UsageError
from cai.hub import Hub
from cai.records import Drop, Record, prompt_hash
from cai.run import EXPORT_STAGES, TRAINING_FILES, RunFolder, damage, lines_in_order, reopen, write_atomically
from cai.tables import Table, schemas

ROWS = "revisions.jsonl"
STAGES = ("sft", "dpo")  # the files of a generate run
DEFAULTS = {"rounds_kept": "last", "split": None, "parquet": False}
Row = dict[str, Any]


class ExportSummary(Record):
    """What an export wrote."""

    folder: Path
    rows: int  # finished rows of the run
    files: dict[str, int]  # rows by name of the training file
    dropped: dict[str, int]  # lines of dropped.jsonl by reason: the run's own and the export's
    notes: tuple[str, ...]  # what the user should know
    url: str | None  # where the files were pushed to

    def lines(self) -> list[str]:
        """The summary in words, for people."""
        width = max(map(len, self.files))
        told = [
            f"{self.folder / name!s:<{len(str(self.folder)) + 1 + width}}  {n:>9,}" for name, n in self.files.items()
        ]
        if self.dropped:
            told.append(
                f"left out: {', '.join(f'{reason} {n:,}' for reason, n in self.dropped.items())} (dropped.jsonl)"
            )
        told += [f"note: {note}" for note in self.notes]
        return told if self.url is None else [*told, f"pushed to {self.url}"]


def export_run(
    folder: str | Path,
    *,
    rounds_kept: str = "last",
    split: float | None = None,
    parquet: bool = False,
    push: str | None = None,
    private: bool = True,
) -> ExportSummary:
    """Cut the training rows of a generate run anew from its stored rows; docs/run-folders.md lists their columns.

    rounds_kept: "last" gives one SFT row per prompt, the final revision; "all" one for every text that a round wrote.
    split: the share of prompts, above 0 and below 1, that trains; the others go to `*.eval.*`. push: `org/name` of a
    dataset on the Hugging Face hub, which gets the training files and the card. Files of an earlier export are
    replaced or removed. Raises RunError for a folder that is no generate run, in use or damaged, and CaiError where
    the hub refuses.
    """
    if rounds_kept not in ("last", "all"):
        raise UsageError(f"--rounds-kept {rounds_kept!r} must be last or all")
    if split is not None and not 0 < split < 1:
        raise UsageError(f"--split {split} must be above 0 and below 1: it is the share of prompts that trains")
    hub = None if push is None else Hub(push, private)
    columns = schemas() if parquet else {}
    run = reopen(Path(folder), "generate", ROWS)
    try:
        cut = _Cut(run, rounds_kept, split, columns)
        cut.write()
        facts = cut.facts
        card = dataset_card(run.info, facts, load_from=push or ".")
        write_atomically(run.path / "README.md", card.encode())
        options = {"rounds_kept": rounds_kept, "split": split, "parquet": parquet}
        if run.info.get("export", DEFAULTS) != options:  # the run, when it goes on, ends with the same cut
            run.write_info(export=options)
        url = None if hub is None else hub.push(run.path, [*facts.files, "README.md"], TRAINING_FILES)
    finally:
        run.close()
    dropped = Counter[str]()
    for (_, reason), count in sorted(facts.dropped.items()):
        dropped[reason] += count
    return ExportSummary(
        folder=run.path,
        rows=facts.rows,
        files=facts.files,
        dropped=dict(dropped),
        notes=tuple(_notes(run.info, facts, split)),
        url=url,
    )


def _notes(info: Mapping[str, Any], facts: Facts, split: float | None) -> Iterator[str]:
    if info.get("stopped") is not None:
        yield f"the run is unfinished ({info['stopped']}): run its command again to go on; these are the rows so far"
    if not facts.rows:
        yield "the run has no finished row: the training files are empty"
    elif facts.dropped["dpo", "identical"] == facts.rows:
        yield "no final text differs from its first reply: dpo.jsonl is empty"
    for kind in STAGES:
        sides = [] if split is None else [facts.files[f"{kind}{side}.jsonl"] for side in ("", ".eval")]
        if any(sides) and not all(sides):
            empty = "train" if not sides[0] else "eval"
            yield f"--split {split} leaves the {empty} side of {kind} empty: there are only {sum(sides):,} rows"


# Rows


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


class _Cut:
    """One export in progress."""

    def __init__(self, run: RunFolder, rounds_kept: str, split: float | None, columns: Mapping[str, Any]) -> None:
        self.facts = Facts()
        self.facts.options += ("--rounds-kept", "all") if rounds_kept == "all" else ()
        self.facts.options += ("--split", str(split)) if split is not None else ()
        self._run, self._rounds_kept, self._split, self._columns = run, rounds_kept, split, columns
        self._tables: dict[tuple[str, str], Table] = {}
        self._more = 0  # SFT rows beyond one a prompt

    def write(self) -> None:
        """Write every file beside the old one, and put them in place when all are whole."""
        folder = self._run.path
        try:
            for stage in STAGES:
                for side in ("",) if self._split is None else ("", ".eval"):
                    self._tables[stage, side] = Table(folder / f"{stage}{side}.jsonl", self._columns.get(stage))
            self._run.store.rewrite("dropped.jsonl", self._drops())
            for table in self._tables.values():
                self.facts.files |= dict.fromkeys(table.publish(), table.rows)
            for stale in set(TRAINING_FILES) - self.facts.files.keys():
                (folder / stale).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror or error}; then export again") from error
        finally:
            for table in self._tables.values():
                table.discard()

    def _drops(self) -> Iterator[bytes]:
        """The lines of dropped.jsonl in input order; writes the training rows on the way."""
        for _, line in heapq.merge(self._own_drops(), self._export_drops(), key=itemgetter(0)):
            yield line
        facts = self.facts
        for stage in STAGES:
            kept = sum(table.rows for (kind, _), table in self._tables.items() if kind == stage)
            kept -= self._more if stage == "sft" else 0
            dropped = sum(count for (where, _), count in facts.dropped.items() if where == stage)
            if kept + dropped != facts.rows:
                raise RunError(f"{stage}: {kept} kept and {dropped} dropped are not {facts.rows}: report this bug")
        for table in self._tables.values():
            table.finish()

    def _own_drops(self) -> Iterator[tuple[int, bytes]]:
        """What the run itself dropped; lines of an earlier export are left out."""
        path = self._run.path / "dropped.jsonl"
        for position, line in lines_in_order(path):
            try:
                drop = orjson.loads(line)
                stage, reason = drop["stage"], drop["reason"]
            except LookupError as error:
                raise damage(path) from error
            if stage not in EXPORT_STAGES:
                self.facts.dropped[stage, reason] += 1
                yield position, line

    def _export_drops(self) -> Iterator[tuple[int, bytes]]:
        """Write the training rows; what is left out of a file comes back."""
        path = self._run.path / ROWS
        for position, line in lines_in_order(path):
            try:
                row = orjson.loads(line)
                texts, chosen = sft_rows(row, self._rounds_kept), pair(row)
                side = self._side(row["prompt"])
                self._count(row)
            except (LookupError, TypeError, AttributeError) as error:
                raise damage(path) from error
            self._more += len(texts) - 1
            for text in texts:
                self._tables["sft", side].add(text)
            if chosen is not None:
                self._tables["dpo", side].add(chosen)
            else:
                detail = "the final text is the first reply"
                drop = Drop(id=row["id"], position=position, stage="dpo", reason="identical", detail=detail)
                self.facts.dropped["dpo", "identical"] += 1
                yield position, drop.model_dump_json().encode() + b"\n"

    def _side(self, prompt: list[Any]) -> str:
        """By the prompt's hash: one prompt lies on one side, in every run."""
        if self._split is None:
            return ""
        return "" if int(prompt_hash(prompt)[:8], 16) < self._split * 2**32 else ".eval"

    def _count(self, row: Row) -> None:
        facts = self.facts
        facts.rows += 1
        for done in row["rounds"]:
            facts.used[done["principle"]] += 1
            facts.changed[done["principle"]] += done["changed"]
        for role, name in row["models"].items():
            facts.models.setdefault(role, Counter())[name] += 1
