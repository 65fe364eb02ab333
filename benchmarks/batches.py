"""What many rows take that go through batches: memory over the idle process, waves, CPU per call, and the price.

    python benchmarks/batches.py [--rows 5000]
    python benchmarks/batches.py --rows 50000     # the size of the budget: minutes, and some GB of disk

A row is a chain of three turns: reply, critique, revision. Time passes for the stub's batches when they are looked at.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import child, conditions, cpu_seconds, stub, table

PRICE = "0.4,1.6"
BUDGET = 200  # MB over the idle process


def resident() -> float:
    """MB that the process has in memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(task: dict[str, Any]) -> dict[str, Any]:
    """One run in this process, and what it took."""
    import os

    import aiohttp  # noqa: F401

    import cai
    from cai.cli.main import command
    from cai.runs.batch_list import batches_in
    from cai.runs.kinds.generate import GenerateRun
    from cai.runs.kinds.settings import GenerateSettings
    from cai.runs.plan import estimate

    command()
    os.environ["OPENAI_API_KEY"] = "none"
    folder = Path(task["folder"])
    prompts = folder / "prompts.jsonl"
    with open(prompts, "w") as file:
        for number in range(task["rows"]):
            file.write(json.dumps({"prompt": f"Question number {number}: what is to be done, and why?"}) + "\n")
    settings: dict[str, Any] = {
        "model": "openai:m", "base_url": task["url"] + "/v1", "rounds": 1, "gate": False, "out": folder / "run",
        "batch": True, "price": PRICE,
    }  # fmt: skip
    few = {**settings, "limit": 100}
    plan = estimate(GenerateRun(prompts, GenerateSettings(constitution="harmless", **few)))
    idle, cpu, began = resident(), cpu_seconds(), time.monotonic()
    rows = cai.generate(prompts, "harmless", **settings)
    count = sum(1 for _ in rows)
    seconds = time.monotonic() - began
    info = json.loads((folder / "run" / "run.json").read_text())
    waves = max(batch.wave for batch in batches_in(folder / "run").batches)
    return {
        "rows": count, "idle": idle, "over": resident() - idle, "cpu": (cpu_seconds() - cpu) / (3 * count),
        "seconds": seconds, "waves": waves, "planned": plan.waves, "cost": info["cost_usd"],
        "usage": info["usage"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run(json.loads(args.child))))
        return
    conditions()
    with tempfile.TemporaryDirectory() as folder, stub() as server:
        took = child(sys.argv[0], {"rows": args.rows, "folder": folder, "url": server.url})
        duplicates = server.stats()["duplicates"]
    usage = took["usage"]
    online = (usage["input_tokens"] * 0.4 + usage["output_tokens"] * 1.6) / 1e6
    table(
        [
            (f"MB over idle, {took['rows']:,} rows", f"{BUDGET}", f"{took['over']:.0f}", "", ""),
            ("waves (planned)", "", f"{took['waves']} ({took['planned']})", "", ""),
            ("ms of CPU per call", "", f"{1000 * took['cpu']:.2f}", "", ""),
            ("seconds", "", f"{took['seconds']:.1f}", "", ""),
            ("USD (online)", "½", f"{took['cost']:.4f}", f"{online:.4f}", f"{online / took['cost']:.2f}"),
            ("calls paid twice", "0", str(duplicates), "", ""),
        ]
    )


if __name__ == "__main__":
    main()
