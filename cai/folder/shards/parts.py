"""The shards of a run as its parts: whether all are there, finished, and of one run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cai.disk.locks import is_in_use
from cai.disk.reading import exists
from cai.errors import RunError
from cai.folder.identity import differences
from cai.folder.info import find_info, read_info
from cai.folder.journal.rows import NOTHING
from cai.folder.journal.store import Store
from cai.folder.shards.layout import SHARDS, Shard, ranges, shards_in
from cai.records import KINDS, Values

FILES = sorted({kind.rows_file for kind in KINDS.values()})
OF_CUTS = ("export", "calibration", "labels", "best_of")  # what an export of one shard alone writes into its run.json
ADVICE = "run its command again"


@dataclass(frozen=True)
class Part:
    """A finished shard, or a run inside it."""

    shard: Shard
    folder: Path
    info: Values  # its run.json


def folders_of(out: Path) -> dict[Shard, Path]:
    """The folders of the shards of a run, in order; RunError if some are missing, or they are not of one number."""
    shards = shards_in(out)
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        numbers = " and of ".join(map(str, counts))
        raise RunError(f"{out} holds shards of {numbers}: move those away that are not of this run")
    for count in counts:
        there = {shard.number for shard in shards}
        missing = [number for number in range(count) if number not in there]
        if missing:
            raise RunError(
                f"{_named(missing, count)} missing in {out / SHARDS}: play them with --shard i/{count}, or put their "
                "folders there"
            )
    return {shard: shard.folder(out) for shard in shards}


def _named(numbers: Sequence[int], count: int) -> str:
    """Some shards as the subject of a sentence."""
    if len(numbers) == 1:
        return f"shard {numbers[0]} of {count} is"
    return f"shards {ranges(numbers)} of {count} are"


def state_of(folders: dict[Shard, Path]) -> str:
    """What changes if a shard goes on: run.json says so when it begins and when it ends."""
    digest = hashlib.blake2b(digest_size=16)
    for shard, folder in folders.items():
        for path in (folder, folder / "labels"):
            info = {name: value for name, value in (_any_info(path) or {}).items() if name not in OF_CUTS}
            sizes = [(path / name).stat().st_size for name in FILES if exists(path / name)]
            digest.update(repr((shard.number, info, sizes)).encode())
    return digest.hexdigest()


def _any_info(folder: Path) -> Values | None:
    """The run.json of a folder; None if there is none, or it cannot be read, which whoever needs it says."""
    try:
        return find_info(folder)
    except RunError:
        return None


def parts_of(out: Path, folders: dict[Shard, Path]) -> list[Part]:
    """The parts in some folders; RunError if one is not finished, is being played, or is not of the others' run."""
    count = len(folders)
    busy = [shard.number for shard, folder in folders.items() if is_in_use(folder)]
    if busy:
        raise RunError(f"{_named(busy, count)} being played in {out}: wait for that")
    open_ones = [shard.number for shard, folder in folders.items() if not _is_finished(folder)]
    if open_ones:
        raise RunError(
            f"{_named(open_ones, count)} not finished in {out}: run the same command again with --shard i/{count}; "
            f"what one has so far is cut by cai export {folders[Shard(open_ones[0], count)]}"
        )
    parts = [Part(shard, folder, read_info(folder, ADVICE)) for shard, folder in folders.items()]
    for part in parts[1:]:
        _check_same(out, parts[0], part)
    return parts


def _is_finished(folder: Path) -> bool:
    """Whether a run has come to its end, and left one line of each input in its files."""
    info = find_info(folder)
    if info is None or info["stopped"] is not None or not exists(folder / "calls.sqlite"):
        return False
    with closing(Store(folder, briefly=True)) as store:
        return store.rows.repeats == NOTHING


def _check_same(out: Path, first: Part, part: Part) -> None:
    """Raise RunError if two shards are not of one run, or not played with one --limit and one version of cai."""
    names = (f"in shard {first.shard.number}", f"in shard {part.shard.number}")
    texts = differences(first.info["identity"], part.info["identity"], names=names)
    limits = [each.info["settings"].get("limit") for each in (first, part)]
    if limits[0] != limits[1]:
        texts += differences({"limit": limits[0]}, {"limit": limits[1]}, names=names)
    versions = [{"cai": each.info["versions"]["cai"]} for each in (first, part)]
    if versions[0] != versions[1]:
        texts += differences(versions[0], versions[1], names=names)
    if texts:
        advice = "play both with the same command, source and version of cai; what is finished is not asked again"
        raise RunError(f"the shards in {out} are not of one run: {'; '.join(texts)}; {advice}")
