"""What every suite of an evaluation is: why it cannot run, the runs that it takes, and the result of their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from cai.evaluation.arena.arena import Arena
from cai.evaluation.arena.figures import Result
from cai.runs.run import Run


class Suite(ABC):
    """One suite of an evaluation.

    name: in --suite and in folders. title: for people. default: whether it runs without being named.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    default: ClassVar[bool] = True

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def skipped(self) -> str | None:
        """Why it cannot run, for people to read; None: it can."""
        return None

    @abstractmethod
    def sessions(self) -> Iterator[Run[Any]]:
        """The runs that it takes, each to be played to its end before the next is asked for.

        Their folders are inside that of the evaluation. A session may read rows of those before it.
        """

    @abstractmethod
    def result(self) -> Result:
        """The figures, from the rows that there are."""
