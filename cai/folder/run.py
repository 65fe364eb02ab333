"""A run folder: one run's rows, calls and settings; which run it is of, and what of its input is finished."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from cai.disk.locks import LOCK, lock_folder, missing_folders, unmake
from cai.disk.reading import check_files
from cai.disk.writing import write_atomically
from cai.errors import RunError
from cai.folder.growth import OF_REPLIES, Growth, growth, is_same_source, refusal
from cai.folder.info import ANEW, FORMAT, find_info
from cai.folder.journal.durability import BESIDE as BESIDE_JOURNAL
from cai.folder.journal.inputs import DONE, GROWS, RETRIED, digest_of, names_of
from cai.folder.journal.rows import DROPS, NOTHING, ROWS
from cai.folder.journal.store import Store
from cai.folder.kinds import TRAINING_FILES, kind_of
from cai.folder.lines import DROPPED, PAIR_BITS, lines_in_order, position_of, read_drops, reading
from cai.folder.moves import Moves
from cai.folder.recovery import recover
from cai.folder.superseded import forget_drops, forget_superseded
from cai.packages import package_version
from cai.records import DROP_REASONS, BadPrompt, Drop, DropReason, Item, Playable, Prompt, Record, Values

LENGTHENING = {"--rounds", "-n", "--principles"}  # what makes a finished row longer
OWN = ("run.json", "calls.sqlite", "calls.sqlite-shm", LOCK, *BESIDE_JOURNAL)
BESIDE = (".lock", "gold", "gold.jsonl", "calibration.json", "labels", "shards")  # may be there before a run

log = logging.getLogger("cai")


class RunFolder:
    """An open run folder; holds its lock until `close`.

    identity: what decides which rows come out; its `command` is the kind of run. force: start anew if the folder holds
    another run; its finished calls stay, so that no question is paid twice. retried: the reasons of the drops that are
    tried again. growth: the settings that were raised since the last session.
    Raises RunError if the folder is in use, holds another run, or cannot be written.
    """

    def __init__(self, path: Path, identity: Values, *, force: bool = False, retried: Sequence[str] = RETRIED) -> None:
        self.path = path
        self.identity = identity
        self.retried = retried
        self._kind = kind_of(identity["command"])
        self.rows_file = self._kind.rows_file
        self.growth: list[Growth] = []
        self._renamed = False  # whether a row was named by its content, as its id was taken
        self._repeats = NOTHING  # what of it has a line in one of the files, and is played again
        self._made = missing_folders(path)
        check_files(path, (*OWN, self.rows_file, DROPPED))
        self._lock = lock_folder(path, lambda: self._start_is_anew(force))
        with ExitStack() as opened:  # closed again if the folder is refused or cannot be read
            opened.callback(self._lock.close)
            anew = self._start_is_anew(force)  # it may have changed before the lock was taken
            self.store = Store(path)
            opened.callback(self.store.close)
            if anew:
                self.store.rows.forget()
                for name in (self.rows_file, DROPPED):
                    self.store.rows.rewrite(name, [])
                self.store.rows.expect_repeats(NOTHING)
                for name in (*TRAINING_FILES, "README.md", ".texts", "faults.sqlite"):  # cut from rows that are gone
                    (self.path / name).unlink(missing_ok=True)
                self.info = Values()
            else:
                recover(path, self.rows_file, self.store, self.info.get("identity", identity))
            opened.pop_all()

    def _start_is_anew(self, force: bool) -> bool:
        """Whether to start anew, from run.json; RunError for what may only be done with `force`."""
        try:
            info = find_info(self.path, ANEW)
        except RunError:
            if not force:
                raise
            info = {"identity": {}}  # cannot be read, so it is not the run that is asked for
        self.info = info or {}
        if info is None:
            return self._has_nameless_rows(force)
        problem = refusal(self.path, info["identity"], self.identity)
        if problem and not force:
            raise RunError(problem)
        if not force:
            self.growth = growth(info["identity"], self.identity)
        return force

    def _has_nameless_rows(self, force: bool) -> bool:
        """Whether a folder without run.json holds rows, which may be any run's."""
        inside = {item.name: item.stat().st_size for item in self.path.iterdir() if item.name not in BESIDE}
        if inside.get(self.rows_file) or inside.get(DROPPED):
            if not force:
                raise RunError(
                    f"{self.path} has rows but no run.json: restore it, name another --out, or --force to start anew"
                )
            return True
        if inside and "calls.sqlite" not in inside:
            raise RunError(
                f"{self.path} holds other files ({', '.join(sorted(inside)[:3])}) and no run; name a new folder"
            )
        return False

    # What has grown

    def has_source(self) -> bool:
        """Whether what the folder has of its source is where it was, which shows before it is read."""
        there = self.info.get("identity")
        return there is None or self.store.rows.is_new() or is_same_source(there, self.identity)

    def moves(self, **more: Any) -> Moves:
        """Compares the folder with its source as it is now; more: the keywords of `Moves`."""
        return Moves(self.path, self._kind, self.store.rows, **more)

    def grow(self) -> None:
        """Have the rows played again to which there is more since a setting was raised."""
        names = {each.option for each in self.growth}
        for each in self.growth:
            if each.option == "--principles":  # a question is numbered by how many there are
                self.info["principles_before"] = sorted({*self.info.get("principles_before", []), each.there})
        if "-n" in names:  # one of the new replies may be of use
            forget_drops(self.path, self.store.rows, OF_REPLIES)
        if names & LENGTHENING:
            self.store.rows.let_grow()
        elif "--max-tokens" in names:
            self.store.rows.let_grow(self._cut_rows())

    def _cut_rows(self) -> list[int]:
        """The positions of rows with an answer that was cut."""
        cut = self.store.cut_calls()
        path = self.path / self.rows_file
        positions = []
        if cut:
            with reading(path):
                for position, line in lines_in_order(path):
                    if not cut.isdisjoint(orjson.loads(line)["calls"]):
                        positions.append(position)
        return positions

    def is_finished(self, position: int) -> bool:
        """Whether the row at a position is finished, and not one that is still to grow."""
        entry = self.store.rows.state(position)
        return entry is not None and entry[1] == DONE

    def first_rows(self, most: int) -> list[Any]:
        """The first finished rows of an earlier session in the order of the file, without those that are to grow."""
        path = self.path / self.rows_file
        with reading(path), path.open("rb") as file:
            finished = (line for line in file if self.is_finished(position_of(line, path.name)))
            return list(map(self._kind.row.model_validate_json, islice(finished, most)))

    # Items

    def _state(self, position: int, digest: bytes, name: str) -> str | None:
        """The state of what was read at a position; RunError if that was something else."""
        entry = self.store.rows.state(position)
        if entry is None:
            return None
        if entry[0] != digest:
            raise RunError(
                f"the input changed: {self.number(position)} ({name}) is not the one that {self.path} has there; "
                "name another --out"
            )
        return entry[1]

    def pending(self, item: Item, position: int) -> Drop | bool:
        """Whether what the input has at a position is still to be played; a Drop if it cannot be, or occurred before.

        Raises RunError if an earlier session read something else at this position.
        """
        if isinstance(item, BadPrompt):
            if self._state(position, b"", "now no prompt") is not None:
                return False
            detail = item.problem
            return Drop(id=None, position=position, stage="source", reason=item.reason, detail=detail, line=item.line)
        digest = digest_of(item.key, item.messages)
        state = self._state(position, digest, repr(item.id))
        if state is not None:
            if state not in (*self.retried, GROWS):
                return False
            self._expect_repeats(ROWS if state == GROWS else DROPS)
            return True
        first = self.store.rows.first_position(names_of(digest, item.id)[0], position)
        if first == position:
            return True
        content = "conversation" if isinstance(item, Prompt) else "conversation and the replies"
        problem = f"has the {content} of {self.number(first)} of the input"
        return self.dropped(item, position, "source", "duplicate_prompt", problem)

    def _expect_repeats(self, what: int) -> None:
        if what > self._repeats:
            self._repeats = what
            self.store.rows.expect_repeats(what)

    def named(self, item: Playable, position: int) -> Playable:
        """The item as its row is named: by the hash of its content, if another has the id that the input gives it."""
        digest = digest_of(item.key, item.messages)
        if item.id == digest.hex() and not self._repeats:  # `pending` has looked
            return item
        first = self.store.rows.first_position(names_of(digest, item.id)[-1], position)
        if first == position:
            return item
        if not self._renamed:
            log.warning(
                "%s has the id of %s, %r: rows whose id another has are named by a hash of their content",
                self.number(position).removesuffix(","), self.number(first).removesuffix(","), item.id,
            )  # fmt: skip
            self._renamed = True
        if isinstance(item, Prompt):
            return item.model_copy(update={"id": digest.hex()})
        return replace(item, id=digest.hex())

    def has_failed(self, position: int) -> bool:
        """Whether an earlier session dropped what is at a position for a reason that may have passed."""
        entry = self.store.rows.state(position)
        return entry is not None and entry[1] in self.retried

    def number(self, position: int) -> str:
        """A position for people: prompts count from 1, and the pairs of a prompt from 1."""
        if not self._kind.pairs:
            return f"number {position + 1}"
        prompt, pair = divmod(position, 1 << PAIR_BITS)
        return f"number {prompt + 1}, pair {pair + 1},"

    @staticmethod
    def dropped(
        item: Playable, position: int, stage: str, reason: DropReason, detail: str, calls: tuple[str, ...] = ()
    ) -> Drop:
        """The record of an input that does not become a row."""
        return Drop(
            id=item.id,
            position=position,
            stage=stage,
            reason=reason,
            detail=detail,
            key=item.key,
            prompt=item.messages,
            calls=calls,
        )

    async def keep(self, row: Record, position: int, item: Playable) -> None:
        """Write a finished row; returns when it is on disk."""
        await self._write(self.rows_file, row, position, digest_of(item.key, item.messages), DONE)

    async def drop(self, drop: Drop) -> None:
        """Write a dropped row; returns when it is on disk."""
        await self._write(DROPPED, drop, drop.position, digest_of(drop.key, drop.prompt), drop.reason)

    async def _write(self, name: str, row: Record, position: int, digest: bytes, state: str) -> None:
        self.store.rows.append(name, row.model_dump_json().encode() + b"\n", position, digest, state)
        await self.store.committed()

    def counts(self) -> Values:
        """`rows` finished, and `dropped` by reason; together they are all inputs that are settled."""
        counts = self.store.rows.count()
        rows = counts.pop(DONE, 0)
        return {"rows": rows, "dropped": {name: counts[name] for name in (*DROP_REASONS, *counts) if name in counts}}

    def write_info(self, **more: Any) -> Values:
        """Write run.json at once: identity, versions, counts, and what else the job knows."""
        self.store.flush()  # counts are of what is on disk
        versions = {"cai": package_version("cai-toolkit"), "python": platform.python_version()}
        present = {"format": FORMAT, "identity": self.identity, "versions": versions}
        self.info = {**present, "started": int(time.time()), **self.info, **present, **self.counts(), **more}
        write_atomically(self.path / "run.json", orjson.dumps(self.info, option=orjson.OPT_INDENT_2) + b"\n")
        return self.info

    def settle(self) -> None:
        """Leave one line of what was played again in the files, before they are read or closed."""
        if self._repeats:
            self._repeats = NOTHING
            self.store.flush()
            forget_superseded(self.path, self.rows_file, self.store.rows)

    def close(self) -> None:
        """Commit, and let the folder go; safe to call twice."""
        with closing(self._lock), closing(self.store):
            self.settle()

    def unmake(self) -> None:
        """Close, and leave no new folder behind in which nothing was asked."""
        is_empty = self.store.is_empty() and DONE not in self.store.rows.count()
        self.close()
        if is_empty and self._made and all(map(_is_unasked, read_drops(self.path))):
            unmake(self._made, (*OWN, self.rows_file, DROPPED))


def _is_unasked(drop: Drop) -> bool:
    """Whether something was dropped before a model was asked: records of no use, and pairs of equal replies."""
    return drop.stage == "source" or drop.reason == "identical"
