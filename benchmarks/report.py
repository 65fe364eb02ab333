"""How long a report takes: to write it about a run of many rows, and to open it in Chromium. No model is asked.

    python benchmarks/report.py [--rows 100000]
    python benchmarks/report.py --page report.html --picture report.png [--dark] [--width 1200] [--height 1350]

The second takes a picture of a report. Both open pages with playwright and a Chromium of the system, which is found by
its name (`apt-get install chromium-headless-shell`, `pip install playwright`).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import conditions, table

import cai

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WORDS = ("river", "bread", "answer", "quiet", "window", "honest", "paper", "seven", "light", "kind", "stone", "field")
LAW = {"name": "kind", "version": "1.0.0", "hash": "c0ffee"}
OPEN_BUDGET, BYTES_BUDGET = 2.0, 8e6  # seconds, bytes
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1_200)
    parser.add_argument("--height", type=int, default=1_350)
    arguments = parser.parse_args()
    if arguments.page:
        size = {"width": arguments.width, "height": arguments.height}
        opened(arguments.page, picture=arguments.picture, viewport=size, dark=arguments.dark)
        return
    conditions()
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(Path(scratch) / "run", arguments.rows)
        start = time.perf_counter()
        summary = cai.make_report(run, Path(scratch) / "report.html")
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = (run / "revisions.jsonl").stat().st_size / 1e6
        best = min(opened(summary.out) for _ in range(REPEATS))
    shown = summary.sections[0].shown
    rows = [
        [
            f"a report about {arguments.rows:,} rows of {size:,.0f} MB",
            "–",
            f"{seconds:.1f} s, {memory:.0f} MB of memory",
        ],
        ["its size", f"≤ {BYTES_BUDGET / 1e6:.0f} MB", f"{summary.bytes / 1e6:.1f} MB"],
        [f"opening it with {shown:,} rows, best of {REPEATS}", f"≤ {OPEN_BUDGET:.0f} s", f"{best:.2f} s"],
    ]
    table([*row, "–", "–"] for row in rows)


def make_run(folder: Path, count: int) -> Path:
    """A generate run with two rounds in every row, of about 4 KB each; one in nine is left out of sft.jsonl."""
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    folder.mkdir()
    models = dict.fromkeys(("assistant", "critic", "reviser"), "openai:small")
    identity = {"command": "generate", "constitution": LAW, "models": models, "seed": 0}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity}))
    with open(folder / "revisions.jsonl", "w") as rows, open(folder / "dropped.jsonl", "w") as dropped:
        for at in range(count):
            texts = [text(110) for _ in range(3)]
            rounds = [
                {"principle": draw.choice(WORDS), "critique": text(60), "verdict": "revise", "revision": after,
                 "changed": True}
                for after in texts[1:]
            ]  # fmt: skip
            row = {
                "schema": 1, "id": f"r{at}", "position": at, "prompt": [{"role": "user", "content": text(20)}],
                "initial": texts[0], "rounds": rounds, "final": texts[2], "constitution": LAW, "templates": "7e57",
                "models": models, "seed": 0, "usage": {}, "calls": [],
            }  # fmt: skip
            rows.write(json.dumps(row) + "\n")
            if at % 9 == 0:
                drop = {"id": f"r{at}", "position": at, "stage": "sft", "reason": draw.choice(WORDS), "detail": ""}
                dropped.write(json.dumps(drop) + "\n")
    return folder


def opened(page: Path, picture: Path | None = None, viewport: Any = None, dark: bool = False) -> float:
    """Seconds until the rows of a page are there; takes a picture of its top if one is wanted."""
    with chromium() as browser:
        context = browser.new_context(
            viewport=viewport, color_scheme="dark" if dark else "light", device_scale_factor=2 if picture else 1
        )
        tab = context.new_page()
        start = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        if tab.locator(".browser").count():
            tab.locator(".browser .row").first.wait_for()
        seconds = time.perf_counter() - start
        if picture:
            tab.screenshot(path=picture)
    return seconds


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium of the system."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit("needs Chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


if __name__ == "__main__":
    main()
