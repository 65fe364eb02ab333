"""How long the viewer takes over a run of many rows: until they are there, for pages and searches; and its memory.

    python benchmarks/view.py [--rows 100000]

`cai view` runs as a process of its own, and is asked as its page asks. With playwright and a Chromium of the system
(`apt-get install chromium-headless-shell`, `pip install playwright`) the page is opened while the run is indexed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from _common import HERE, Times, conditions, table
from report import LAW, chromium

REPEATS = 9
SYLLABLES = ("ra", "li", "mon", "te", "sku", "bel", "or", "an", "vi", "dro", "pas", "ket", "um", "fe", "zin", "gal")
RARE = "marker"  # with its number, in one row each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    conditions()
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(Path(scratch) / "run", count)
        size = (run / "revisions.jsonl").stat().st_size
        print(f"{count:,} chains of {size / count / 1e3:.1f} KB")
        with viewer(run) as running:
            table([*each, "–", "–"] for each in figures(running, count))
        if find_spec("playwright"):
            with viewer(run) as running:
                table([*each, "–", "–"] for each in in_chromium(running, count))


def make_run(folder: Path, count: int) -> Path:
    """A generate run of chains with two rounds, of words as rare as in a language; one in nine is not in sft.jsonl.

    Its texts are pieces of one long text, since drawing every word takes minutes.
    """
    draw = random.Random(0)
    vocabulary = sorted({"".join(draw.choices(SYLLABLES, k=draw.randint(1, 5))) for _ in range(40_000)}, key=len)
    ranks = [1 / rank for rank in range(1, len(vocabulary) + 1)]  # Zipf's law
    story = " ".join(draw.choices(vocabulary, ranks, k=1_000_000))

    def text(length: int) -> str:
        start = draw.randrange(len(story) - length)
        return story[start : start + length]

    folder.mkdir()
    models = dict.fromkeys(("assistant", "critic", "reviser"), "openai:small")
    identity = {"command": "generate", "constitution": LAW, "models": models, "seed": 0}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity}))
    with open(folder / "revisions.jsonl", "wb") as rows, open(folder / "dropped.jsonl", "wb") as dropped:
        for at in range(count):
            texts = [text(480) for _ in range(3)]
            rounds = [
                {"principle": f"principle-{draw.randrange(16)}", "critique": text(220), "verdict": "revise",
                 "p_revise": 0.9, "revision": after, "changed": True}
                for after in texts[1:]
            ]  # fmt: skip
            row = {
                "schema": 1, "id": f"r{at}", "position": at,
                "prompt": [{"role": "user", "content": f"{text(120)} {RARE}{at}"}], "initial": texts[0],
                "rounds": rounds, "final": texts[2], "constitution": LAW, "templates": "7e57", "models": models,
                "seed": 0, "usage": {}, "calls": ["00" * 16] * 5,
            }  # fmt: skip
            rows.write(orjson.dumps(row) + b"\n")
            if at % 9 == 0:
                drop = {"id": f"r{at}", "position": at, "stage": "sft", "reason": "echo", "detail": ""}
                dropped.write(orjson.dumps(drop) + b"\n")
    return folder


class Viewer:
    """A running `cai view`."""

    def __init__(self, process: subprocess.Popen[str], began: float) -> None:
        assert process.stdout is not None
        self.began = began
        self.address = process.stdout.readline().strip()
        self._process = process
        self._connection = http.client.HTTPConnection(urlsplit(self.address).netloc)
        self._headers = {"X-Cai-Token": urlsplit(self.address).fragment}

    def ask(self, question: str, **values: Any) -> Any:
        """A question of the page."""
        self._connection.request("POST", f"/api/{question}", json.dumps(values), self._headers)
        return json.loads(self._connection.getresponse().read())

    def age(self) -> float:
        """Seconds since the command was typed."""
        return time.perf_counter() - self.began

    def memory(self) -> float:
        """The most memory that it took so far, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e3


@contextmanager
def viewer(run: Path) -> Iterator[Viewer]:
    """A `cai view` of a run on this checkout."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "cai", "view", str(run)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=HERE.parent
    ) as process:
        try:
            yield Viewer(process, began)
        finally:
            process.terminate()


def figures(running: Viewer, count: int) -> Iterator[tuple[str, str, str]]:
    """What was measured, its budget, and the figure."""
    while len(running.ask("rows", source=0)["rows"]) < 40:
        time.sleep(0.01)
    yield "the command until it has given 40 rows", "≤ 1.5 s", f"{running.age():.2f} s"
    pages = Times()
    while read(running) < 1:
        start = time.perf_counter()
        running.ask("rows", source=0)
        pages.values.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.1)
    yield "… until every row is in the index", "≤ 8 s", f"{running.age():.1f} s"
    yield "a page of 40 while it is made", "≤ 20 ms", pages.show(1, "ms")
    searched = Times()
    while (state := running.ask("state")["sources"][0])["searchable"] < count:
        start = time.perf_counter()
        running.ask("rows", source=0, start=count // 2)
        searched.values.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.2)
    yield "… until every word is", "–", f"{running.age():.1f} s"
    yield "a page of 40 while they are", "≤ 20 ms", searched.show(1, "ms")
    assert state["facets"]["status"] == {"kept": count - -(-count // 9), "left out of a file": -(-count // 9)}
    asked: dict[tuple[str, str], dict[str, Any]] = {
        ("a page of 40", "≤ 20 ms"): {},
        (f"jump to row {count * 9 // 10:,}", "≤ 0.5 s"): {"start": count * 9 // 10},
        ("a page of one principle", "≤ 20 ms"): {"facets": {"principle": "principle-3"}, "start": 5_000},
        ("a page of two filters", "≤ 20 ms"): {
            "facets": {"principle": "principle-3", "status": "kept"},
            "start": 5_000,
        },
        ("search for a word of one row", "≤ 50 ms"): {"words": f"{RARE}{count // 3}"},
        ("… of nearly all rows", "≤ 50 ms"): {"words": "ra"},
        ("… for three words", "≤ 50 ms"): {"words": "ra teli skubel"},
        ("… for the start of a word", "≤ 50 ms"): {"words": f"{RARE}{count // 300}*"},
        ("… for a word and a principle", "≤ 50 ms"): {"words": "bel", "facets": {"principle": "principle-3"}},
    }
    for (what, budget), values in asked.items():
        yield what, budget, timed(lambda values=values: running.ask("rows", source=0, **values)).show(1, "ms")
    yield "memory, at most", "≤ 150 MB", f"{running.memory():.0f} MB"


def read(running: Viewer) -> float:
    """The share of the run that is read."""
    done, size = running.ask("state")["sources"][0]["bytes"]
    return float(done / size)


def timed(ask: Callable[[], Any]) -> Times:
    """Milliseconds of a question."""
    times = Times()
    for _ in range(REPEATS):
        start = time.perf_counter()
        ask()
        times.values.append((time.perf_counter() - start) * 1e3)
    return times


def in_chromium(running: Viewer, count: int) -> Iterator[tuple[str, str, str]]:
    """The same, as somebody sees it."""
    with chromium() as browser:
        tab = browser.new_page()
        start = time.perf_counter()
        tab.goto(running.address)
        tab.locator("#list .line .badge").first.wait_for()
        yield "Chromium: first rows after the address is opened", "≤ 1.5 s", f"{time.perf_counter() - start:.2f} s"
        while read(running) < 1:
            time.sleep(0.1)
        tab.get_by_text(f"{count:,} rows").first.wait_for()
        start = time.perf_counter()
        tab.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight * 0.9; }")
        tab.locator(f"#list .line[aria-posinset='{count * 9 // 10}'] .badge").first.wait_for()
        yield f"Chromium: jump to row {count * 9 // 10:,}", "≤ 0.5 s", f"{time.perf_counter() - start:.2f} s"


if __name__ == "__main__":
    main()
