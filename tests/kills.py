"""A run that ends as by `kill -9` at a place between its own writes: python tests/kills.py PLACE NTH DOOR …

DOOR is `cli` with the words of a command, or `python` with a JSON object: the function, its arguments, its keywords.
The Python door prints the id of every row as it gets it.
"""

from __future__ import annotations

import json
import linecache
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from kept import CODE, environment

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


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reaper:
    """Kills the process when it comes to a place for the nth time; lines count only if there are some to write."""

    def __init__(self, place: str, nth: int) -> None:
        self.function, self.line = PLACES[place]
        self.place, self.left = place, nth

    def watch(self, frame: FrameType, event: str, argument: Any) -> Any:
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


def main() -> None:
    place, nth, door, *words = sys.argv[1:]
    if place != "nowhere":
        reaper = Reaper(place, int(nth))
        threading.settrace(reaper.watch)
        sys.settrace(reaper.watch)
    if door == "cli":
        from cai.cli.main import main as command

        sys.argv = ["cai", *words]
        command()
    else:
        import cai

        call = json.loads(words[0])
        for row in getattr(cai, call["function"])(*call["arguments"], **call["keywords"]):
            print(row.id, flush=True)


def start(place: str, nth: int, door: str, words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start such a process in a folder."""
    here = str(Path(__file__).parent)
    paths = {"PYTHONPATH": os.pathsep.join([here, str(CODE)])}
    command = [sys.executable, __file__, place, str(nth), door, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment() | paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


if __name__ == "__main__":
    main()
