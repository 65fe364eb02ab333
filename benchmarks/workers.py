"""What one process and several workers make of the same run: calls per second, and CPU per call, side by side.

    python benchmarks/workers.py [--rows 2000] [--workers 2] [--concurrency 256]

A row is a chain of three turns: reply, critique, revision. Every command is a process of its own, whose start counts:
so do those of its workers, and the join at the end. CPU is that of the command with all of its workers. The stub server
takes CPU, too: the ratio says something on a machine with a core for each worker and two more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import Server, conditions, stub, table

CALLS = 3  # of a row


def cpu_of_children() -> float:
    """Seconds of CPU of the processes that were waited for, and of those that these have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def played(prompts: Path, out: Path, server: Server, concurrency: int, *words: str) -> tuple[float, float, int]:
    """Seconds, seconds of CPU, and rows of one command."""
    command = [
        sys.executable, "-m", "cai", "generate", str(prompts), "--model", "openai:m", "--base-url", server.url + "/v1",
        "--rounds", "1", "--no-gate", "--concurrency", str(concurrency), "--out", str(out), "--json", *words,
    ]  # fmt: skip
    cpu, began = cpu_of_children(), time.monotonic()
    done = subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "OPENAI_API_KEY": "none"}, timeout=600
    )
    return time.monotonic() - began, cpu_of_children() - cpu, json.loads(done.stdout)["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.1)
    args = parser.parse_args()
    conditions()
    with tempfile.TemporaryDirectory() as name, stub("--latency", str(args.latency)) as server:
        folder = Path(name)
        prompts = folder / "prompts.jsonl"
        texts = (f"Question number {number}: what is to be done, and why?" for number in range(args.rows))
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        one = played(prompts, folder / "one", server, args.concurrency)
        many = played(prompts, folder / "many", server, args.concurrency, "--workers", str(args.workers))
        duplicates = server.stats()["duplicates"]
    assert one[2] == many[2] == args.rows
    calls = CALLS * args.rows
    rates = [calls / took[0] for took in (one, many)]
    cpus = [1000 * took[1] / calls for took in (one, many)]
    table(
        [
            (f"calls/s, {args.workers} workers (one process)", "", f"{rates[1]:,.0f}", f"{rates[0]:,.0f}",
             f"{rates[1] / rates[0]:.2f}"),
            ("ms of CPU per call", "", f"{cpus[1]:.2f}", f"{cpus[0]:.2f}", f"{cpus[1] / cpus[0]:.2f}"),
            ("calls that both asked", "", f"{duplicates:,}", f"{calls:,}", ""),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
