"""What a run takes besides time: memory per row, disk per text, and the seconds to open a finished run again.

    python benchmarks/memory.py [--rows 10000,200000] [--only growth,disk]
    python benchmarks/memory.py --rows 10000,1000000     # the sizes of the budgets: minutes, and 3 GB of disk

Memory and reopening use a model object in the process, so that a million rows come to an end; disk uses `cai.generate`
and the stub server. Memory is the peak of the resident set, as the system counts it. For speed under load see
`engine.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _common import child, conditions, stub, table

Row = list[str]
WIDTH = 50
CHAINS = 1000  # rows of `cai.generate` whose disk is measured
BASELINE_ROWS = 100_000  # the plain script needs kilobytes a row


class InProcess:
    """A model that answers at once, with 40 words drawn from a hash of the payload."""

    provider, name, endpoint = "openai", "in-process", "memory"
    concurrency, context = WIDTH, None

    def __init__(self) -> None:
        from cai.records import Abilities

        self.can = Abilities()

    def payload(self, call: Any) -> dict[str, Any]:
        body = {"model": self.name, "messages": list(call.request.messages), "max_tokens": call.sampling.max_tokens}
        return body | {"temperature": call.sampling.temperature, "seed": call.seed}

    async def start(self) -> None: ...

    async def send(self, payload: dict[str, Any]) -> Any:
        from cai.records import Completion

        await asyncio.sleep(0)
        return Completion(words(payload["messages"][-1]["content"]), "stop", self.name, 60, 40)

    async def close(self) -> None: ...


def words(text: str) -> str:
    from stub import words_for

    return " ".join(words_for(hashlib.sha256(text.encode()).digest(), 40))


def peak() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def engine_rows(folder: Path, marks: list[int]) -> dict[str, Any]:
    """Play one-call rows, as many as the last mark; the peak of memory at each mark, and the seconds."""
    from _contestants import EngineJob, flow_maker, texts

    peaks: list[int] = []

    async def run() -> int:
        job = EngineJob(folder, InProcess(), flow_maker("talk:1"), WIDTH)
        made = 0
        async for _ in job.rows(texts(marks[-1])):
            made += 1
            if made in marks:
                peaks.append(peak())
        return made + job.skipped

    begun = time.perf_counter()
    rows = asyncio.run(run())
    return {"rows": rows, "peaks": peaks or [peak()], "seconds": time.perf_counter() - begun}


def plain_rows(folder: Path, count: int) -> dict[str, Any]:
    """The same rows as a script with one `asyncio.gather` over all of them; the peak at its end."""
    from _contestants import texts, with_gather

    async def send(messages: list[Any], seed: int) -> str:
        await asyncio.sleep(0)
        return words(messages[-1]["content"])

    asyncio.run(with_gather(send, texts(count), "talk:1", WIDTH, folder))
    return {"peaks": [peak()]}


def in_child(part: str, folder: Path, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = child(__file__, {"part": part, "folder": str(folder), "value": value})
    return found


def growth(small: int, large: int) -> Iterable[Row]:
    """Memory from `small` to `large` rows, and opening the run of `large` rows again."""
    folder = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        made = in_child("engine", folder, [small, large])
        assert made["rows"] == large, made
        again = in_child("engine", folder, [large])
        assert again["rows"] == large, again
        size = sum((folder / name).stat().st_size for name in ("calls.sqlite", "revisions.jsonl"))
    finally:
        shutil.rmtree(folder)
    first, last = made["peaks"]
    plain = [plain_peak(count) for count in (BASELINE_ROWS // 10, BASELINE_ROWS)]
    ours, theirs = (last - first) / (large - small), (plain[1] - plain[0]) / (BASELINE_ROWS * 0.9)
    told = f"{ours:.1f} bytes ({first / 1e6:.0f} → {last / 1e6:.0f} MB, {made['seconds']:.0f} s)"
    ratio = f"{theirs / ours:.0f}" if ours >= 1 else "–"
    yield [f"memory per row, {small:,} → {large:,} rows", "< 50 bytes", told, f"{theirs:,.0f} bytes (gather)", ratio]
    told = f"{again['seconds']:.1f} s, {again['peaks'][0] / 1e6:.0f} MB; its folder: {size / 1e9:.2f} GB"
    budget = f"≤ {20 * large / 1e6:g} s (20 s a million)"
    again_s, made_s = again["seconds"], made["seconds"]
    yield [f"opening a run of {large:,} finished calls again, all skipped by their place", budget, told,
           f"making it took {made_s:.0f} s", f"{made_s / again_s:.1f}"]  # fmt: skip


def plain_peak(count: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
    try:
        return int(in_child("plain", folder, count)["peaks"][0])
    finally:
        shutil.rmtree(folder)


def chains(folder: Path, url: str) -> dict[str, Any]:
    """`CHAINS` rows of `cai.generate`; bytes of the journal, of its texts, and of its calls as plain JSON lines."""
    from _contestants import texts

    import cai
    from cai.folder.journal.store import read_calls

    settings = {"model": "openai:stub", "base_url": url + "/v1", "concurrency": WIDTH, "rounds": 2, "out": folder}
    for _ in cai.generate(list(texts(CHAINS)), "harmless", **settings):
        pass
    unique: set[str] = set()
    repeated = lines = calls = 0
    for call in read_calls(folder):
        said = [turn["content"] for turn in call.request["payload"]["messages"]] + [call.completion.text]
        unique.update(said)
        repeated += sum(len(text.encode()) for text in said)
        lines += len(json.dumps({"request": call.request, "reply": call.completion.text}, ensure_ascii=False)) + 1
        calls += 1
    journal = sum(file.stat().st_size for file in folder.glob("calls.sqlite*"))
    texts_once = sum(len(text.encode()) for text in unique)
    return {"journal": journal, "once": texts_once, "repeated": repeated, "lines": lines, "calls": calls}


def disk() -> Iterable[Row]:
    """calls.sqlite against the texts it keeps, for replies of 60 and of 200 words."""
    for count in (60, 200):
        folder = Path(tempfile.mkdtemp(prefix="cai-benchmark-"))
        try:
            with stub("--words", str(count)) as server:
                found = in_child("chains", folder, server.url)
        finally:
            shutil.rmtree(folder)
        journal, once = found["journal"], found["once"]
        told = (
            f"{journal / once:.2f} ({journal / found['calls']:,.0f} bytes a call; {journal / found['repeated']:.2f} of "
            "the text as sent)"
        )
        plain = f"{found['lines'] / once:.2f} (calls as JSON lines)"
        what = f"calls.sqlite ÷ its texts, each once; {CHAINS:,} chains of 5 calls, replies of {count} words"
        yield [what, "≤ 1.5", told, plain, f"{found['lines'] / journal:.1f}"]


def run_child(task: dict[str, Any]) -> dict[str, Any]:
    folder, value = Path(task["folder"]), task["value"]
    if task["part"] == "engine":
        return engine_rows(folder, value)
    return plain_rows(folder, value) if task["part"] == "plain" else chains(folder, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,200000", help="FROM,TO: rows between which memory is compared")
    parser.add_argument("--only", default="growth,disk")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(json.loads(arguments.child))))
        return
    conditions()
    small, large = map(int, arguments.rows.split(","))
    parts = arguments.only.split(",")
    table([*(growth(small, large) if "growth" in parts else ()), *(disk() if "disk" in parts else ())])


if __name__ == "__main__":
    main()
