"""What the benchmark scripts share: the stub server as a process, child processes that are measured, and tables.

The machine is shared with others, so every figure is repeated and the contestants
take turns; `Times` keeps the best, which noise only makes worse, and the median.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import ProxyHandler, build_opener

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Server:
    """A running stub server."""

    url: str  # http://127.0.0.1:PORT

    def stats(self) -> dict[str, Any]:
        with build_opener(ProxyHandler({})).open(self.url + "/stats", timeout=10) as reply:
            stats: dict[str, Any] = json.load(reply)
        return stats


@contextmanager
def stub(*arguments: str) -> Iterator[Server]:
    """Run stub.py with these arguments."""
    with subprocess.Popen([sys.executable, HERE / "stub.py", *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 30)
            port = process.stdout.readline().strip() if ready else ""
            if not port.isdigit():
                raise SystemExit("the stub server did not start")
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def child(script: str, task: dict[str, Any]) -> Any:
    """Run `script --child TASK` in a fresh process, on this checkout, and read the JSON of its last line."""
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, script, "--child", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def cpu_seconds() -> float:
    """CPU of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@dataclass
class Times:
    """Repeats of one measurement, of which less is better."""

    values: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        return min(self.values)

    def show(self, digits: int, unit: str) -> str:
        """The best and, in brackets, the median."""
        return f"{self.best:.{digits}f} {unit} ({median(self.values):.{digits}f})"


def table(rows: Iterable[Sequence[str]]) -> None:
    """Print the rows of a Markdown table, all with the same columns."""
    print("\n| what | budget | cai | baseline | baseline ÷ cai |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def conditions() -> None:
    """Print what the figures were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{date.today()}, commit {commit or 'unknown'}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load average before {load}; best of the repeats, median in brackets",
        flush=True,
    )
