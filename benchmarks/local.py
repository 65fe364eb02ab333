"""Memory and CPU of local models: starting, a label of six scores, and replies; each in a process of its own.

    python benchmarks/local.py [local local:qwen2.5-coder-1.5b] [--pairs 6]

Pairs are those of `judge_cache.py`, of 300 words. CPU seconds are the process's own, and memory is what the system
counts: files that are mapped and may be given back are said apart. It does not ask how good labels and replies are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from judge_cache import label

from cai.calls.model import Call
from cai.models.inprocess.local import LocalModel
from cai.records import Request, Sampling

TOKENS = 64  # of a reply
REPLIES = 8


def memory() -> dict[str, float]:
    """GB of this process: now, at most, and of mapped files."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
    return {name: int(status[name].split()[0]) / 1e6 for name in ("VmRSS", "VmHWM", "RssFile")}


async def measured(name: str, pairs: int) -> dict[str, Any]:
    model = LocalModel(name)
    figures: dict[str, Any] = {}
    cpu = time.process_time()
    await model.start()
    figures["start"] = time.process_time() - cpu
    draw = random.Random(0)
    labels = [label(300, draw) for _ in range(pairs)]
    cpu = time.process_time()
    for calls in labels:
        answers = await asyncio.gather(*(model.send(model.payload(call)) for call in calls))
    figures["label"] = (time.process_time() - cpu) / pairs
    figures["tokens"] = sum(answer.input_tokens or 0 for answer in answers)
    asked = [
        Call(
            Request("assistant", ({"role": "user", "content": f"Give me {n} tips about green tea."},)),
            "row", 0, n, Sampling(0.7, TOKENS, {"ignore_eos": True}),
        )
        for n in range(2, 2 + REPLIES)
    ]  # fmt: skip
    cpu = time.process_time()
    written = await asyncio.gather(*(model.send(model.payload(call)) for call in asked))
    figures["written"] = sum(answer.output_tokens or 0 for answer in written) / (time.process_time() - cpu)
    figures["memory"] = memory()
    await model.close()
    return figures


def main(specs: list[str], pairs: int) -> None:
    print("| model | CPU to start | CPU a label | tokens of its prompts | written a CPU second | GB, most (files) |")
    print("|---" * 6 + "|")
    for spec in specs:
        command = [sys.executable, __file__, spec, "--pairs", str(pairs), "--one"]
        figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        gb = figures["memory"]
        print(
            f"| `{spec}` | {figures['start']:.0f} s | {figures['label']:.1f} s | {figures['tokens']:,} | "
            f"{figures['written']:.0f} | {gb['VmRSS']:.1f}, {gb['VmHWM']:.1f} ({gb['RssFile']:.1f}) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", default=["local", "local:qwen2.5-coder-1.5b"])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asyncio.run(measured(arguments.specs[0].partition(":")[2], arguments.pairs))))
    else:
        main(arguments.specs, arguments.pairs)
