"""Requests and labels a second of typed questions beside letters, and that both come to the same probabilities.

    python benchmarks/decide.py [--pairs 200] [--latency 0.5]

The stub answers like vLLM 0.33, with probabilities that depend on the words of a question alone, each request after
the same time, C=50. A real server takes longer for a request with more questions, so only it can show how many labels a
second it gives; the requests and the tokens are as here.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from contextlib import aclosing
from pathlib import Path
from time import perf_counter

from _common import conditions, cpu_seconds, stub
from judge import WIDTH, made_up

from cai.records import Label
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.settings import LabelSettings
from cai.sources.yamlfile import make_settings

PRINCIPLES = (1, 3, 16)


async def labels(pairs: list[dict[str, str]], out: Path, **settings: object) -> tuple[dict[str, Label], float, float]:
    """The labels of a run by id, and its seconds on the clock and of CPU."""
    run = LabelRun(pairs, make_settings(LabelSettings, {"judge": "openai:stub", "out": out, **settings}))
    rows = {}
    began, cpu = perf_counter(), cpu_seconds()
    async with aclosing(run.rows()) as finished:
        async for row in finished:
            rows[row.id] = row
    return rows, perf_counter() - began, cpu_seconds() - cpu


async def main(pairs: int, latency: float) -> None:
    conditions()
    columns = "requests a label", "labels/s", "CPU a label", "tokens in a label", "largest difference of p"
    print(f"\n| protocol, principles | {' | '.join(columns)} |")
    print("|---" * 6 + "|")
    source = made_up(pairs)
    with tempfile.TemporaryDirectory() as folder, stub("--vllm", "--latency", str(latency)) as server:
        given = {"base_url": server.url + "/v1", "concurrency": WIDTH}
        for principles in PRINCIPLES:
            beliefs: dict[str, float | None] = {}
            for protocol in ("logprob", "decide"):
                out = Path(folder) / f"{protocol}{principles}"
                before = server.stats()["requests"]
                rows, seconds, cpu = await labels(source, out, protocol=protocol, principles=principles, **given)
                requests = server.stats()["requests"] - before
                tokens = sum(row.usage.input_tokens or 0 for row in rows.values())
                differences = [abs((row.p_a or 0) - (beliefs[name] or 0)) for name, row in rows.items() if beliefs]
                beliefs = {name: row.p_a for name, row in rows.items()}
                largest = f"{max(differences):.1e}" if differences else ""
                print(
                    f"| `{protocol}`, {principles} | {requests / pairs:g} | {pairs / seconds:.0f} | "
                    f"{1000 * cpu / pairs:.1f} ms | {tokens / pairs:,.0f} | {largest} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.5)
    os.environ.setdefault("OPENAI_API_KEY", "none")
    asyncio.run(main(**vars(parser.parse_args())))
