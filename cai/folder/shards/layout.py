"""Which inputs a shard plays, and where its folder is: `OUT/shards/00003-of-00064` for `--shard 3/64 --out OUT`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cai.disk.reading import exists
from cai.errors import RunError, UsageError
from cai.folder.info import find_info

SHARDS = "shards"  # the folder inside a run's own
MOST = 99_999
WRITTEN = re.compile(r"(\d{1,9})/(\d{1,9})")
NAMED = re.compile(r"(\d{5})-of-(\d{5})")


@dataclass(frozen=True, order=True, slots=True)
class Shard:
    """One of `count` shards: it plays the places p of the whole source with p % count == number."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, place: int) -> bool:
        """Whether it plays the prompt or record at a place of the source."""
        return place % self.count == self.number

    def size(self, total: int) -> int:
        """How many places it plays of a source that has `total`."""
        return len(range(self.number, total, self.count))

    def folder(self, out: Path) -> Path:
        """Its own folder inside that of the whole run."""
        return out / SHARDS / f"{self.number:05}-of-{self.count:05}"


def shard_of(text: str) -> Shard:
    """The shard that is written as i/n; raises UsageError for anything else."""
    found = WRITTEN.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--shard {text!r} is not a shard: write i/n, such as 3/64, with i from 0 to n-1")
    shard = Shard(*map(int, found.groups()))
    if not 1 <= shard.count <= MOST:
        raise UsageError(f"--shard {text}: there may be 1 to {MOST:,} shards, so write i/n with such an n")
    if shard.number >= shard.count:
        raise UsageError(f"--shard {text}: {shard.count} shards are numbered from 0 to {shard.count - 1}")
    return shard


def shards_in(out: Path) -> list[Shard]:
    """The shards that have a folder inside that of a whole run, in order; none if that is no such folder."""
    if not exists(out / SHARDS):
        return []
    found = filter(None, (NAMED.fullmatch(path.name) for path in (out / SHARDS).iterdir()))
    return sorted(Shard(*map(int, match.groups())) for match in found)


def check_place(out: Path, shard: Shard | None) -> None:
    """Raise RunError if a folder holds shards and the run is none of them, or the other way round."""
    counts = sorted({each.count for each in shards_in(out)})
    others = [count for count in counts if shard is None or count != shard.count]
    if others and shard is None:
        raise RunError(
            f"{out} holds shards of {others[0]}: add --shard i/{others[0]}, or --workers {others[0]} to play them all, "
            f"cut what they have with cai export {out}, or name another --out"
        )
    if others:
        raise RunError(
            f"{out} holds shards of {others[0]}, and --shard {shard} would play some of its prompts again: use "
            f"--shard i/{others[0]}, or name --out NEW with --reuse {out}, which asks nothing twice"
        )
    if shard is None or counts:
        return
    if find_info(out) is not None:
        raise RunError(f"{out} holds a run without shards: leave out --shard {shard}, or name another --out")


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in order for people, such as 3, 7-9."""
    parts = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)
