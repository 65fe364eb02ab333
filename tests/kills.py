"""Runs that end as by `kill -9` between two of their own writes, each forked from one process: python tests/kills.py.

That process has imported cai. It reads a JSON object a line: the words of a command, or a function of Python with its
arguments and keywords, and where to die. It answers with the status of the run. The Python door prints the id of every
row as it gets it.
"""

from __future__ import annotations

import json
import linecache
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from kept import CODE, environment

from cai.folder.rows import Rows
from cai.folder.store import Store

# Where to die, by name: the function, and what its line at that place begins with. The lines before it have been run.
PLACES = {
    "before an answer is stored": ("Store.put", "with self._guard"),
    "before the calls are committed": ("Store._write", "self._db.commit()"),
    "between the calls and the lines": ("Store._write", "self.rows.write()"),
    "in the middle of a line": ("Rows.write", "if file.write(data)"),
    "between the lines and their sizes": ("Rows.write", "self._remember(name, file.tell())"),
    "between the lines and their states": ("Rows.write", "self._added.clear()"),
    "before a replaced file is in place": ("Rows.rewrite", "os.replace(part, path)"),
    "before a replaced file is known": ("Rows.rewrite", "self._remember(name, size)"),
}
OUTPUT = ("stdout.txt", "stderr.txt")  # of the last run, in the folder


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reaper:
    """Kills the process when it comes to a place for the nth time; lines count only if there are some to write."""

    def __init__(self, place: str, nth: int) -> None:
        self.function, self.line = PLACES[place]
        self.place, self.left = place, nth

    def watch(self) -> None:
        """Trace that function, and nothing else, which would take longer than the run."""
        owner, name = self.function.split(".")
        kind = {"Store": Store, "Rows": Rows}[owner]
        function = getattr(kind, name)

        def traced(*arguments: Any, **more: Any) -> Any:
            sys.settrace(self.enter)
            try:
                return function(*arguments, **more)
            finally:
                sys.settrace(None)

        setattr(kind, name, traced)

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.step if frame.f_code.co_qualname == self.function else None

    def step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self.is_there(frame):
            self.left -= 1
            if not self.left:
                if self.place == "in the middle of a line":
                    data = frame.f_locals["data"]
                    frame.f_locals["file"].write(data[: len(data) - 10])
                die()
        return self.step

    def is_there(self, frame: FrameType) -> bool:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if not line.startswith(self.line):
            return False
        writer = frame.f_locals["self"]
        return self.function == "Store.put" or bool(getattr(writer, "rows", writer)._added) or "replaced" in self.place


def play(run: Any, place: str | None, nth: int, bytes: int | None) -> None:
    """One run, in a process of its own; bytes: the most that it may write to a file."""
    for number, name in enumerate(OUTPUT, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))
    if place is not None:
        Reaper(place, nth).watch()
    if isinstance(run, list):
        from cai.cli.main import main as cai_main

        sys.argv = ["cai", *run]
        cai_main()
    else:
        import cai

        for row in getattr(cai, run["function"])(*run["arguments"], **run["keywords"]):
            print(row.id, flush=True)


def main() -> None:
    import rich.console  # noqa: F401

    from cai.cli.main import command
    from cai.models.remote import openai  # noqa: F401

    command()  # imports what every command needs
    for line in sys.stdin:
        runner = os.fork()
        if not runner:
            play(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]), flush=True)


Play = Callable[..., Ended]


@contextmanager
def playing(folder: Path) -> Iterator[Play]:
    """Plays runs in a folder, one after the other: what to run, and by name, where it ends."""
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(CODE)])}
    with subprocess.Popen(
        [sys.executable, __file__], cwd=folder, env=environment() | paths, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        yield partial(_play, process, folder)


def _play(
    process: subprocess.Popen[str],
    folder: Path,
    run: Any,
    *,
    place: str | None = None,
    nth: int = 1,
    bytes: int | None = None,
) -> Ended:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps({"run": run, "place": place, "nth": nth, "bytes": bytes}) + "\n")
    process.stdin.flush()
    status = int(process.stdout.readline())
    return Ended(status, *((folder / name).read_text() for name in OUTPUT))


if __name__ == "__main__":
    main()
