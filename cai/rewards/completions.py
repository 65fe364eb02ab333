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
    """The lines of a folder. A reply that a resumed training rates again keeps its line if it gets the same reward;
    else it has several, of which the last counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._rewards: dict[str, float | None] | None = None  # of the lines that are there, by id, once it is known

    def add(self, id: str, by: str, rater: str, prompt: Sequence[Message], reply: str, rated: Rated) -> None:
        """Write a line unless it is there; by: the name of the reward. RunError if it cannot be written.

        rater: who rated, how and under what, for people to read.
        """
        known = self.known()
        if id in known and known[id] == rated.reward:
            return
        values = {"id": id, "by": by, "rater": rater, "prompt": prompt, "reply": reply, **asdict(rated)}
        line = orjson.dumps(values, default=plain, option=orjson.OPT_APPEND_NEWLINE)
        try:
            with open(self.path, "ab", buffering=0) as file:
                append_whole(file, line)
        except OSError as error:
            raise unwritable(self.path, error) from error
        known[id] = rated.reward

    def known(self) -> dict[str, float | None]:
        """The rewards in the file by id; RunError for a line that is damaged."""
        if self._rewards is None:
            self._rewards = dict(self._read())
        return self._rewards

    def _read(self) -> Iterator[tuple[str, float | None]]:
        """Ids and rewards of the lines that are there; what a kill has left of a last line is removed."""
        check_files(self.path.parent, [self.path.name])
        if not self.path.exists():
            return
        whole = 0
        with open(self.path, "r+b") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield self._rated_in(line, number)
            file.truncate(whole)

    def _rated_in(self, line: bytes, number: int) -> tuple[str, float | None]:
        try:
            values = orjson.loads(line)
            return str(values["id"]), values["reward"]
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
