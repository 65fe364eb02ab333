"""Reads shards as one run: joins their rows and drops in the folder of the whole, in the order of the input.

What is there then is a run folder like any other, but for its calls: these stay in the shards.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from heapq import merge
from operator import itemgetter
from pathlib import Path

from cai.disk.locks import LOCK, lock_file
from cai.disk.reading import exists
from cai.errors import RunError
from cai.folder.growth import refusals
from cai.folder.info import find_info, read_info, seen_from
from cai.folder.journal.store import Store
from cai.folder.kinds import TRAINING_FILES, kind_of
from cai.folder.lines import DROPPED, PAIR_BITS, few_lines_in_order
from cai.folder.run import RunFolder
from cai.folder.shards.layout import SHARDS
from cai.folder.shards.parts import Part, folders_of, parts_of, state_of
from cai.folder.superseded import OF_EXPORTS
from cai.records import Values

LABELS = "labels"  # of a best-of run, inside its folder
HELD = 4_096  # lines of all shards together that are held in memory
TOTALS = ("ended_unknown", "secrets_hidden", "reused")


def read_run(folder: Path, advice: str) -> Values:
    """The content of a run's run.json, after its shards were joined if it has any; raises RunError like `read_info`."""
    join(folder)
    if folder.name == LABELS:
        join(folder.parent)
    return read_info(folder, advice)


def join(out: Path) -> None:
    """Join the shards of a folder, if it has any and they have changed since that was done.

    A kill leaves either what was there or what is to be: run again, it is done anew. Raises RunError, and changes
    nothing, for shards that are missing, unfinished, being played or not of one run.
    """
    if not exists(out / SHARDS):
        return
    folders = folders_of(out)
    if not folders or _is_joined(out, state_of(folders)):
        return
    parts = parts_of(out, folders)
    with open(out / SHARDS / LOCK, "ab") as file:
        lock_file(file)  # whoever comes second waits, and finds it done
        state = state_of(folders)
        if _is_joined(out, state):
            return
        labelled = {shard: folder / LABELS for shard, folder in folders.items() if exists(folder / LABELS)}
        if labelled:
            labels = {shard: folder / LABELS for shard, folder in folders.items()}
            _write(out / LABELS, parts_of(out / LABELS, labels), {"part_of": ".."})
        if state_of(folders) == state:
            _write(out, parts, {"shards": len(parts), "joined": state})
        if state_of(folders) != state:
            raise RunError(f"a shard in {out} went on in the meantime: try again once it is finished")


def _is_joined(out: Path, state: str) -> bool:
    """Whether the folder of the whole has what the shards have; RunError if it holds another run."""
    info = find_info(out)
    if info is None:
        return False
    if "shards" not in info:
        raise RunError(f"{out} holds a run without shards, and shards: move either away")
    return info.get("joined") == state and exists(out / "calls.sqlite")


def _write(out: Path, parts: Sequence[Part], more: Values) -> None:
    """Write the rows and drops of all parts into one folder, and run.json at the end."""
    identity = parts[0].info["identity"]
    before = find_info(out)
    is_another = before is not None and bool(refusals(before["identity"], identity))
    with closing(RunFolder(out, identity, force=is_another)) as run:
        run.write_info(**{**more, "joined": ""})  # whose rows they are, if a kill comes before the end
        files = {name: _merged(parts, name) for name in (run.rows_file, DROPPED)}
        try:
            run.store.rows.rewrite_all(files, partial(_copy_inputs, run.store.rows.db, parts))
        except BaseException:
            run.store.rows.db.rollback()  # closing it would commit a half
            raise
        for name in (*TRAINING_FILES, "README.md"):  # cut from rows that may be others now
            (out / name).unlink(missing_ok=True)
        run.write_info(**_summed(out, parts), **more)


def _merged(parts: Sequence[Part], name: str) -> Iterator[bytes]:
    """The lines of all parts by position."""
    each = HELD // len(parts) + 1
    lines = [_lines(part, name, each) for part in parts]
    return (line for _, line in merge(*lines, key=itemgetter(0)))


def _lines(part: Part, name: str, most: int) -> Iterator[tuple[int, bytes]]:
    bits = PAIR_BITS * kind_of(part.info["identity"]["command"]).pairs
    for position, line in few_lines_in_order(part.folder / name, most):
        if not part.shard.has(position >> bits):
            raise RunError(f"{part.folder} holds position {position}, which is not of its shard: was it renamed?")
        if name != DROPPED or not OF_EXPORTS.search(line):  # of an export of this shard alone
            yield position, line


def _copy_inputs(db: sqlite3.Connection, parts: Sequence[Part]) -> None:
    """Have the journal of the whole know what became of every input, and which has which name."""
    for table in ("inputs", "seen"):
        db.execute(f"DELETE FROM {table}")
    for part in parts:
        with closing(Store(part.folder, briefly=True)) as store:
            try:
                db.executemany("INSERT INTO inputs(position, hash, state) VALUES (?, ?, ?)", store.rows.states())
                db.executemany("INSERT INTO seen(hash, position) VALUES (?, ?)", store.rows.names())
            except sqlite3.IntegrityError:
                raise RunError(
                    f"{part.folder} has a prompt that another shard has, too: play all shards on the same source"
                ) from None


def _summed(out: Path, parts: Sequence[Part]) -> Values:
    """What run.json says of all parts together."""
    infos = [part.info for part in parts]
    first = infos[0]
    usage = Counter[str]()
    for info in infos:
        usage.update(info["usage"])
    costs = [info["cost_usd"] for info in infos]
    totals = {name: sum(info.get(name, 0) for info in infos) for name in TOTALS}
    before = sorted({count for info in infos for count in info.get("principles_before", ())})
    more: Values = {name: total for name, total in totals.items() if total}
    if before:
        more["principles_before"] = before
    for name in ("asked", "settings", "command"):
        if name in first:
            more[name] = first[name]
    if first.get("started_in"):
        more["started_in"] = seen_from(out, parts[0].folder / first["started_in"])
    return {
        "started": min(info["started"] for info in infos),
        "stopped": None,
        "usage": dict(usage),
        "cost_usd": None if None in costs else sum(costs),
        "seconds": round(sum(info["seconds"] for info in infos), 3),
        **more,
    }
