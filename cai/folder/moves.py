"""Where the inputs of a folder are in a source that has changed since: what comes before others moves them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, starmap
from pathlib import Path
from typing import Any

import orjson

from cai.errors import RunError
from cai.folder.journal.inputs import digest_of, names_of
from cai.folder.journal.rows import Rows
from cai.folder.kinds import EXPORT_STAGES
from cai.folder.lines import DROPPED, PAIR_BITS, position_of, reading
from cai.folder.lookup import last_line_at
from cai.records import BadPrompt, Kind, Place
from cai.texts.wording import counted

POSITION = re.compile(rb'"position": ?\d+')  # the first one of a line is its own: quotes in texts are escaped
# there: the inputs that were played, with their place in the source now and the id that a row has there. named: where
# inputs were to which the source gave an id. taken: the contents and ids of the source so far, where it has them first.
# block: the items that are being looked up. prompts: the conversations of the source, if pairs may be replaced.
# The state of an input that came before is 105 in a journal of 0.1.0.
TABLES = """
DROP TABLE IF EXISTS temp.there;
DROP TABLE IF EXISTS temp.named;
DROP TABLE IF EXISTS temp.taken;
DROP TABLE IF EXISTS temp.block;
DROP TABLE IF EXISTS temp.prompts;
CREATE TEMP TABLE there(
    position INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, state NOT NULL, now INTEGER, id TEXT);
INSERT OR IGNORE INTO there(position, hash, state)
    SELECT * FROM inputs WHERE hash <> x'' AND state NOT IN ('duplicate_prompt', 105);
CREATE TEMP TABLE named(position INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO named SELECT position FROM seen WHERE hash >= x'69' AND hash < x'6a';
CREATE TEMP TABLE taken(name BLOB PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE block(position INTEGER NOT NULL, hash BLOB NOT NULL, content BLOB NOT NULL, name BLOB, id TEXT);
CREATE TEMP TABLE prompts(hash BLOB PRIMARY KEY) WITHOUT ROWID;
"""
BLOCK = 1_000  # items of the source that are looked up at once, in `block`: one by one takes ten times as long
# Each takes its content, if nothing before had it, and then its id.
TAKE = (
    "INSERT OR IGNORE INTO taken SELECT content, position FROM block ORDER BY rowid",
    "DELETE FROM block WHERE position <> (SELECT position FROM taken WHERE name = content)",
    "INSERT OR IGNORE INTO taken SELECT name, position FROM block WHERE name IS NOT NULL ORDER BY rowid",
)
# What of them is in the folder: where it is now, the id of its row, and where it was; the id that the source gives it,
# under which name; whether it had one of the source, and where the folder has that name.
FOUND = """
SELECT block.position, CASE WHEN taken.position <> block.position THEN lower(hex(block.hash)) ELSE block.id END,
    there.position, block.id, block.name, named.position IS NOT NULL, seen.position
FROM block CROSS JOIN there ON there.hash = block.hash
LEFT JOIN taken ON taken.name = block.name
LEFT JOIN named ON named.position = there.position
LEFT JOIN seen ON seen.hash = block.name
ORDER BY block.rowid
"""


class Moves:
    """The inputs of a folder, compared with its source as it is now; changes nothing before `apply`.

    keeps_missing: an input that is not in the source any more is no error. besides: says by its position whether an
    input never was in the source; keeps_besides: such inputs stay if nothing else has moved. replaces: a pair that is
    not in the source any more, while another pair of its prompt is, has been replaced, and is taken out. belongs: says
    of a position whether its input is for this folder, and not for that of another shard. Read `look` to its end first.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        rows: Rows,
        *,
        keeps_missing: bool = False,
        besides: Callable[[int], bool] = lambda position: False,
        keeps_besides: bool = False,
        replaces: bool = False,
        belongs: Callable[[int], bool] = lambda position: True,
    ) -> None:
        self._folder, self._kind, self._rows = folder, kind, rows
        self._keeps_missing, self._besides, self._keeps_besides = keeps_missing, besides, keeps_besides
        self._replaces, self._belongs = replaces, belongs
        self._db, self._guard = rows.db, rows.guard
        self._count = 0  # items of the source that can be played, as far as it was read
        self._renamed: tuple[int, str] | None = None  # where an input was whose id is another now, and that id

    def look(self, places: Iterable[Place]) -> Iterator[None]:
        """Look every input up among the items of the source, with a step for each thousand at most.

        Reads no further than it must: the next item may be long in coming.
        """
        with self._guard:
            self._db.executescript(TABLES)
        wanted = self._number("SELECT COUNT(*) FROM there")
        items = (place for place in places if not isinstance(place[1], BadPrompt))
        while wanted:
            block = list(islice(items, min(wanted, BLOCK)))  # so many are to come, if none is missing
            if not block:
                return
            self._count += len(block)
            wanted -= self._see(block)
            yield

    def _number(self, query: str) -> int:
        with self._guard:
            return int(self._db.execute(query).fetchone()[0])

    def _see(self, block: Sequence[Place]) -> int:
        """Look some items up; returns how many are inputs of the folder."""
        with self._guard:
            self._db.executemany("INSERT INTO block VALUES (?, ?, ?, ?, ?)", starmap(_entry, block))
            if self._replaces:
                self._db.executemany("INSERT OR IGNORE INTO prompts VALUES (?)", starmap(_prompt, block))
            for query in TAKE:
                self._db.execute(query)
            found = self._db.execute(FOUND).fetchall()
            self._db.executemany("UPDATE there SET now = ?, id = ? WHERE position = ?", (each[:3] for each in found))
            self._db.execute("DELETE FROM block")
        for position, id_now, before, row_id, name, had_id, owner in found:
            is_elsewhere = self._kind.pairs and _place_within(before) != _place_within(position)
            if not had_id and id_now != row_id:  # another one has it, which may be in another shard
                continue
            if self._renamed is None and not is_elsewhere and _is_renamed(before, name, had_id, owner):
                self._renamed = before, row_id
        return len(found)

    # What follows from it

    def check(self) -> None:
        """Raise RunError if an input is missing in the source, has another id there, or falls into another shard."""
        unit = "pair" if self._kind.pairs else "prompt"
        if self._renamed is not None:
            position, row_id = self._renamed
            raise RunError(
                f"{self._folder} holds {unit} {self._name_of(position)}, whose id is {row_id!r} in the source now: it "
                "decides what is asked, so give the old one back, or name another --out"
            )
        stray = self._stray()
        if stray is not None:
            raise RunError(
                f"{self._folder} holds {unit} {self._name_of(stray)}, which now falls into another shard: add what is "
                "new at the end of the source, or name --out NEW with --reuse OUT, which asks nothing twice"
            )
        missing = self._missing()
        if self._keeps_missing or not missing:
            return
        there = self._number("SELECT COUNT(*) FROM inputs WHERE hash <> x''")
        first = self._name_of(missing[0])
        others = "" if len(missing) == 1 else f", and {counted(len(missing) - 1, 'other')}"
        raise RunError(
            f"{self._folder} holds a {unit} that is not in the source any more: {first}{others} "
            f"({counted(self._count, unit)} now, {there:,} there). Put it back, or name --out NEW with "
            f"--reuse {self._folder}, which asks nothing twice"
        )

    def is_whole(self) -> bool:
        """Whether every input is in the source, under its id."""
        is_kept = self._renamed is None and self._stray() is None
        return is_kept and (self._keeps_missing or not self._missing())

    def shared(self) -> int:
        """How many inputs of the folder are in the source."""
        return self._number("SELECT COUNT(*) FROM there WHERE now IS NOT NULL")

    def _are_in_place(self) -> bool:
        """Whether no line need be written anew."""
        if self._number("SELECT COUNT(*) FROM there WHERE now <> position"):
            return False
        if self._keeps_missing or self.shared() == self._number("SELECT COUNT(*) FROM inputs"):
            return True
        return self._keeps_besides and any(map(self._besides, self._unseen())) and not self._missing()

    def _stray(self) -> int | None:
        """Where an input was that is another shard's to play now."""
        with self._guard:
            moved = self._db.execute("SELECT position, now FROM there WHERE now <> position ORDER BY position")
            return next((int(before) for before, now in moved if not self._belongs(now)), None)

    def _missing(self) -> list[int]:
        """The positions of inputs that are not in the source, but should be."""
        missing = [position for position in self._unseen() if not self._besides(position)]
        if missing and self._replaces:
            replaced = set(self._replaced(set(missing)))
            missing = [position for position in missing if position not in replaced]
        return missing

    def _replaced(self, positions: set[int]) -> Iterator[int]:
        """Which of the inputs at these positions have a prompt that is in the source."""
        for name in (self._kind.rows_file, DROPPED):
            path = self._folder / name
            with reading(path), open(path, "rb") as file:
                for line in file:
                    if line.endswith(b"\n") and position_of(line, name) in positions:
                        row = orjson.loads(line)
                        if row["prompt"] is not None and self._has_prompt(digest_of(None, row["prompt"])):
                            yield row["position"]

    def _has_prompt(self, digest: bytes) -> bool:
        with self._guard:
            return self._db.execute("SELECT 1 FROM prompts WHERE hash = ?", (digest,)).fetchone() is not None

    def _unseen(self) -> list[int]:
        """The positions of inputs that are not in the source now, but for pairs of equal replies."""
        with self._guard:
            query = "SELECT position FROM there WHERE now IS NULL AND state <> 'identical' ORDER BY position"
            return [int(position) for (position,) in self._db.execute(query)]

    def _name_of(self, position: int) -> str:
        """How people know an input: by the id that it was given, or by how it begins."""
        for name in (self._kind.rows_file, DROPPED):
            _, line = last_line_at(self._folder / name, position)
            if line is not None:
                row = orjson.loads(line)
                is_hash = row["id"] == digest_of(row.get("key"), row["prompt"]).hex()
                return repr(row["prompt"][-1]["content"][:40] if is_hash else row["id"])
        return f"number {position + 1}"

    def apply(self) -> None:
        """Give every line and input its place in the source; what would have another id is left to be played again."""
        if self._are_in_place():
            with self._guard:  # an unfinished input may be another one now
                self._db.execute("DELETE FROM seen WHERE position NOT IN (SELECT position FROM inputs)")
            return
        files = {name: self._moved(name) for name in (self._kind.rows_file, DROPPED)}
        self._rows.rewrite_all(files, self._change)

    def _moved(self, name: str) -> Iterator[bytes]:
        """The lines of a file at their places now."""
        path = self._folder / name
        with reading(path), open(path, "rb") as file:
            for line in file:
                row = orjson.loads(line)
                if row.get("stage") == "source" or row.get("stage") in EXPORT_STAGES:
                    continue  # made again
                now = self._place_of(position_of(line, name), row["id"])
                if now is not None:
                    yield POSITION.sub(b'"position":%d' % now, line, count=1)

    def _place_of(self, position: int, row_id: str) -> int | None:
        """Where the row of an input comes now; None if it is to be made again."""
        with self._guard:
            query = "SELECT now, id FROM there WHERE position = ? AND now IS NOT NULL"
            entry = self._db.execute(query, (position,)).fetchone()
            if entry is None:
                return None
            now, new_id = entry
            is_elsewhere = self._kind.pairs and _place_within(now) != _place_within(position)
            if new_id == row_id and not is_elsewhere:
                return int(now)
            self._db.execute("UPDATE there SET now = NULL WHERE position = ?", (position,))
        return None

    def _change(self) -> None:
        self._db.execute("DELETE FROM inputs")
        self._db.execute("INSERT INTO inputs SELECT now, hash, state FROM there WHERE now IS NOT NULL")
        self._db.execute("DELETE FROM seen")
        here = "SELECT now FROM there WHERE now IS NOT NULL"
        self._db.execute(f"INSERT INTO seen SELECT name, position FROM taken WHERE position IN ({here})")


def _place_within(position: int) -> int:
    """The number of a pair among those of its prompt."""
    return position & ((1 << PAIR_BITS) - 1)


def _entry(position: int, item: Any) -> tuple[int, bytes, bytes, bytes | None, str]:
    """An item of the source as a row of `block`."""
    digest = digest_of(item.key, item.messages)
    content, *names = names_of(digest, item.id)
    return position, digest, content, names[0] if names else None, item.id


def _prompt(position: int, item: Any) -> tuple[bytes]:
    """An item of the source as a row of `prompts`."""
    return (digest_of(None, item.messages),)


def _is_renamed(before: int, name: bytes | None, had_id: bool, owner: int | None) -> bool:
    """Whether an input that was at a position has another id now; no if two share one, so that a hash stands in.

    name: of the id that the source gives it now. owner: where the folder has that.
    """
    if name is None:
        return had_id
    return owner != before if had_id else owner is None
