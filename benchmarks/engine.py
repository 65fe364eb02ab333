"""CPU, throughput and manners of the engine against the stub server, beside plain scripts doing the same work.

    python benchmarks/engine.py [--repeats 3] [--only cpu,tail,wide,busy,refused,first]

The baseline is `asyncio.gather` around `AsyncOpenAI` unless the row says otherwise. Every job runs in a process of its
own, against a server process of its own; contestants take turns. For memory, disk and start see `memory.py`,
`start.py` and `install.py`.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Callable
from typing import Any

from _common import Times, child, conditions, stub, table

LATENCY = "0.1"  # seconds; what the figures of other tools were measured with
Row = list[str]


def job(server: str, who: str, rows: int, width: int, kind: str = "talk:1", **more: Any) -> dict[str, Any]:
    """One job in a child process; see `_contestants.Outcome`."""
    task = {"who": who, "url": server, "kind": kind, "rows": rows, "width": width, **more}
    outcome: dict[str, Any] = child(__file__, {"jobs": [task]})[0]
    return outcome


def cpu_per_call(server: str, who: str, kind: str, calls: int, width: int) -> float:
    """Milliseconds a call: a large job less a small one, in a process that has done one before."""
    each = {"talk:1": 1, "revise": 5}[kind]
    sizes = [max(50, 2 * width // each), 500 // each, (500 + calls) // each]
    jobs = [{"who": who, "url": server, "kind": kind, "rows": rows, "width": width} for rows in sizes]
    _, small, large = child(__file__, {"jobs": jobs})
    assert large["rows"] == sizes[2], large
    return float(1000 * (large["cpu"] - small["cpu"]) / ((sizes[2] - sizes[1]) * each))


def cpu(repeats: int) -> list[Row]:
    contestants = [
        ("engine", "talk:1"), ("openai", "talk:1"), ("aiohttp", "talk:1"),
        ("generate", "revise"), ("openai", "revise"), ("aiohttp", "revise"),
    ]  # fmt: skip
    rows = []
    for width in (50, 64, 256):
        found = {contestant: Times() for contestant in contestants}
        for _ in range(repeats):
            for who, kind in contestants:
                calls = 1000 if who == "openai" else 3000
                with stub("--latency", LATENCY) as server:
                    found[who, kind].values.append(cpu_per_call(server.url, who, kind, calls, width))
        for who, kind in (("engine", "talk:1"), ("generate", "revise")):
            what = "rows of one call" if kind == "talk:1" else "`cai.generate`, 5 calls a row"
            ours, plain, bare = (found[name, kind] for name in (who, "openai", "aiohttp"))
            rows.append([
                f"CPU per call, {what}, C={width}", "≤ 0.35 ms", ours.show(3, "ms"),
                f"{plain.show(3, 'ms')}; bare aiohttp {bare.show(3, 'ms')}",
                f"{plain.best / ours.best:.1f}; aiohttp {bare.best / ours.best:.2f}",
            ])  # fmt: skip
    return rows


def seconds(repeats: int, flags: list[str], rows: dict[str, int], width: int) -> dict[str, Times]:
    """Seconds of a job of one-call rows; `rows` by contestant."""
    found = {who: Times() for who in rows}
    for _ in range(repeats):
        for who, times in found.items():
            with stub("--latency", LATENCY, *flags) as server:
                done = job(server.url, who, rows[who], width)
            assert done["rows"] == rows[who], done
            times.values.append(done["seconds"])
    return found


def tail(repeats: int) -> list[Row]:
    found = seconds(repeats, ["--mode", "tail"], dict.fromkeys(("engine", "openai", "aiohttp"), 2000), 50)
    ours, plain, bare = found.values()
    ideal = child(__file__, {"ideal": 2000, "width": 50})
    what = f"2,000 rows, C=50, 5 % of replies ten times slower (no client can need less than {ideal:.1f} s)"
    ratio = f"{plain.best / ours.best:.2f}; aiohttp {bare.best / ours.best:.2f}"
    return [[what, "≤ 6.5 s", ours.show(2, "s"), f"{plain.show(2, 's')}; bare aiohttp {bare.show(2, 's')}", ratio]]


def ideal_seconds(rows: int, width: int) -> float:
    """The time of `tail` without any overhead: which replies are slow is drawn from the payload, so it is known."""
    from _contestants import latencies

    slots = [0.0] * width
    for slow in latencies(rows):
        heapq.heapreplace(slots, slots[0] + float(LATENCY) * (10 if slow else 1))
    return max(slots)


def wide(repeats: int) -> list[Row]:
    rows = {"engine": 10_000, "openai": 3_000, "aiohttp": 10_000}
    found = seconds(repeats, [], rows, 256)
    ours, plain, bare = (rows[who] / found[who].best for who in rows)
    what, told = "10,000 rows, C=256 (at most 2,560/s)", f"{plain:,.0f}/s; bare aiohttp {bare:,.0f}/s"
    return [[what, "≥ 1,500 calls/s", f"{ours:,.0f}/s", told, f"{plain / ours:.2f}; aiohttp {bare / ours:.2f}"]]


def busy(repeats: int) -> list[Row]:
    rows = []
    for window in ("fixed", "bucket"):
        times = {who: Times() for who in ("engine", "openai")}
        wasted = {who: Times() for who in times}
        lost = dict.fromkeys(times, 0)
        for _ in range(repeats):
            for who in times:
                flags = ["--latency", LATENCY, "--mode", "429", "--rate", "50", "--window", window]
                with stub(*flags) as server:
                    done = job(server.url, who, 500, 50)
                    wasted[who].values.append(server.stats()["statuses"].get("429", 0))
                times[who].values.append(done["seconds"])
                lost[who] = max(lost[who], 500 - done["rows"])
        cells = [
            f"{times[who].show(1, 's')}, {wasted[who].show(0, 'wasted')}, at most {lost[who]} rows lost"
            for who in ("engine", "openai")
        ]
        what = f"500 rows, C=50, 50/s and 429 with `Retry-After: 1`, {window} window"
        ratio = f"{times['openai'].best / times['engine'].best:.1f}"
        rows.append([what, "≤ 10.5 s, < 30 wasted", *cells, ratio])
    return rows


def refused(repeats: int) -> list[Row]:
    cells = []
    for who in ("engine", "openai"):
        with stub("--latency", LATENCY, "--mode", "400") as server:
            done = job(server.url, who, 200, 50, poison=100)
            calls = server.stats()["statuses"].get("400", 0)
        end = f"the job dies ({done['error']})" if done["error"] else "the rest finishes"
        dropped = ", ".join(f"{count} dropped as {reason}" for reason, count in done["dropped"].items())
        cells.append(f"{calls} call, {done['rows']} rows" + (f", {dropped}" if dropped else "") + f"; {end}")
    return [["200 rows, one gets HTTP 400", "1 call, 1 dropped row", *cells, "–"]]


def first(repeats: int) -> list[Row]:
    alone = {who: Times() for who in ("engine", "openai")}
    crowd = {who: Times() for who in alone}
    total = {who: Times() for who in alone}
    for _ in range(repeats):
        for who in alone:
            with stub("--latency", LATENCY) as server:
                alone[who].values.append(job(server.url, who, 1, 50, "talk:3")["first"])
                done = job(server.url, who, 1000, 50, "talk:3")
            crowd[who].values.append(done["first"])
            total[who].values.append(done["seconds"])
    cells = [
        f"{crowd[who].best / alone[who].best:.2f}× ({crowd[who].best:.2f} s of {total[who].best:.1f} s; one alone "
        f"{alone[who].best:.2f} s)"
        for who in alone
    ]
    what = "first finished row of 1,000 conversations of 3 turns, C=50, against one conversation alone"
    return [[what, "≤ 1.5×", *cells, f"{crowd['openai'].best / crowd['engine'].best:.1f}"]]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "cpu": cpu, "tail": tail, "wide": wide, "busy": busy, "refused": refused, "first": first,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        from _contestants import play

        task = json.loads(arguments.child)
        found = (
            ideal_seconds(task["ideal"], task["width"]) if "ideal" in task else [play(**job) for job in task["jobs"]]
        )
        print(json.dumps(found))
        return
    conditions()
    table([row for name in arguments.only.split(",") for row in PARTS[name](arguments.repeats)])


if __name__ == "__main__":
    main()
