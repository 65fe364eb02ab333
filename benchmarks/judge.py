"""Labels a second and tokens a label: both orders under three principles, beside a judge that writes JSON in one order.

    python benchmarks/judge.py stub [--pairs 500]
    python benchmarks/judge.py embedded GOLD [--pairs 24]

`stub`: a server whose first word takes 100 ms and every further one 15 ms, C=50; the baseline is `asyncio.gather`
around `AsyncOpenAI`, and what its words say is not looked at. `embedded`: both judges on the embedded model, on pairs
of GOLD, a file that people have labelled. The JSON judge is the common way: it is asked for reasoning, a preference and
a confidence between 0 and 1, and its pair is kept when the JSON can be read and the confidence passes. How good
a judge is, it measures only by counting who is right.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import conditions, cpu_seconds, stub

from cai.calls.model import Call
from cai.models.inprocess.local import LocalModel
from cai.records import Contest, Request, Sampling
from cai.runs.kinds.label import LabelRun
from cai.runs.kinds.pairs import read_pairs
from cai.runs.kinds.settings import LabelSettings
from cai.sources.yamlfile import make_settings

WIDTH = 50  # calls in flight
JSON_TOKENS = 256
ASK = """Compare two replies to a conversation.

{prompt}

Reply A: {a}

Reply B: {b}

Principle: choose the reply that is more helpful, honest and harmless. Answer with one JSON object: {{"reasoning": why,
in two sentences, "preferred": "A" or "B", "confidence": a number from 0 to 1}}."""


@dataclass
class Result:
    """What one judge came to."""

    seconds: float
    cpu: float
    labels: int
    read: int  # labels that could be used
    kept: dict[float, int]  # by least confidence
    right: int  # of the usable ones, where people have said
    known: int
    given: int
    made: int

    def row(self, name: str) -> str:
        kept = " | ".join(
            f"{count}, {(self.given + self.made) / count:,.0f}" if count else "0, –" for count in self.kept.values()
        )
        tokens = f"{self.given / self.labels:,.0f} in, {self.made / self.labels:.0f} out"
        right = f"{self.right / self.known:.0%}" if self.known else "–"
        rate, cpu = self.labels / self.seconds, 1000 * self.cpu / self.labels
        return f"| {name} | {rate:.2f} | {cpu:.1f} | {tokens} | {self.read} of {self.labels} | {right} | {kept} |"


LEAST = (0.5, 0.7)


async def by_cai(source: Any, limit: int, folder: Path, **settings: Any) -> Result:
    """`cai label`, both orders under three principles."""
    given = {"constitution": "hhh", "limit": limit, "out": folder, **settings}
    run, rows = LabelRun(source, make_settings(LabelSettings, given)), []
    began, cpu = time.perf_counter(), cpu_seconds()
    async with aclosing(run.rows()) as labels:
        async for row in labels:
            rows.append(row)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    sure = [row for row in rows if row.confidence is not None]
    told = [row for row in sure if row.human is not None]
    return Result(
        seconds, cpu, len(rows), len(sure), {p: sum((row.confidence or 0) >= p for row in sure) for p in LEAST},
        sum(((row.p_a or 0) > 0.5) == (row.human == "a") for row in told), len(told),
        run.info["usage"]["input_tokens"], run.info["usage"]["output_tokens"],
    )  # fmt: skip


def question(contest: Contest) -> str:
    prompt = "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in contest.messages)
    return ASK.format(prompt=prompt, a=contest.a, b=contest.b)


def verdict(text: str) -> tuple[str, float] | None:
    """What a JSON judge said; None where it cannot be read."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        said = json.loads(found[0]) if found else {}
        better, sure = str(said["preferred"]).strip(), float(said["confidence"])
    except (ValueError, LookupError, TypeError):
        return None
    return (better, sure) if better in ("A", "B") and 0 <= sure <= 1 else None


def judged(answers: list[tuple[Contest, str]], seconds: float, cpu: float, given: int, made: int) -> Result:
    verdicts = [(contest, verdict(text)) for contest, text in answers]
    usable = [(contest, said) for contest, said in verdicts if said is not None]
    told = [(contest, said) for contest, said in usable if contest.human is not None]
    return Result(
        seconds, cpu, len(answers), len(usable), {p: sum(sure >= p for _, (_, sure) in usable) for p in LEAST},
        sum((better == "A") == (contest.human == "a") for contest, (better, _) in told), len(told), given, made,
    )  # fmt: skip


async def json_over_http(contests: list[Contest], url: str) -> Result:
    """The common way: one order, a page of JSON."""
    from openai import AsyncOpenAI

    slots, tokens = asyncio.Semaphore(WIDTH), [0, 0]
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=20) as client:

        async def ask(contest: Contest) -> tuple[Contest, str]:
            async with slots:
                done = await client.chat.completions.create(
                    model="stub", messages=[{"role": "user", "content": question(contest)}], max_tokens=JSON_TOKENS
                )
            assert done.usage is not None
            tokens[0] += done.usage.prompt_tokens
            tokens[1] += done.usage.completion_tokens
            return contest, done.choices[0].message.content or ""

        began, cpu = time.perf_counter(), cpu_seconds()
        answers = await asyncio.gather(*map(ask, contests))
        return judged(answers, time.perf_counter() - began, cpu_seconds() - cpu, *tokens)


async def json_embedded(contests: list[Contest]) -> Result:
    """The same on the embedded model."""
    model = LocalModel("")
    await model.start()

    async def ask(contest: Contest) -> tuple[Contest, Any]:
        request = Request("judge", ({"role": "user", "content": question(contest)},))
        call = Call(request, contest.id, 0, 0, Sampling(0.0, JSON_TOKENS))
        return contest, await model.send(model.payload(call))

    began, cpu = time.perf_counter(), cpu_seconds()
    done = await asyncio.gather(*map(ask, contests))
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    await model.close()
    given, made = (sum(getattr(answer, name) for _, answer in done) for name in ("input_tokens", "output_tokens"))
    return judged([(contest, answer.text) for contest, answer in done], seconds, cpu, given, made)


def made_up(count: int) -> list[dict[str, str]]:
    """Pairs of about 120 words."""
    words = ["river", "bread", "answer", "quiet", "window", "honest", "paper", "seven", "light", "kind"]
    texts = (" ".join(words[(i * 7 + j * j) % 10] for j in range(40)) for i in itertools.count())
    return [
        {"prompt": f"{i}: {next(texts)}", "chosen": f"{i} {next(texts)}", "rejected": next(texts)} for i in range(count)
    ]


async def main(arguments: argparse.Namespace) -> None:
    conditions()
    kept = " | ".join(f"kept at {p}, tokens each" for p in LEAST)
    print(f"\n| judge | labels/s | CPU ms | tokens a label | usable | right | {kept} |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "stub":
            pairs = made_up(arguments.pairs)
            contests = [item for _, item in read_pairs(pairs) if isinstance(item, Contest)]
            with stub("--latency", "0.1", "--per-word", "0.015", "--words", "100") as server:
                given = {"judge": "openai:stub", "base_url": server.url + "/v1", "concurrency": WIDTH}
                ours = await by_cai(pairs, len(pairs), Path(folder) / "a", **given)
                print(ours.row("cai label, logprob, 6 calls"))
                print((await json_over_http(contests, server.url)).row("JSON, one order, AsyncOpenAI"))
            return
        found = (item for _, item in read_pairs(arguments.gold) if isinstance(item, Contest))
        contests = list(itertools.islice(found, arguments.pairs))
        ours = await by_cai(arguments.gold, arguments.pairs, Path(folder) / "b", judge="local")
        print(ours.row("cai label, score, 6 calls"))
        print((await json_embedded(contests)).row("JSON, one order"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("stub").add_argument("--pairs", type=int, default=500)
    embedded = commands.add_parser("embedded")
    embedded.add_argument("gold")
    embedded.add_argument("--pairs", type=int, default=24)
    asyncio.run(main(parser.parse_args()))
