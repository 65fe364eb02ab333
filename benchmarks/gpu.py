"""vLLM behind `cai generate` on one NVIDIA GPU, beside a plain client: calls and tokens a second, prefix-cache hits.

    python benchmarks/gpu.py --out DIR [--only 1B] [--rows 1000] [--concurrency 256] [--budget 540]
    python benchmarks/gpu.py --out DIR --tiny      # with a server that serves no model: whether the script works

SmolLM2-135M and a random model of the shape of Llama 3.2 1B, each served once by the `vllm` that is found for
`vllm:NAME`; both clients play the reply and two rounds (5 calls a row) at the same concurrency, over prompts of their
own, so that neither finds the other's in the cache. The plain one is `asyncio.gather` over all rows and a semaphore
around each call of aiohttp. A random model ends a text at one of many tokens that it is told to stop at, after 150 on
average. Tokens, hits and preemptions are the server's own counts. Finished rows of the table are kept in
DIR/rows.jsonl; if the time runs out, run the same command again to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import aiohttp
from _common import HERE
from _contestants import MAX_TOKENS, Clock, Outcome, texts, with_gather
from _measure import model as made_model

import cai
from cai.calls.model import Serving
from cai.models.serving import kept
from cai.models.serving.launch import launch_of, served
from cai.models.serving.process import Server
from cai.records import Message

SIZES = {"135M": "SmolLM2-135M", "1B": "Llama 1B, random"}
WHO = ("cai", "plain")
LENGTH = 150  # tokens of a random model's texts on average
WARM = 8  # rows before the first that counts, for which the server is started
STARTING = 150  # seconds that a server may take to be there, and a measurement at least
COUNTERS = ("prompt_tokens", "generation_tokens", "prefix_cache_queries", "prefix_cache_hits", "num_preemptions")
COLUMNS = ("model", "client", "rows", "calls/s", "tokens written/s", "tokens read/s", "cache hits", "preemptions", "s")


class Bench:
    """One model's server, and the two clients that ask it."""

    def __init__(self, size: str, given: argparse.Namespace, scratch: Path) -> None:
        self.given, self.scratch = given, scratch
        self.options: dict[str, Any] = {"server_arg": given.server_arg, "keep_server": True}
        self.extra: dict[str, Any] = {}
        if given.tiny:
            self.name = f"tiny-{size}"
            self.options["server_command"] = f"{sys.executable} {HERE / 'fake_server.py'}"
            return
        task = {"case": {"size": size}, "tiny": False, "models": str(scratch), "device": given.device}
        self.name = str(made_model(task))
        if size != "135M":
            vocabulary = json.loads((Path(self.name) / "config.json").read_text())["vocab_size"]
            self.extra["stop_token_ids"] = list(range(LENGTH, vocabulary, LENGTH))

    def generate(self, prompts: Iterable[str]) -> Outcome:
        """`cai.generate`, two rounds, run folder and training files included."""
        clock = Clock()
        settings: dict[str, Any] = {"rounds": 2, "gate": False, "concurrency": self.given.concurrency, **self.options}
        settings |= {"out": self.scratch / f"run-{time.time_ns()}", "extra_body": self.extra}
        for _ in cai.generate(list(prompts), "harmless", model=f"vllm:{self.name}", **settings):
            clock.row()
        return clock.outcome()

    def server(self) -> Server:
        """The server that `generate` has started and kept."""
        files = served("vllm", self.name)
        options = Serving(self.options.get("server_command"), tuple(self.given.server_arg), keep=True)
        found = asyncio.run(kept.find(launch_of("vllm", f"vllm:{self.name}", files, options)))
        if found is None:
            raise SystemExit("the server that was started has gone: see its log")
        return found

    def plain(self, server: Server, prompts: Iterable[str]) -> Outcome:
        """`asyncio.gather` over all rows, a semaphore around each call."""
        return asyncio.run(self._plain(server, prompts))

    async def _plain(self, server: Server, prompts: Iterable[str]) -> Outcome:
        fields = {"model": server.launch.name, "max_tokens": MAX_TOKENS, "temperature": 1.0, **self.extra}
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

            async def send(messages: list[Message], seed: int) -> str:
                body = {**fields, "messages": messages, "seed": seed}
                async with session.post(f"{server.url}/v1/chat/completions", json=body) as response:
                    response.raise_for_status()
                    text: str = (await response.json())["choices"][0]["message"]["content"]
                    return text

            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            return await with_gather(send, prompts, "revise", self.given.concurrency, folder)


def counters(server: Server) -> dict[str, float]:
    """What the server has counted so far, all its engines together."""
    with build_opener(ProxyHandler({})).open(f"{server.url}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    found = {}
    for name in COUNTERS:
        values = re.findall(rf"^vllm:{name}_total(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        found[name] = sum(map(float, values))
    return found


def measured(server: Server, job: Callable[[], Outcome]) -> dict[str, Any]:
    """What a client took, and what the server counted meanwhile."""
    before = counters(server)
    outcome = job()
    after = counters(server)
    return {**asdict(outcome), **{name: after[name] - before[name] for name in COUNTERS}}


def measure(todo: Iterable[tuple[str, str]], given: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """The rows that could be done within the budget, each as it is done."""
    end = time.monotonic() + given.budget
    todo = list(todo)
    for size in dict.fromkeys(size for size, _ in todo):
        if end - time.monotonic() < STARTING and not given.tiny:
            return
        bench = Bench(size, given, scratch)
        bench.generate(prompts_of("warm", WARM))
        server = bench.server()
        try:
            for who in [who for each, who in todo if each == size]:
                if end - time.monotonic() < STARTING / 2 and not given.tiny:
                    return
                prompts = prompts_of(who, given.rows)
                job = (lambda: bench.generate(prompts)) if who == "cai" else (lambda: bench.plain(server, prompts))  # noqa: B023
                yield {"size": size, "who": who, **measured(server, job)}
        finally:
            stop(server)


def prompts_of(who: str, rows: int) -> list[str]:
    """The prompts of a client: from the first word on they are like no other's."""
    return [f"{who}: {text}" for text in texts(rows)]


def stop(server: Server) -> None:
    os.kill(server.pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while not server.has_ended() and time.monotonic() < end:
        time.sleep(0.1)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    start = (SIZES[row["size"]], row["who"])
    if row.get("error"):
        return (*start, row["error"], *["–"] * 6)
    calls = row["rows"] * 5
    hits = row["prefix_cache_hits"] / max(1, row["prefix_cache_queries"])
    speeds = [f"{count / row['seconds']:,.0f}" for count in (calls, row["generation_tokens"], row["prompt_tokens"])]
    return (*start, str(row["rows"]), *speeds, f"{hits:.1%}", f"{row['num_preemptions']:.0f}", f"{row['seconds']:.0f}")


def main(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "rows.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    finished = {(row["size"], row["who"]) for row in done}
    every = [(size, who) for size in SIZES if not given.only or size in given.only for who in WHO]
    with tempfile.TemporaryDirectory() as scratch, file.open("a") as kept_rows:
        for row in measure([each for each in every if each not in finished], given, given.models or Path(scratch)):
            kept_rows.write(json.dumps(row) + "\n")
            kept_rows.flush()
            done.append(row)
            print(" | ".join(cells(row)), file=sys.stderr, flush=True)
    table = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, done)]
    text = "".join(f"| {' | '.join(row)} |\n" for row in table)
    (given.out / "table.md").write_text(text)
    print(text, end="")
    left = [each for each in every if each not in {(row["size"], row["who"]) for row in done}]
    if left:
        print(f"{len(left)} of {len(every)} are left: run the same command again", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of the results (default: $OUT)")
    parser.add_argument("--only", nargs="*", choices=list(SIZES), help="models to measure")
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--budget", type=float, default=540, help="seconds of this call")
    parser.add_argument("--server-arg", action="append", default=[], help="an option for vllm; repeatable")
    parser.add_argument("--models", type=Path, help="folder that keeps the random model for the next call")
    parser.add_argument("--device", default="cuda", help="where the random model is made")
    parser.add_argument("--tiny", action="store_true", help="a fake server, few rows wanted: --rows 20")
    given = parser.parse_args()
    if given.out is None:
        parser.error("--out or $OUT must say where the results go")
    main(given)
