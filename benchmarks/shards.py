"""What it takes to play a run in shards, and to read them as one: beside the same run without shards.

    python benchmarks/shards.py [--rows 100000] [--shards 8]
    python benchmarks/shards.py --rows 1000000 --shards 4 --alone    # 15 minutes, and 10 GB of disk

Plays a generate run of one round with a model object in the process, whole and in shards, each in a process of its own,
and exports both: the rows must be equal to the byte. The baseline of the join is what a script would do: merge the
files of rows by position, without a journal. CPU is counted, of all threads, since others may use the machine. Then
the journal as it is written on network file systems, beside that of a local disk. With --alone only the shards are
played, two at a time, opened once more, joined and exported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from _common import child, conditions, cpu_seconds, table
from memory import WIDTH, InProcess, peak
from reopen import write_prompts

ROWS = "revisions.jsonl"
EXPORTS = ("sft.jsonl", "dpo.jsonl", "dropped.jsonl")


def measured(act: Callable[[], object]) -> dict[str, Any]:
    """CPU, seconds and peak memory of an act in this process."""
    begun, cpu = time.perf_counter(), cpu_seconds()
    act()
    return {"cpu": cpu_seconds() - cpu, "seconds": time.perf_counter() - begun, "peak": peak()}


def play(prompts: Path, folder: Path, shard: str | None) -> None:
    """Play a run, or one of its shards, to its end; training rows are cut by the export."""
    from cai.runs.kinds.generate import GenerateRun, GenerateSettings

    model = InProcess()
    spec = f"{model.provider}:{model.name}"
    settings = {"constitution": "harmless", "rounds": 1, "gate": False, "concurrency": WIDTH, "shard": shard}
    run = GenerateRun(prompts, GenerateSettings(model=spec, out=folder, **settings))
    for player in run.players:
        run.players[player] = model
    run.models = [model]
    run.cuts = False
    run.finish()


def export(folder: Path) -> None:
    from cai.export.export import export_run

    export_run(folder)


def join(folder: Path) -> None:
    from cai.folder.shards.join import join

    join(folder)


def by_hand(folder: Path) -> None:
    """Merge the rows of all shards by their positions."""
    places = []
    files = [open(path, "rb") for path in sorted(folder.glob(f"shards/*/{ROWS}"))]  # noqa: SIM115
    for number, file in enumerate(files):
        start = 0
        for line in file:
            places.append((json.loads(line)["position"], number, start))
            start += len(line)
    with open(folder / "by-hand.jsonl", "wb") as merged:
        for _, number, start in sorted(places):
            files[number].seek(start)
            merged.write(files[number].readline())
    (folder / "by-hand.jsonl").unlink()


async def journal(folder: Path, rows: int, width: int) -> float:
    """Rows a second that a journal takes, each with a call of 1,000 characters there and back; so many at a time."""
    from cai.folder.journal.store import Store
    from cai.records import Completion

    text = "word " * 200
    done = Completion(text, "stop", "m", 10, 2)
    with closing(Store(folder)) as store:

        async def play(first: int) -> None:
            for row in range(first, rows, width):
                payload = {"messages": [{"role": "user", "content": f"{row} {text}"}]}
                store.put(str(row).encode(), "openai", "m", payload, done, 0.0)
                store.rows.append(ROWS, b'{"position":%d}\n' % row, row, b"x" * 16, "done")
                await store.committed()

        begun = time.perf_counter()
        await asyncio.gather(*map(play, range(width)))
        return rows / (time.perf_counter() - begun)


def journal_child(task: dict[str, Any]) -> float:
    from cai.folder.journal import durability

    durability.is_shared = lambda folder: bool(task["alone"])
    with tempfile.TemporaryDirectory(dir=task["folder"]) as folder:
        return asyncio.run(journal(Path(folder), task["rows"], task["width"]))


def journals(folder: Path, repeats: int = 3) -> Iterator[list[str]]:
    """A journal as it is written on network file systems, beside that of a local disk: both on one disk."""
    for width, rows in ((64, 4_000), (1, 300)):
        task = {"act": "journal", "folder": str(folder), "rows": rows, "width": width}
        found: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(repeats):
            for alone, values in found.items():
                values.append(child(__file__, task | {"alone": alone}))
        ours, other = (max(found[alone]) for alone in (True, False))
        words = [f"{best:,.0f} rows/s ({median(found[alone]):,.0f})" for alone, best in ((True, ours), (False, other))]
        yield [f"the journal held alone, {width} at a time, beside WAL", "–", *words, f"{other / ours:.2f}"]


def run_child(task: dict[str, Any]) -> Any:
    folder = Path(task["folder"])
    if task["act"] == "journal":
        return journal_child(task)
    if task["act"] == "prompts":
        return write_prompts(folder / "prompts.jsonl", task["rows"])
    if task["act"] == "play":
        return measured(lambda: play(Path(task["prompts"]), folder, task["shard"]))
    act = {"export": export, "join": join, "by hand": by_hand}[task["act"]]
    return measured(lambda: act(folder))


def told(found: dict[str, Any], size: int | None = None) -> str:
    each = "" if size is None else f", {1e6 * found['cpu'] / size:.0f} µs a row"
    return f"{found['cpu']:.1f} s of CPU ({found['seconds']:.1f} s){each}, {found['peak'] / 1e6:.0f} MB"


def compared(what: str, ours: dict[str, Any], other: dict[str, Any], size: int) -> list[str]:
    return [what, "–", told(ours, size), told(other, size), f"{other['cpu'] / ours['cpu']:.2f}"]


def measure(rows: int, count: int) -> Iterator[list[str]]:
    """The rows of the table."""
    place = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        prompts, whole, parts = place / "prompts.jsonl", place / "whole", place / "parts"
        child(__file__, {"act": "prompts", "folder": str(place), "rows": rows})  # its memory would count for all others
        task = {"act": "play", "prompts": str(prompts), "shard": None}
        one = child(__file__, task | {"folder": str(whole)})
        all_of = [child(__file__, task | {"folder": str(parts), "shard": f"{n}/{count}"}) for n in range(count)]
        together = {name: sum(each[name] for each in all_of) for name in ("cpu", "seconds")}
        together["peak"] = max(each["peak"] for each in all_of)
        yield compared(f"play {rows:,} rows: {count} shards together, beside one run", together, one, rows)
        hand = child(__file__, {"act": "by hand", "folder": str(parts)})
        yield compared("join the shards, beside merging their files by hand",
                       child(__file__, {"act": "join", "folder": str(parts)}), hand, rows)  # fmt: skip
        cut = child(__file__, {"act": "export", "folder": str(whole)})
        yield compared("export the joined shards, beside one run",
                       child(__file__, {"act": "export", "folder": str(parts)}), cut, rows)  # fmt: skip
        for name in EXPORTS:
            assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    finally:
        shutil.rmtree(place)


def measure_alone(rows: int, count: int) -> Iterator[list[str]]:
    """The rows of the table for shards without anything beside them."""
    place = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        child(__file__, {"act": "prompts", "folder": str(place), "rows": rows})
        task = {"act": "play", "prompts": str(place / "prompts.jsonl"), "folder": str(place / "parts")}
        shards = [task | {"shard": f"{number}/{count}"} for number in range(count)]
        for what in ("play", "open again, with nothing new,"):
            with ThreadPoolExecutor(2) as pool:
                done = list(pool.map(partial(child, __file__), shards))
            together = {name: sum(each[name] for each in done) for name in ("cpu", "seconds")}
            together["peak"] = max(each["peak"] for each in done)
            yield [f"{what} {rows:,} rows in {count} shards", "–", told(together, rows), "", ""]
        for act in ("join", "export"):
            yield [
                f"{act} them",
                "–",
                told(child(__file__, {"act": act, "folder": str(place / "parts")}), rows),
                "",
                "",
            ]
    finally:
        shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--alone", action="store_true", help="play nothing but the shards")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(json.loads(arguments.child))))
        return
    conditions()
    if arguments.alone:
        table(measure_alone(arguments.rows, arguments.shards))
        return
    table(chain(journals(Path(tempfile.gettempdir())), measure(arguments.rows, arguments.shards)))


if __name__ == "__main__":
    main()
