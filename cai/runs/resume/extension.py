"""Which folder a command without --out goes on with, and what it adds to a folder."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from cai.errors import CaiError, RunError
from cai.folder.growth import HASH, growth, is_same_source, lasting, refusal, refusals
from cai.folder.identity import identity_hash
from cai.folder.info import find_info
from cai.folder.journal.store import Store
from cai.folder.kinds import kind_of
from cai.folder.moves import Moves
from cai.records import Object, Values
from cai.texts.wording import counted, plural

log = logging.getLogger("cai")
RUNS = Path("runs")
JOURNAL = "calls.sqlite"
NAMED = (HASH, "'run'")  # stands in what an identity says of a source that its hash tells from any other


def folder_of(run: Any, name: str) -> Path:
    """The folder of a run that names none: the one that it extends, else a new one.

    It extends a run of the same identity, but for what may grow, whose rows are all in its source. Of several it is the
    one to which it adds least.
    """
    new = RUNS / f"{name}-{identity_hash(run.identity)}"
    if run.settings.force:
        return new
    found = []
    for path in sorted(RUNS.glob(f"{escape(name)}-*")):
        info = _info_of(path)
        if info is not None and _is_part(path, info, run):
            there = info["identity"]  # of which less than that is refused, if nothing else can be extended
            found.append((len(refusals(there, run.identity)), len(growth(there, run.identity)), -_inputs(info), path))
    if found:
        return min(found)[-1]
    if any(word in str(run.identity.get("source")) for word in NAMED):
        return new
    names = itertools.chain([new.name], (f"{new.name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(new.with_name, names) if not path.exists())


def _info_of(path: Path) -> Values | None:
    """The run.json of a folder; None if there is none that can be read."""
    with suppress(CaiError):
        return find_info(path)
    return None


def _inputs(info: Object) -> int:
    """How many inputs a run is through with."""
    counts: list[int] = [info.get("rows", 0), *info.get("dropped", {}).values()]
    return sum(counts)


def _is_part(path: Path, info: Object, run: Any) -> bool:
    """Whether a run goes on with what is in a folder; if it only has some of the prompts, notes the one with most."""
    there = info["identity"]
    if "shards" in info:
        return False
    if lasting(there) != lasting(run.identity):
        return False
    if is_same_source(there, run.identity):
        return True
    try:
        with closing(Store(path, briefly=True)) as store:
            if store.rows.is_new():
                return False  # it says nothing of its source
            moves = _compared(path, store, there, run)
            run.similar = max(run.similar, (moves.shared(), path), key=lambda each: each[0])
            return moves.is_whole()
    except RunError as error:
        log.warning("%s cannot be looked at, whether this run goes on there: %s", path, error)
    except CaiError:
        log.debug("%s is not compared: the source cannot be read, which the run says", path)
    return False


def _compared(path: Path, store: Store, there: Object, run: Any) -> Moves:
    """What is in a folder, compared with the source of a run."""
    besides = partial(run.is_besides, there=there)
    more = {"besides": besides, "replaces": run.replaces, "belongs": run.is_own}
    moves = Moves(path, kind_of(run.command), store.rows, **more)
    deque(moves.look(run.everything()), maxlen=0)
    return moves


def refused(run: Any) -> str | None:
    """Why the folder of a run refuses it; None if it does not, or is started over."""
    info = None if run.settings.force else _info_of(run.out)
    if info is None:
        return None
    there = info["identity"]
    problem = refusal(run.out, there, run.identity)
    if problem or run.keeps_missing or is_same_source(there, run.identity) or not (run.out / JOURNAL).exists():
        return problem
    try:
        with closing(Store(run.out, briefly=True)) as store:
            _compared(run.out, store, there, run).check()
    except CaiError as error:
        return str(error)
    return None


def advice(run: Any) -> str | None:
    """Where answers are that a new folder lacks; None if there are none."""
    count, path = run.similar
    if not count or run.out.exists() or path in run.settings.reused:
        return None
    return f"{path} has {count:,} of these {plural(run.unit)}: --reuse {path} asks nothing about them twice"


def additions(run: Any) -> Iterator[str]:
    """What a run adds to its folder, for people to read; nothing if that is new, or started over."""
    info = _info_of(run.out)
    if info is None or not run.is_resumed():
        return
    yield from map(str, growth(info["identity"], run.identity))
    before, now = info.get("settings", {}).get("limit"), run.settings.limit
    if before != now:
        yield f"limit {before or 'none'} → {now or 'none'}"
    inputs = _inputs(info)
    if inputs and info["identity"].get("source") != run.identity.get("source"):
        yield f"{counted(inputs, run.unit)} there" + ("" if run.total is None else f", {run.total:,} now")
