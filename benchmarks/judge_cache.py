"""Seconds a label of the embedded judge costs, with the prefix cache and without.

    python benchmarks/judge_cache.py [--labels 4] [--rounds 2]

A label is six scores asked at once: two orders of one pair of replies under three principles, which stand last in the
prompt, so that the three scores of an order share all that comes before. Three ways take turns on new texts each time:
`off`: no prefix cache; `at once`: a cache, but all six go into one batch; `in turn`: as the project does it, where a
score waits for another that begins like it. CPU seconds are the process's own: they tell less of a busy machine.
It does not ask how good the labels are.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import defaultdict
from typing import Any

from cai.calls.model import Call
from cai.models.inprocess.local import LocalModel
from cai.models.inprocess.local_engine import LocalEngine
from cai.records import Request, Sampling

VOCABULARY = """
the of and river mill quiet honest reply question people small green bridge answer careful kind because should never
always water stone paper reason law help person safe risk plan night morning table letter garden city
"""
PRINCIPLES = ("does less harm to people", "is more honest about what it does not know", "helps more with the question")
SIZES = (100, 300, 1000)  # words of a conversation and two replies together; as many tokens, about
WAYS = ("off", "at once", "in turn")


class Judge(LocalModel):
    """The embedded model, its scores asked in one of WAYS."""

    def __init__(self, way: str) -> None:
        super().__init__("")
        self.way = way

    def _load(self, work: Any) -> LocalEngine:
        # The engine for echoes differs from the one for lists only in having no prefix cache, and no turns.
        engine = super()._load("echo" if self.way == "off" and work == "list" else work)
        engine._in_turn &= self.way == "in turn"
        return engine


def text(words: int, draw: random.Random) -> str:
    return " ".join(draw.choices(VOCABULARY.split(), k=words))


def label(words: int, draw: random.Random) -> list[Call]:
    """The six calls of one pair: a quarter of the words in the question, the rest in the replies."""
    question, one, other = text(words // 4, draw), text(words * 3 // 8, draw), text(words * 3 // 8, draw)
    return [
        Call(
            Request(
                "judge",
                (
                    {
                        "role": "user",
                        "content": f"A person asked:\n\n{question}\n\nReply A:\n{first}\n\nReply B:\n{second}\n\n"
                        f"Which reply {principle}? Answer with its letter.",
                    },
                ),
                prefill="The better reply is Reply",
                score=(" A", " B"),
            ),
            "row", index, 0, Sampling(),
        )
        for index, (first, second, principle) in enumerate(
            (first, second, principle) for first, second in ((one, other), (other, one)) for principle in PRINCIPLES
        )
    ]  # fmt: skip


async def seconds(model: LocalModel, labels: int, words: int, draw: random.Random) -> tuple[float, float, int]:
    """Wall and CPU seconds a label, and the tokens of its six prompts; two labels are on their way at a time."""
    slots, tokens = asyncio.Semaphore(2), 0

    async def one(calls: list[Call]) -> None:
        nonlocal tokens
        async with slots:
            answers = await asyncio.gather(*(model.send(model.payload(call)) for call in calls))
        tokens = sum(answer.input_tokens or 0 for answer in answers)

    pairs = [label(words, draw) for _ in range(labels)]
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, pairs))
    return (time.perf_counter() - wall) / labels, (time.process_time() - cpu) / labels, tokens


async def main(labels: int, rounds: int) -> None:
    draw = random.Random(0)
    best: dict[tuple[int, str], tuple[float, float]] = defaultdict(lambda: (1e9, 1e9))
    tokens: dict[int, int] = {}
    for _ in range(rounds):
        for way in WAYS:
            judge = Judge(way)
            await judge.start()
            await seconds(judge, 1, 50, draw)  # loads the engine that scores
            for words in SIZES:
                wall, cpu, tokens[words] = await seconds(judge, labels, words, draw)
                best[words, way] = min(best[words, way][0], wall), min(best[words, way][1], cpu)
            await judge.close()
    print(f"{judge.name}; {labels} labels a cell, best of {rounds}; seconds a label, CPU seconds in brackets\n")
    print(
        "| tokens of six prompts | " + " | ".join(WAYS) + " | off ÷ in turn | CPU, off ÷ in turn |\n" + "|---" * 6 + "|"
    )
    for words in SIZES:
        cells = " | ".join(f"{best[words, way][0]:.2f} ({best[words, way][1]:.2f})" for way in WAYS)
        off, turn = best[words, "off"], best[words, "in turn"]
        print(f"| {tokens[words]:,} | {cells} | {off[0] / turn[0]:.2f} | {off[1] / turn[1]:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.labels, arguments.rounds))
