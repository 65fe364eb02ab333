"""A run that ends as by `kill -9` between two of its own writes."""

from __future__ import annotations

import inspect
import linecache
import os
import signal
import sys
from types import FrameType
from typing import Any

from cai.folder.journal.rows import Rows
from cai.folder.journal.store import Store

# Where to die, by name: the function, and what its line at that place begins with. The lines before it have been run.
PLACES = {
    "before an answer is stored": ("Store.put", "with self._guard"),
    "before the calls are committed": ("Store._write", "self._db.commit()"),
    "between the calls and the lines": ("Store._write", "self.rows.write()"),
    "in the middle of a line": ("Rows.write", "append_whole(file"),
    "between the lines and their sizes": ("Rows.write", "self._remember(name, file.tell())"),
    "between the lines and their states": ("Rows.write", "self._added.clear()"),
    "before a replaced file is in place": ("Rows.rewrite", "os.replace(part, path)"),
    "before a replaced file is known": ("Rows.rewrite", "self._remember(name, size)"),
}
# Where a run that has grown comes to if its inputs have moved.
OF_MOVES = {
    "before the journal knows where replaced lines are": ("Rows.rewrite_all", "change()"),
    "before any replaced file is in place": ("Rows.rewrite_all", "self.put_in_place()"),
    "between two replaced files": ("Rows.put_in_place", 'self._db.execute("DELETE FROM files'),
    "before replaced files are known to be in place": ("Rows.put_in_place", "self._db.commit()"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reaper:
    """Kills the process when it comes to a place for the nth time; lines count only if there are some to write."""

    def __init__(self, place: str, nth: int) -> None:
        self.function, self.line = (PLACES | OF_MOVES)[place]
        self.place, self.left = place, nth

    def watch(self) -> None:
        """Trace that function, and nothing else, which would take longer than the run."""
        kind, name, function = self.place_in_code()

        def traced(*arguments: Any, **more: Any) -> Any:
            sys.settrace(self.enter)
            try:
                return function(*arguments, **more)
            finally:
                sys.settrace(None)

        setattr(kind, name, traced)

    def place_in_code(self) -> tuple[type, str, Any]:
        """The class and name of the function, and itself; LookupError if it has no such line any more."""
        owner, name = self.function.split(".")
        kind = {"Store": Store, "Rows": Rows}[owner]
        function = getattr(kind, name)
        if not any(line.strip().startswith(self.line) for line in inspect.getsource(function).splitlines()):
            raise LookupError(f"{self.function} has no line that begins with {self.line!r}: where is {self.place}?")
        return kind, name, function

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.step if frame.f_code.co_qualname == self.function else None

    def step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self.is_there(frame):
            self.left -= 1
            if not self.left:
                if self.place == "in the middle of a line":
                    data = b"".join(frame.f_locals["lines"])
                    frame.f_locals["file"].write(data[: len(data) - 10])
                die()
        return self.step

    def is_there(self, frame: FrameType) -> bool:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if not line.startswith(self.line):
            return False
        writer = frame.f_locals["self"]
        return self.function == "Store.put" or bool(getattr(writer, "rows", writer)._added) or "replaced" in self.place
