"""Rows and tokens a second of the embedded model at 1 to 32 requests in flight, and how long a short chain takes.

    python benchmarks/embedded.py [--rows 32] [--rounds 3]

Each width answers the same chat prompts; widths take turns, and the best of the rounds counts, because the machine is
shared. A chain is three calls (reply, critique, revision), as one row of `cai generate --rounds 1` makes them.
It cannot see what else the machine is doing: compare the columns of one run, not two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable

from cai.calls.model import Call
from cai.models.inprocess.local import LocalModel
from cai.records import Completion, Message, Request, Sampling

WIDTHS = (1, 4, 8, 16, 32)
TOPICS = (
    "a lost cat",
    "slow tyres",
    "green tea",
    "an old bridge",
    "winter boots",
    "a noisy fan",
    "two maps",
    "rye bread",
)
ASKS = ("Explain to a child why {} matters.", "Give me three tips about {}.", "Write a friendly note about {}.",
        "What could go wrong with {}?")  # fmt: skip
CRITIQUE = "Name one thing in your last reply that could be kinder or more careful, in two sentences."
REVISE = "Write your last reply again with that put right. Give only the reply."
SAMPLING = Sampling(temperature=0.7, max_tokens=128)


def question(row: int) -> Message:
    """One of 32 short prompts; from the 33rd on they repeat with a number."""
    text = ASKS[row // len(TOPICS) % len(ASKS)].format(TOPICS[row % len(TOPICS)])
    return {"role": "user", "content": text if row < 32 else f"{text} ({row})"}


async def ask(model: LocalModel, messages: tuple[Message, ...], seed: int) -> Completion:
    return await model.send(model.payload(Call(Request("assistant", messages), "row", 0, seed, SAMPLING)))


async def one_call(model: LocalModel, row: int) -> int:
    return (await ask(model, (question(row),), row)).output_tokens or 0


async def chain(model: LocalModel, row: int) -> int:
    messages: tuple[Message, ...] = (question(row),)
    tokens = 0
    for follow_up in (CRITIQUE, REVISE, None):
        answer = await ask(model, messages, row)
        tokens += answer.output_tokens or 0
        if follow_up is not None:
            messages += ({"role": "assistant", "content": answer.text}, {"role": "user", "content": follow_up})
    return tokens


async def timed(flow: Callable[[LocalModel, int], Awaitable[int]], model: LocalModel, rows: int, width: int,
                first: int) -> tuple[float, int]:  # fmt: skip
    """Seconds and tokens of `rows` flows, `width` of them alive at a time."""
    slots = asyncio.Semaphore(width)

    async def limited(row: int) -> int:
        async with slots:
            return await flow(model, row)

    begun = time.perf_counter()
    tokens = await asyncio.gather(*(limited(first + row) for row in range(rows)))
    return time.perf_counter() - begun, sum(tokens)


async def main(rows: int, rounds: int) -> None:
    model = LocalModel("")
    begun = time.perf_counter()
    await model.start()
    print(f"{model.name}, started in {time.perf_counter() - begun:.1f} s; {rows} rows a cell, best of {rounds}\n")
    best: dict[tuple[str, int], tuple[float, float]] = {}
    first = 0
    for _ in range(rounds):
        for width in WIDTHS:
            for name, flow in (("call", one_call), ("chain", chain)):
                count = max(4, rows // 8) if width == 1 else rows  # one at a time needs fewer for the same precision
                first += 1000  # new prompts: the prefix cache must not answer for an earlier round
                seconds, tokens = await timed(flow, model, count, width, first)
                if count / seconds > best.get((name, width), (0.0, 0.0))[0]:
                    best[name, width] = count / seconds, tokens / seconds
    print("| in flight | one call, rows/s | tokens/s | chain of 3, rows/s | tokens/s | against one at a time |")
    print("|---|---|---|---|---|---|")
    for width in WIDTHS:
        (rate, speed), (chains, chain_speed) = best["call", width], best["chain", width]
        gain = speed / best["call", 1][1]
        print(f"| {width} | {rate:.2f} | {speed:.0f} | {chains:.3f} | {chain_speed:.0f} | {gain:.1f}× |")
    await model.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rows, arguments.rounds))
