"""The file of rated replies: a line each, with its reward, the votes it follows from, and the keys of their calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from cai.disk.reading import check_files
from cai.disk.writing import append_whole, unwritable
from cai.errors import RunError
from cai.records import Message
from cai.rewards.reward import Rated

FILE = "rewards.jsonl"


class Completions:
    """The lines of a folder; a reply that a resumed training rates again keeps its one line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._ids: set[str] | None = None  # of the lines that are there, once it is known

    def add(self, id: str, by: str, prompt: Sequence[Message], reply: str, rated: Rated) -> None:
        """Write a line unless it is there; by: the name of the reward. RunError if it cannot be written."""
        if self._ids is None:
            self._ids = set(self._read())
        if id in self._ids:
            return
        values = {"id": id, "by": by, "prompt": prompt, "reply": reply, **asdict(rated)}
        line = orjson.dumps(values, default=plain, option=orjson.OPT_APPEND_NEWLINE)
        try:
            with open(self.path, "ab", buffering=0) as file:
                append_whole(file, line)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._ids.add(id)

    def _read(self) -> Iterator[str]:
        """The ids of the lines that are there; what a kill has left of a last line is removed."""
        check_files(self.path.parent, [self.path.name])
        if not self.path.exists():
            return
        whole = 0
        with open(self.path, "r+b") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield self._id_of(line, number)
            file.truncate(whole)

    def _id_of(self, line: bytes, number: int) -> str:
        try:
            return str(orjson.loads(line)["id"])
        except (ValueError, LookupError, TypeError):
            raise RunError(
                f"{self.path}: line {number} is damaged: delete that line, and use the same command"
            ) from None


def plain(value: object) -> object:
    """A record as an object; TypeError for anything else."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is no record")
    return dump()
